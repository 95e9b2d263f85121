"""A plan as it is read again: its VMs with their verdicts and disks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from migrate import inventory as inventories
from migrate.model import VM, PlannedDisk, Refused, Verdict
from migrate.selection import Selection

PLAN, SCHEMA = "plan.json", 1


@dataclass(slots=True)
class Planned:
    """One VM of a plan on disk."""

    vm: VM
    verdict: Verdict
    disks: list[PlannedDisk]


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
