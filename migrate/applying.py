"""The only part that acts: carries a plan out, goes on where an earlier run ended, and checks again what arrived."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from migrate import inventory as inventories
from migrate import journal as journals
from migrate import sources, transfer
from migrate.model import VM, Evidence, Mismatch, PlannedDisk, Refused, Unfinished, Verdict
from migrate.selection import Selection

if TYPE_CHECKING:
    from migrate.journal import Journal
    from migrate.transfer.file import DirectoryTarget

PLAN, SCHEMA = "plan.json", 1


@dataclass(slots=True)
class Planned:
    """One VM of a plan on disk."""

    vm: VM
    verdict: Verdict
    disks: list[PlannedDisk]


@dataclass(slots=True)
class Outcome:
    """What became of one disk: the evidence, or why there is none. A blocked VM has no disk and a reason."""

    vm: str
    disk: str | None = None
    evidence: Evidence | None = None
    problem: Exception | None = None
    earlier: bool = False


class Blocked(Exception):
    """What the plan rules out is left out."""


def planned(folder: Path, select: Selection) -> list[Planned]:
    """The selected VMs of a plan folder. Raises Refused where it is none, or was edited into nonsense."""
    try:
        document = json.loads((folder / PLAN).read_text("utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"it is not of schema {SCHEMA}")
        rows = [_row(row) for row in document["vms"]]
        folders = [row.vm.folder for row in rows]
        if len(set(folders)) < len(folders) or not all(map(inventories.LABEL.fullmatch, folders)):
            raise ValueError("a folder is no DNS label, or is there twice")
    except OSError as error:
        raise Refused(f"{folder / PLAN}: {error.strerror}; give a folder that `plan` wrote") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"{folder / PLAN}: is no plan ({str(error).partition(';')[0]}); plan again") from None
    wanted = [row for row in rows if select.wants(row.vm)]
    if rows and not wanted:
        raise Refused(f"{folder}: not one VM of this plan fits --select and --exclude; plan others into another folder")
    return wanted


def _row(row: dict[str, Any]) -> Planned:
    if row["verdict"] not in get_args(Verdict):
        raise ValueError(f"{row['verdict']!r} is no verdict")
    disks = [inventories.record(PlannedDisk, disk, "disk") for disk in row["disks"]]
    return Planned(inventories.record(VM, row["vm"], "vm"), row["verdict"], disks)


def apply(
    folder: Path, cluster: DirectoryTarget, select: Selection, progress: Callable[[PlannedDisk, str, int], None]
) -> Iterator[Outcome]:
    """Copies the disks of a plan's VMs that are not blocked, one outcome a disk; the journal lets a later run go on.

    What stops one VM does not stop the others. `progress` gets the disk, "copy" or "read back", and
    the bytes dealt with so far.
    """
    rows = planned(folder, select)
    path = folder / journals.NAME
    with journals.opened(path) as journal:
        arrived = journals.arrived(path, cluster.name)
        for row in rows:
            if row.verdict == "blocked":
                yield Outcome(row.vm.folder, problem=Blocked("is blocked by the plan and left out; see report.json"))
                continue
            for outcome in _apply_vm(row, cluster, journal, arrived, progress):
                if outcome.evidence:
                    arrived[outcome.evidence.namespace, outcome.evidence.claim] = outcome.evidence
                yield outcome


def _apply_vm(
    row: Planned,
    cluster: DirectoryTarget,
    journal: Journal,
    arrived: dict[tuple[str, str], Evidence],
    progress: Callable[[PlannedDisk, str, int], None],
) -> Iterator[Outcome]:
    """A claim that several VMs share has arrived for all of them once it has for one."""
    source, name = sources.source(row.vm.kind), row.vm.folder
    left = []
    for disk in row.disks:
        evidence = arrived.get((disk.namespace, disk.claim))
        if evidence and transfer.method(disk.method).present(disk, cluster, evidence):
            yield Outcome(name, disk.name, evidence, earlier=True)
        elif reason := disk.unfit or source.unfit(row.vm, disk):
            yield Outcome(name, disk.name, problem=Blocked(reason))
        else:
            left.append(disk)
    if not left:
        return
    try:
        with source.hold(row.vm) as check:
            for disk in left:
                yield _move(row.vm, disk, check, cluster, journal, progress)
    except (Refused, Unfinished) as problem:
        yield Outcome(name, None, problem=problem)


def _move(
    vm: VM,
    disk: PlannedDisk,
    check: Callable[[], None],
    cluster: DirectoryTarget,
    journal: Journal,
    progress: Callable[[PlannedDisk, str, int], None],
) -> Outcome:
    try:
        with sources.source(vm.kind).open(vm, disk) as opened:
            opened.checks.append(check)
            step = journal.step(vm.folder, disk.name, cluster.name, opened.stamp)
            evidence = transfer.method(disk.method).move(
                opened, disk, cluster, step, lambda phase, count: progress(disk, phase, count)
            )
            step.end(evidence)
            return Outcome(vm.folder, disk.name, evidence)
    except (Refused, Unfinished, Mismatch) as problem:
        return Outcome(vm.folder, disk.name, problem=problem)


def verify(folder: Path, cluster: DirectoryTarget, select: Selection) -> Iterator[Outcome]:
    """Reads every claim of a plan's VMs again and compares it with the evidence of its copy."""
    rows = planned(folder, select)
    journal = folder / journals.NAME
    known = journals.arrived(journal, cluster.name)
    for row in rows:
        for disk in row.disks if row.verdict != "blocked" else ():
            evidence = known.get((disk.namespace, disk.claim))
            if evidence is None:
                yield Outcome(row.vm.folder, disk.name, problem=Unfinished("was not copied yet; run `apply`"))
                continue
            sent = journals.digests(journal, evidence.vm, evidence.disk, cluster.name)
            problem = transfer.method(disk.method).check(disk, cluster, evidence, sent)
            yield Outcome(row.vm.folder, disk.name, evidence, problem)
