"""The commands that act on a plan or say how it stands: apply, verify, status, diff and undo."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from migrate.model import Mismatch, Refused, Unfinished
from migrate.terminal import (
    FINDINGS,
    MISMATCH,
    REFUSED,
    UNFINISHED,
    Bars,
    Command,
    Events,
    carried_to,
    directory,
    fields,
    folder,
    note,
    output,
    print_json,
    say,
    selected,
    selection,
    show,
)

if TYPE_CHECKING:
    from migrate.applying import Outcome, Target
    from migrate.selection import Selection
    from migrate.target.live import ClusterTarget
    from migrate.undoing import Removal

worker_image = click.option(
    "--worker-image", metavar="IMAGE", help="The image of Containerfile, for the Jobs that read claims back."
)


def target_options(command: Command) -> Command:
    """The options that say where a plan is carried out: a folder or a cluster."""
    return directory(carried_to(worker_image(command)))


@click.command()
@click.argument("plan", type=folder)
@target_options
@click.option("--uploadproxy-url", metavar="URL", help="CDI's upload proxy. [default: what CDI says]")
@click.option("--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Disks copied at a time.")
@click.option("--bandwidth", metavar="RATE", help="Bytes a second, such as 200MiB, of all and of each source.")
@click.option(
    "--dry-run", type=click.Choice(["client", "server"]), help="Only say what would be done, or ask the cluster."
)
@click.option("--accept-unverified", is_flag=True, help="Make VMs also where nothing can read their claims back.")
@selection
@output
def apply(
    plan: Path,
    dry_run: str | None,
    jobs: int,
    bandwidth: str | None,
    accept_unverified: bool,
    select: Any,
    exclude: Any,
    output: str,
    namespace: str | None,
    **where: Any,
) -> None:
    """Carry a plan out: copy its disks, read them back, keep the proof, and in a cluster make the VMs, halted.

    A second run goes on where the first ended. With -o json progress is lines of JSON on stderr.
    """
    target, chosen, rate = target_of(**where, namespace=namespace), selected(select, exclude), _rate(bandwidth)
    if dry_run == "server" and where["directory"]:
        raise click.UsageError("--dry-run=server goes with --context; a folder has nobody to ask.")
    if dry_run:
        outcomes = _rehearsed(plan, target, chosen, output, dry_run == "server", namespace)
    else:
        given = {"jobs": jobs, "bandwidth": rate, "accept_unverified": accept_unverified}
        outcomes = carry_out(plan, target, chosen, output, namespace=namespace, **given)
    if output == "json":
        print_json(list(map(document, outcomes)))
    sys.exit(worst(outcomes))


@click.command()
@click.argument("plan", type=folder)
@target_options
@selection
@output
def verify(plan: Path, select: Any, exclude: Any, output: str, namespace: str | None, **where: Any) -> None:
    """Read the claims again and compare them with the evidence of the copy."""
    outcomes = verified(plan, target_of(**where, namespace=namespace), selected(select, exclude), output, namespace)
    if output == "json":
        print_json(list(map(document, outcomes)))
    sys.exit(worst(outcomes))


@click.command()
@click.argument("plan", type=folder)
@selection
@output
def status(plan: Path, select: Any, exclude: Any, output: str) -> None:
    """How far a plan has been carried out, from its journal; no cluster is asked."""
    from migrate import standing

    rows = standing.status(plan, selected(select, exclude))
    if output == "json":
        print_json(rows)
    else:
        _print_status(rows)
    states = {row["state"] for row in rows}
    unfinished = states - {"done", "blocked"}
    sys.exit(UNFINISHED if unfinished else FINDINGS if "blocked" in states else 0)


@click.command()
@click.argument("plan", type=folder)
@carried_to
@selection
@output
def diff(
    plan: Path,
    context: str | None,
    kubeconfig: Path | None,
    namespace: str | None,
    select: Any,
    exclude: Any,
    output: str,
) -> None:
    """What differs between a plan's manifests and the cluster. Exit code 1 where something does."""
    from migrate import differing

    cluster = _cluster(context, kubeconfig, namespace)
    found = list(differing.differences(plan, cluster, selected(select, exclude), namespace))
    if output == "json":
        print_json([fields(each) for each in found])
    else:
        for each in found:
            what = "is not there" if each.path is None else f"{each.path}: {each.there!r} -> {each.planned!r}"
            say(f"{each.vm} {each.object}: {what}")
    sys.exit(FINDINGS if found else 0)


