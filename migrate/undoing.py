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
from migrate.target.live import ClusterTarget, Object
from migrate.transfer._claims import end, job_of

VM, CLAIM, VOLUME = "VirtualMachine", "PersistentVolumeClaim", "PersistentVolume"
INSTANCE = "VirtualMachineInstance"
FILLED = (CLAIM, "DataVolume", VOLUME)
TAKEN = "it was made anew or taken over by others"


@dataclass(slots=True)
class Removal:
    """An object that the plan made; `stays` says why it is not removed, `gone` that somebody else has done so."""

    made: Made
    stays: str | None = None
    gone: bool = False


def removals(folder: Path, cluster: ClusterTarget, select: Selection, namespace: str | None = None) -> list[Removal]:
    """What the plan made in a cluster, or in one namespace of it, the last first, with what of it has to stay."""
    wanted = {row.vm.folder for row in planned(folder, select)}
    sharing = _sharing(planned(folder, Selection()))
    made = journals.objects(folder / journals.NAME, cluster.name)
    ran = {(each.namespace, each.vm): _ran(each, cluster) for each in made if each.kind == VM}
    others = _others(cluster, made)
    found = []
    for each in reversed(made):
        if each.vm not in wanted:
            continue
        item = cluster.get(*each.key)
        place, claim = _claim(each, item)
        if namespace and place not in ("", namespace):
            continue
        removal = _removal(each, item)
        if removal.stays is None and not removal.gone:
            vms = sharing.get(each.name, []) if each.kind in FILLED else [each.vm]
            used = next((vm for vm in vms if ran.get((place, vm))), None)
            removal.stays = used and f"the VM {used} may have written to its disks: {ran[place, used]}"
            if each.kind in FILLED and (other := others.get((place, claim))):
                removal.stays = f"the VM {place}/{other} has it, which is not the work of this plan"
        found.append(removal)
    return found


def _ran(made: Made, cluster: ClusterTarget) -> str | None:
    """Why a VM has to be taken for one that has run, None where it certainly has not."""
    if made.again:
        return "it was removed once and made anew, so nobody knows whether it had run"
    if made.uid is None and not any(cluster.get(kind, made.namespace, made.name) for kind in (VM, INSTANCE)):
        return None  # The run that was about to make it was killed.
    return live.started(cluster, made.namespace, made.name)


def _sharing(rows: list[Planned]) -> dict[str, list[str]]:
    """The VMs of each claim, and of each volume of a LUN."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for disk in row.disks:
            for name in filter(None, (disk.claim, disk.volume)):
                found.setdefault(name, []).append(row.vm.folder)
    return found


def _claim(made: Made, item: Object | None) -> tuple[str, str]:
    """Namespace and name of an object, of a volume those of its claim."""
    claim = ((item or {}).get("spec") or {}).get("claimRef") if made.kind == VOLUME else None
    return (claim["namespace"], claim["name"]) if claim else (made.namespace, made.name)


def _others(cluster: ClusterTarget, made: list[Made]) -> dict[tuple[str, str], str]:
    """The VMs that the plan did not make, by namespace and name of the claims that they have."""
    own = {each.key for each in made}
    found = {}
    for namespace in {each.namespace for each in made if each.kind in FILLED} - {""}:
        for vm in cluster.labelled(VM, namespace, {}):
            template = (vm.get("spec") or {}).get("template") or {}
            for volume in (template.get("spec") or {}).get("volumes") or [] if live.key_of(vm) not in own else []:
                for source, name in (("persistentVolumeClaim", "claimName"), ("dataVolume", "name")):
                    found[namespace, (volume.get(source) or {}).get(name)] = vm["metadata"]["name"]
    return found


def _removal(made: Made, item: Object | None) -> Removal:
    if item is None:
        return Removal(made, gone=True)
    return Removal(made, stays=None if live.is_ours(item, made) else TAKEN)


def undo(folder: Path, cluster: ClusterTarget, select: Selection, namespace: str | None = None) -> Iterator[Removal]:
    """Removes what can be removed, the VMs before their claims, and records it; what stays is told too."""
    path = folder / journals.NAME
    with journals.opened(path) as journal:
        known = journals.arrived(path, cluster.name)
        for each in removals(folder, cluster, select, namespace):
            if each.stays is None:
                _remove(each, cluster, journal)
            evidence = known.get((each.made.namespace, each.made.name))
            if evidence and each.stays is None and each.made.kind in FILLED:
                journal.forget(cluster.name, evidence, "the claim was removed by `undo`")
            yield each


def _remove(removal: Removal, cluster: ClusterTarget, journal: Journal) -> None:
    made = removal.made
    try:
        if made.kind in FILLED and made.kind != VOLUME:
            # A run that was killed leaves its Job, whose pod keeps the claim.
            end(cluster, job_of(made.namespace, made.name))
        if live.remove(cluster, journal, made):
            removal.stays = TAKEN
    except Refused as refusal:
        removal.stays = str(refusal)
