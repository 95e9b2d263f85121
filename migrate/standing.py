"""How far a plan has been carried out, from its journal alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from migrate import journal as journals
from migrate.planned import Planned, planned
from migrate.selection import Selection

Row = dict[str, Any]


def status(folder: Path, select: Selection) -> list[Row]:
    """A row for each VM, target and namespace; of a plan that was never applied for each VM alone."""
    journal = folder / journals.NAME
    rows = planned(folder, select)
    return [row for target in journals.targets(journal) or [""] for row in _of_target(rows, target, journal)]


def _of_target(rows: list[Planned], target: str, journal: Path) -> list[Row]:
    evidence = journals.arrived(journal, target)
    begun = journals.begun(journal, target)
    made = [each for each in journals.objects(journal, target) if each.uid]
    found = []
    for row in rows:
        vm = row.vm.folder
        used = {place for name, _, place in begun if name == vm} | {each.namespace for each in made if each.vm == vm}
        planned_for = {disk.namespace for disk in row.disks}
        for namespace in sorted(used - {""}) or sorted(planned_for) or [""]:
            disks = []
            for disk in row.disks:
                proof = evidence.get((namespace, disk.claim))
                state = "waiting" if (vm, disk.name, namespace) not in begun else "begun"
                if proof:
                    state = "unverified" if proof.unverified else "verified"
                known = asdict(proof) if proof else None
                place = f"{namespace}/{disk.claim}"
                disks.append(
                    {"disk": disk.name, "claim": place, "bytes": disk.bytes, "state": state, "evidence": known}
                )
            own = [each for each in made if each.vm == vm and each.namespace in ("", namespace)]
            objects = [f"{each.kind} {each.namespace}/{each.name}" for each in own]
            state = "blocked" if row.verdict == "blocked" else _state(target, disks, objects)
            found.append({"vm": vm, "target": target or None, "state": state, "disks": disks, "objects": objects})
    return found


def _state(target: str, disks: list[Row], objects: list[str]) -> str:
    """One word for a VM that is not blocked: waiting, unfinished, unverified or done."""
    states = {disk["state"] for disk in disks}
    if "unverified" in states:
        return "unverified"
    folder = target.startswith("directory:")
    # In a folder a VM without disks has nothing to wait for.
    if states <= {"waiting"} and not objects and (states or not folder):
        return "waiting"
    whole = folder or any(name.startswith("VirtualMachine ") for name in objects)
    return "done" if whole and states <= {"verified"} else "unfinished"