@click.command()
@click.argument("plan", type=folder)
@carried_to
@click.option("--yes", is_flag=True, help="Do not ask.")
@selection
@output
def undo(
    plan: Path,
    context: str | None,
    kubeconfig: Path | None,
    namespace: str | None,
    yes: bool,
    select: Any,
    exclude: Any,
    output: str,
) -> None:
    """Remove from the cluster what `apply` made there and nothing else; never a claim whose VM may have run."""
    from migrate import undoing

    if output == "json" and not yes:
        raise Refused("nobody can be asked with -o json: give --yes, or leave -o out to see what would be removed")
    cluster, chosen = _cluster(context, kubeconfig, namespace), selected(select, exclude)
    found = undoing.removals(plan, cluster, chosen, namespace)
    if not found:
        note("nothing that this plan has made is known there")
    if not yes and _asks(found) and not click.confirm("Remove these?", err=True):
        note("nothing was removed")
        sys.exit(FINDINGS)
    done = []
    for removal in undoing.undo(plan, cluster, chosen, namespace):
        done.append(removal)
        if output == "text":
            _tell_removal(removal, "removed", note if removal.stays else say)
    if output == "json":
        print_json([fields(removal) for removal in done])
    sys.exit(FINDINGS if any(removal.stays for removal in done) else 0)


def _asks(found: list[Removal]) -> bool:
    """Shows what is to be removed, and whether there is anything to ask about."""
    for removal in found:
        _tell_removal(removal, "is removed", note)
    return any(removal.stays is None and not removal.gone for removal in found)


def _tell_removal(removal: Removal, done: str, tell: Callable[[str], None]) -> None:
    made = removal.made
    fate = f"stays: {removal.stays}" if removal.stays else "is gone already" if removal.gone else done
    tell(f"{made.vm}: {made.kind} {made.namespace}/{made.name} {fate}")


def target_of(
    directory: Path | None,
    context: str | None = None,
    kubeconfig: Path | None = None,
    namespace: str | None = None,
    worker_image: str | None = None,
    uploadproxy_url: str | None = None,
) -> Target:
    """The folder or the cluster that was named; a usage error for both or none."""
    from migrate.transfer.file import DirectoryTarget

    if bool(directory) == bool(context or kubeconfig):
        raise click.UsageError("Give either --directory OUT or --context NAME.")
    if directory:
        if namespace or worker_image or uploadproxy_url:
            raise click.UsageError(
                "-n, --worker-image and --uploadproxy-url go with --context; OUT has the namespaces that `plan` chose."
            )
        return DirectoryTarget(directory)
    cluster = _cluster(context, kubeconfig, namespace)
    cluster.worker_image, cluster.proxy_url = worker_image, uploadproxy_url
    return cluster


def _cluster(context: str | None, kubeconfig: Path | None, namespace: str | None) -> ClusterTarget:
    from migrate.target import api
    from migrate.target.live import ClusterTarget

    return ClusterTarget(api.connect(context, kubeconfig, namespace))


def _rate(text: str | None) -> int | None:
    from migrate.transfer._throttle import rate

    return rate(text) if text else None


