"""The command line: one short function a command, which parses, calls and prints.

Everything heavy is imported by the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import itertools
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from migrate import __version__, acting
from migrate.data import read_text
from migrate.model import Mismatch, Refused, Unfinished
from migrate.terminal import (
    BUG,
    FINDINGS,
    INTERRUPTED,
    MISMATCH,
    REFUSED,
    UNFINISHED,
    ascii_only,
    directory,
    echo,
    fields,
    folder,
    note,
    output,
    planned_for,
    prepare,
    print_json,
    progress,
    say,
    selected,
    selection,
    show,
)

if TYPE_CHECKING:
    from migrate.decisions import Site
    from migrate.inventory import Inventory
    from migrate.model import VM, Skipped
    from migrate.reporting import Summary
    from migrate.selection import Selection

NEWEST = "1.9"

site_file = click.option(
    "--site", type=folder, metavar="FILE", help="The site file: namespace, storage, networks, devices."
)
rules_folder = click.option(
    "--rules", type=folder, multiple=True, metavar="DIR", help="A folder with further rule files."
)
kubevirt = click.option(
    "--kubevirt",
    metavar="VERSION",
    show_default="the cluster's with its gates, else 1.9",
    help="The KubeVirt to plan for.",
)
feature_gates = click.option("--feature-gates", default="", metavar="+A,-B", help="Feature gates switched on and off.")
fail_on = click.option(
    "--fail-on",
    type=click.Choice(["note", "warning", "blocker", "never"]),
    default="blocker",
    show_default=True,
    help="Exit with 1 where a finding of this severity or above stands.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kubevirt-migrate")
def cli() -> None:
    """Moves virtual machines from libvirt, oVirt and OpenStack to KubeVirt and accounts for every attribute.

    The way: collect reads a source, plan translates and reports (and touches nothing), apply copies the disks and
    proves every byte, verify checks again.
    """


@cli.command("list")
@click.argument("source")
@click.argument("urls", nargs=-1)
@selection
@output
def list_(source: str, urls: tuple[str, ...], select: Any, exclude: Any, output: str) -> None:
    """What is there: name, uuid, state, disks and sizes. SOURCE is libvirt or files."""
    from migrate import sources
    from migrate.model import Skipped

    found = list(sources.collect(source, urls, selected(select, exclude)))
    vms = [item for item in found if not isinstance(item, Skipped)]
    skipped = [item for item in found if isinstance(item, Skipped)]
    if output == "json":
        print_json({"vms": [_listed(vm) for vm in vms], "skipped": [fields(item) for item in skipped]})
    elif found:
        _print_list(vms)
        _tell_skipped(skipped)
    else:
        note("there is no such VM" if select or exclude else "there are no VMs")
    sys.exit(FINDINGS if skipped else 0)


@cli.command()
@click.argument("source")
@click.argument("urls", nargs=-1)
@click.option(
    "-d", "--dir", "dir_", type=folder, required=True, metavar="DIR", help="The inventory folder; a second source adds."
)
@rules_folder
@selection
@output
def collect(
    source: str, urls: tuple[str, ...], dir_: Path, rules: tuple[Path, ...], select: Any, exclude: Any, output: str
) -> None:
    """Read VMs into an inventory folder; nothing is changed at the source. SOURCE is libvirt or files."""
    from migrate import pipeline
    from migrate.mapping.rule_files import load

    inventory = pipeline.collect(source, urls, selected(select, exclude), load(*rules), dir_)
    if output == "json":
        print_json(
            {"vms": [_listed(vm) for vm in inventory.vms], "skipped": [fields(item) for item in inventory.skipped]}
        )
    else:
        count = len(inventory.vms)
        skipped = f", {len(inventory.skipped)} skipped" if inventory.skipped else ""
        say(f"{count} VM{'' if count == 1 else 's'} in {dir_}{skipped}")
        _tell_skipped(inventory.skipped)
    sys.exit(FINDINGS if inventory.skipped else 0)


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=folder, metavar="INVENTORY | XML...")
@click.option("-d", "--dir", "dir_", type=folder, required=True, metavar="DIR", help="The plan folder.")
@site_file
@rules_folder
@kubevirt
@feature_gates
@planned_for
@click.option("--dry-run", type=click.Choice(["server"]), help="Ask the cluster's API server about each VM and claim.")
@selection
@fail_on
@output
def plan(
    paths: tuple[Path, ...], dir_: Path, fail_on: str, select: Any, exclude: Any, output: str, **options: Any
) -> None:
    """Translate and report; copies nothing. Takes an inventory folder, or XML files and folders of them."""
    summary = _plan(paths, dir_, selected(select, exclude), **options)
    _show(summary, dir_, output)
    sys.exit(BUG if summary.internal else FINDINGS if summary.reaches(fail_on) else 0)


@cli.command()
@click.argument("paths", nargs=-1, type=folder, metavar="[INVENTORY | XML...]")
@click.option("-o", "--output", type=folder, metavar="FILE", help="Write to a new file and not to stdout.")
@click.option(
    "--csv", "as_csv", is_flag=True, help="The `vms` part as a table, a row a VM, with what --site has of it."
)
@click.option("--from-csv", "table", type=folder, metavar="FILE", help="Turn such a table into the `vms` part.")
@site_file
@rules_folder
@selection
def site(
    paths: tuple[Path, ...],
    output: Path | None,
    as_csv: bool,
    table: Path | None,
    site: Path | None,
    rules: tuple[Path, ...],
    select: Any,
    exclude: Any,
) -> None:
    """Write a first site file, with a comment for every pool, network and device that the VMs mention."""
    from migrate import drafting, pipeline
    from migrate import site as sites
    from migrate.mapping.rule_files import load

    if bool(table) == bool(paths) or (table and (as_csv or site)) or (site and not as_csv):
        raise click.UsageError("Give an inventory or XML files, with --csv also a --site; or --from-csv alone.")
    if table:
        text = drafting.from_table(_text(table), str(table))
    else:
        inventory = pipeline.opened(paths, selected(select, exclude))
        known = (sites.parse(sites.load(site).text, str(site)).get("vms") or {}) if site else {}
        text = drafting.table(inventory, known) if as_csv else drafting.draft(inventory, load(*rules))
    if output:
        _write_new(output, text)
    else:
        echo(text, nl=False)


def _text(path: Path) -> str:
    # Spreadsheets begin their files with a byte order mark.
    return read_text(path, "give a table that `site --csv` wrote, saved as UTF-8", "utf-8-sig")


def _write_new(path: Path, text: str) -> None:
    """Writes a file that is not there yet, at once and whole."""
    import os
    from contextlib import suppress

    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)
    except FileExistsError:
        raise Refused(f"{path}: is there already; give a new file with -o") from None
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; give a file that can be written with -o") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@cli.command("what-if")
@click.argument("plan", type=folder)
@click.option("--kubevirt", metavar="VERSION", help="Another KubeVirt; the plan's own without it.")
@click.option("--feature-gates", default="", metavar="+A,-B", help="Feature gates switched beside those of the plan.")
@rules_folder
@selection
@output
def what_if(
    plan: Path,
    kubevirt: str | None,
    feature_gates: str,
    rules: tuple[Path, ...],
    select: Any,
    exclude: Any,
    output: str,
) -> None:
    """Which VMs of a plan change their verdict on another KubeVirt, and why. The plan stays as it is."""
    from datetime import date

    from migrate import whatif
    from migrate.mapping.rule_files import load

    answer = whatif.ask(plan, kubevirt, feature_gates, load(*rules), selected(select, exclude), date.today())
    if output == "json":
        print_json(whatif.document(answer))
    else:
        say(whatif.text(answer))
        _tell_skipped(answer.skipped)
    sys.exit(FINDINGS if answer.skipped else 0)


@cli.command()
@click.argument("plan", type=folder)
@click.argument("vm")
@click.argument("path", required=False)
@output
def explain(plan: Path, vm: str, path: str | None, output: str) -> None:
    """What became of a leaf of the source, or where a field of the target comes from, and why.

    Without PATH: every finding of the VM, the worst first, and what to do.
    """
    from migrate import explaining

    found = explaining.explain(plan, vm, path)
    if output == "json":
        print_json(found)
    else:
        say(explaining.text(found))


@cli.command()
@click.argument("id", required=False)
@rules_folder
@output
def rules(id: str | None, rules: tuple[Path, ...], output: str) -> None:
    """The list of the rules, or one rule's page."""
    from migrate import pages
    from migrate.mapping.rule_files import load

    known = load(*rules)
    if id is None:
        rows = [
            {"id": rule.id, "file": rule.file, "owns": rule.accounts_for, "form": rule.form}
            for rule in known.rules.values()
        ]
        if output == "json":
            print_json(rows)
        else:
            say("\n".join(f"{row['id']:<32} {', '.join(row['owns'])[:90]}" for row in rows))
    elif output == "json":
        print_json(pages.rule(known, id))
    else:
        say(pages.page(known, id).rstrip())


