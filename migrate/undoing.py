"""Removes from a cluster what a plan made there, and nothing else; what may be in use stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from migrate import journal as journals
from migrate.journal import Journal, Made
from migrate.model import Refused
from migrate.planned import Planned, planned
from migrate.selection import Selection
from migrate.target import live
from migrate.target.live import ClusterTarget

VM = "VirtualMachine"
FILLED = ("PersistentVolumeClaim", "DataVolume", "PersistentVolume")
TAKEN = "it was made anew or taken over by others"


@dataclass(slots=True)
class Removal:
    """An object that the plan made; `stays` says why it is not removed, `gone` that somebody else has done so."""

    made: Made
    stays: str | None = None
    gone: bool = False


def removals(folder: Path, cluster: ClusterTarget, select: Selection) -> list[Removal]:
    """What the plan made in a cluster, the last first, with what of it has to stay."""
    wanted = {row.vm.folder for row in planned(folder, select)}
    sharing = _sharing(planned(folder, Selection()))
    made = journals.objects(folder / journals.NAME, cluster.name)
    ran = {each.vm: live.started(cluster, each.namespace, each.name) for each in made if each.kind == VM}
    found = [_removal(each, cluster) for each in reversed(made) if each.vm in wanted]
    for each in found:
        if each.stays is None and not each.gone:
            vms = sharing.get(each.made.name, []) if each.made.kind in FILLED else [each.made.vm]
            used = next((vm for vm in vms if ran.get(vm)), None)
            each.stays = used and f"the VM {used} may have written to its disks: {ran[used]}"
    return found


def _sharing(rows: list[Planned]) -> dict[str, list[str]]:
    """The VMs of each claim, and of each volume of a LUN."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for disk in row.disks:
            for name in filter(None, (disk.claim, disk.volume)):
                found.setdefault(name, []).append(row.vm.folder)
    return found


def _removal(made: Made, cluster: ClusterTarget) -> Removal:
    item = cluster.get(*made.key)
    if item is None:
        return Removal(made, gone=True)
    return Removal(made, stays=None if live.is_ours(item, made) else TAKEN)


def undo(folder: Path, cluster: ClusterTarget, select: Selection) -> Iterator[Removal]:
    """Removes what can be removed, the VMs before their claims, and records it; what stays is told too."""
    path = folder / journals.NAME
    with journals.opened(path) as journal:
        known = journals.arrived(path, cluster.name)
        for each in removals(folder, cluster, select):
            if each.stays is None:
                _remove(each, cluster, journal)
            evidence = known.get((each.made.namespace, each.made.name))
            if evidence and each.stays is None and each.made.kind in FILLED:
                journal.forget(cluster.name, evidence, "the claim was removed by `undo`")
            yield each


def _remove(removal: Removal, cluster: ClusterTarget, journal: Journal) -> None:
    try:
        if live.remove(cluster, journal, removal.made):
            removal.stays = TAKEN
    except Refused as refusal:
        removal.stays = str(refusal)