def carry_out(plan: Path, target: Target, select: Selection, output: str, **options: Any) -> list[Outcome]:
    """Carries the plan out and tells each outcome."""
    from migrate import applying
    from migrate.planned import planned

    wanted = [row for row in planned(plan, select) if row.verdict != "blocked"]
    outcomes: list[Outcome] = []
    bars = Events() if output == "json" else Bars(sum(disk.bytes or 0 for row in wanted for disk in row.disks))
    try:
        for outcome in applying.apply(plan, target, select, bars.step, **options):
            bars.clear()
            outcomes.append(outcome)
            _tell(outcome, output)
    finally:
        bars.clear()
    return outcomes


def _rehearsed(
    plan: Path, target: Target, select: Selection, output: str, ask: bool, namespace: str | None
) -> list[Outcome]:
    from migrate import applying

    outcomes = list(applying.rehearse(plan, target, select, ask=ask, namespace=namespace))
    for outcome in outcomes if output == "text" else ():
        if outcome.problem:
            note(f"{_name(outcome)}: {outcome.problem}")
        elif outcome.made:
            say(f"{_name(outcome)}: would make {outcome.made}")
        else:
            say(f"{_name(outcome)}: {NO_DISKS}")
    return outcomes


def verified(plan: Path, target: Target, select: Selection, output: str, namespace: str | None = None) -> list[Outcome]:
    """Checks the claims of a plan and tells each outcome."""
    from migrate import applying

    outcomes = []
    for outcome in applying.verify(plan, target, select, namespace):
        outcomes.append(outcome)
        _tell(outcome, output, "verified")
    return outcomes


def _name(outcome: Outcome) -> str:
    return f"{outcome.vm} {outcome.disk}" if outcome.disk else outcome.vm


def _tell(outcome: Outcome, output: str, done: str = "copied and read back") -> None:
    """One line for an outcome: what arrived on stdout, what did not on stderr."""
    from migrate.target.quantity import human

    if output != "text":
        return
    if outcome.problem:
        note(f"{_name(outcome)}: {outcome.problem}")
    elif outcome.made:
        say(f"{_name(outcome)}: {outcome.made} {'is there already' if outcome.earlier else 'made'}")
    elif item := outcome.evidence:
        word = "there already, with evidence" if outcome.earlier else done
        word = f"UNVERIFIED, {item.unverified}" if item.unverified else word
        say(f"{_name(outcome)} -> {item.namespace}/{item.claim}: {human(item.bytes)}, {human(item.data)} data, {word}")
    elif outcome.disk is None:
        say(f"{_name(outcome)}: {NO_DISKS}")


NO_DISKS = "has no disks, so there is nothing to copy"


def document(outcome: Outcome) -> dict[str, Any]:
    """An outcome for -o json."""
    return {
        "vm": outcome.vm,
        "disk": outcome.disk,
        "evidence": fields(outcome.evidence) if outcome.evidence else None,
        "earlier": outcome.earlier,
        "made": outcome.made,
        "problem": str(outcome.problem) if outcome.problem else None,
    }


def worst(outcomes: list[Outcome]) -> int:
    """The exit code of several outcomes: a mismatch before what is unfinished before what was left out."""
    found = {_code(outcome.problem) for outcome in outcomes if outcome.problem}
    return next((code for code in (MISMATCH, UNFINISHED, REFUSED, FINDINGS) if code in found), 0)


def _code(problem: Exception) -> int:
    codes = {Mismatch: MISMATCH, Unfinished: UNFINISHED, Refused: REFUSED}
    return next((code for kind, code in codes.items() if isinstance(problem, kind)), FINDINGS)


def _print_status(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from migrate.target.quantity import human

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("VM", "STATE", "DISK", "CLAIM", "SIZE", "BYTES", "TARGET"):
        table.add_column(name, overflow="fold")
    for row in rows:
        first = [row["vm"], row["state"]]
        last = row["target"] or "not applied yet"
        for disk in row["disks"] or [None]:
            known = [disk["disk"], disk["claim"], human(disk["bytes"]), disk["state"]] if disk else [""] * 4
            table.add_row(*first, *known, last)
            first, last = ["", ""], ""
    show(table)