@cli.command()
@click.argument("source")
@click.argument("urls", nargs=-1)
@click.option(
    "-d", "--dir", "dir_", type=folder, default=Path("migration"), show_default=True, help="Inventory and plan go here."
)
@directory
@site_file
@rules_folder
@kubevirt
@feature_gates
@selection
@output
def run(
    source: str,
    urls: tuple[str, ...],
    dir_: Path,
    directory: Path | None,
    select: Any,
    exclude: Any,
    output: str,
    **options: Any,
) -> None:
    """The one-shot: collect, plan, apply and verify. Stops before the copy at blockers; run again to resume."""
    from migrate import pipeline, sources
    from migrate.mapping.rule_files import load
    from migrate.model import VM
    from migrate.selection import Selection

    if not directory:
        raise click.UsageError("Give --directory OUT; to carry a plan out in a cluster use collect, plan and apply.")
    chosen, target = selected(select, exclude), acting.target_of(directory)
    meant = {item.id for item in sources.collect(source, urls, chosen) if isinstance(item, VM)}
    plans, new, left = _begun(dir_, meant)
    if left or not plans:
        plans.append(new)
        pipeline.collect(source, urls, chosen, load(*options["rules"]), dir_ / "inventory")
        summary = _plan((dir_ / "inventory",), new, Selection.of(left) if left else chosen, **options)
        _show(summary, new, "text" if output == "text" else "none")
        stopped = summary.internal or summary.reaches("blocker")
        if output == "json" and stopped:
            print_json({"plan": str(new), "copied": [], "verified": []})
        if summary.internal:
            sys.exit(BUG)
        if stopped:
            raise Stopped(f"nothing was copied; read {new}/report.json, mend the blockers and run again")
    copied, verified = [], []
    for planned in plans:
        copied += acting.carry_out(planned, target, Selection.of(meant), output)
    for planned in [] if acting.worst(copied) else plans:
        verified += acting.verified(planned, target, Selection.of(meant), output)
    if output == "json":
        documents = {"copied": list(map(acting.document, copied)), "verified": list(map(acting.document, verified))}
        print_json({"plan": str(plans[-1]), **documents})
    sys.exit(acting.worst([*copied, *verified]))


def _begun(folder: Path, meant: set[str]) -> tuple[list[Path], Path, set[str]]:
    """The plans that have begun and have a VM that is meant, the place for a new one, and who is in none."""
    from migrate.journal import NAME as JOURNAL
    from migrate.planned import planned
    from migrate.selection import Selection

    found, plan, left = [], folder / "plan", set(meant)
    for number in itertools.count(2):
        if not (plan / JOURNAL).exists():
            return found, plan, left
        there = {row.vm.id for row in planned(plan, Selection())}
        found += [plan] if there & meant else []
        left -= there
        plan = folder / f"plan-{number}"
    raise AssertionError


class Stopped(Exception):
    """Blockers stand before the copy. The command ends with exit code 1."""


def _plan(
    paths: tuple[Path, ...],
    dir_: Path,
    meant: Selection,
    site: Path | None,
    rules: tuple[Path, ...],
    kubevirt: str | None,
    feature_gates: str,
    context: str | None = None,
    kubeconfig: Path | None = None,
    namespace: str | None = None,
    dry_run: str | None = None,
) -> Summary:
    from datetime import date

    from migrate import pipeline, reporting
    from migrate import site as sites
    from migrate.mapping import rule_files
    from migrate.spread import cores
    from migrate.target import vocabulary

    chosen = sites.load(site) if site else sites.Site()
    chosen = sites.moved(chosen, namespace) if namespace else chosen
    there = ask = None
    if context or kubeconfig or dry_run:
        from dataclasses import replace

        from migrate.target import api
        from migrate.target import cluster as clusters

        client = api.connect(context, kubeconfig)
        there = replace(clusters.read(client, chosen.namespace), uploads=clusters.uploads(client))
        ask = partial(api.refusal, client) if dry_run else None
    named = kubevirt or (None if there else NEWEST)
    target = vocabulary.target(named, feature_gates) if named else there.target(feature_gates)
    known = rule_files.load(*rules)
    sites.check_waivers(chosen, known)
    inventory = pipeline.opened(paths, meant)
    if inventory.vms and not meant.narrows:
        _tell_unmet(chosen, inventory)
    with progress("planning", len(inventory.vms)) as step:
        planning = pipeline.Planning(inventory, known, target, chosen, date.today(), there, ask)

        def rows(folder: Path) -> Iterator[Any]:
            return map(step, pipeline.each(planning, partial(reporting.write_vm, folder), cores()))

        return reporting.write_rows(dir_, rows, target, chosen.text)


def _tell_unmet(site: Site, inventory: Inventory) -> None:
    """A line on stderr for each key of the site file that is for a single VM which is not there."""
    names = {item.name for item in (*inventory.vms, *inventory.skipped)}
    unmet = site.unmet(names, {vm.uuid.lower() for vm in inventory.vms})
    for key in unmet[:SKIPPED_SHOWN]:
        note(f"site file: {key}: fits no VM here; `kubevirt-migrate list` shows names and uuids")
    if len(unmet) > SKIPPED_SHOWN:
        note(f"... and {len(unmet) - SKIPPED_SHOWN} more keys of the site file fit no VM")


def _show(summary: Summary, dir_: Path, output: str) -> None:
    from migrate import reporting

    if output == "json":
        with open(dir_ / "report.json", encoding="utf-8") as lines:
            for line in lines:
                echo(ascii_only(line), nl=False)
    elif output == "text":
        if summary.rows or summary.skipped:
            show(reporting.table(summary))
        shown = min(reporting.ROWS_SHOWN, len(summary.rows) + len(summary.skipped))
        more = len(summary.rows) + len(summary.skipped) - shown
        if more:
            say(f"... and {more} more")
        if summary.blockers:
            say(f"\n{reporting.blockers(summary)}\n")
        say(f"{reporting.totals(summary)}; the whole report is {dir_}/report.json")
        _tell_skipped(summary.skipped)
    for waiver in summary.ended.values():
        note(f"waiver ended on {waiver.until}, its findings count again: {waiver.reason}")
    for name in summary.internal:
        note(f"{name}: a rule failed, which is our bug; see finding `internal` in report.json")


def _listed(vm: VM) -> dict[str, Any]:
    row = fields(vm)
    del row["xml"], row["live"]
    return row


def _print_list(vms: list[VM]) -> None:
    from rich.table import Table
    from rich.text import Text

    from migrate.mapping.paths import printable
    from migrate.target.quantity import human

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("NAME", overflow="fold")
    table.add_column("UUID", no_wrap=True)
    table.add_column("STATE")
    for name in ("DISKS", "SIZE", "ALLOCATED"):
        table.add_column(name, justify="right", no_wrap=True)
    for vm in vms:
        sizes = [disk.capacity for disk in vm.disks if disk.capacity is not None]
        used = [disk.allocation for disk in vm.disks if disk.allocation is not None]
        state = (
            vm.state
            + (", managed save" if vm.managed_save else "")
            + _counted("snapshot", vm.snapshots)
            + _counted("checkpoint", vm.checkpoints)
        )
        numbers = (str(len(vm.disks) or ""), human(sum(sizes)) if sizes else "?", human(sum(used)) if used else "?")
        table.add_row(Text(printable(vm.name)), vm.uuid, state, *numbers)
    show(table, fold=False)


def _counted(what: str, items: list[str]) -> str:
    return f", {len(items)} {what}{'' if len(items) == 1 else 's'}" if items else ""


def _tell_skipped(items: Sequence[Skipped]) -> None:
    """A line on stderr for each that could not be read, which names it once; the first ones of very many."""
    for item in items[:SKIPPED_SHOWN]:
        note("skipped " + (item.reason if item.reason.startswith(item.name) else f"{item.name}: {item.reason}"))
    if len(items) > SKIPPED_SHOWN:
        note(f"... and {len(items) - SKIPPED_SHOWN} more were skipped; -o json has them all")


SKIPPED_SHOWN = 50


for command in (acting.apply, acting.verify, acting.status, acting.diff, acting.undo):
    cli.add_command(command)


def main() -> None:
    """Runs the command and turns its end into an exit code."""
    prepare()
    sys.exit(_status())


def _status() -> int:
    try:
        return cli.main(prog_name="kubevirt-migrate", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return REFUSED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except (click.exceptions.Abort, KeyboardInterrupt):
        note("interrupted; nothing half-done looks done, run the same command again to go on")
        return INTERRUPTED
    except (Stopped, Refused, Unfinished, Mismatch) as end:
        codes = {Stopped: FINDINGS, Refused: REFUSED, Unfinished: UNFINISHED, Mismatch: MISMATCH}
        note(f"kubevirt-migrate: {end}")
        return codes[type(end)]
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            note(f"kubevirt-migrate: {error.strerror}, for the output or a temporary file; make room and run again")
            return REFUSED
        import traceback

        traceback.print_exc()
        note(f"kubevirt-migrate: this is our bug, report it with the lines above: {type(error).__name__}: {error}")
        return BUG
