"""Method `adopt`: a claim that somebody filled already is compared with the source, and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable

from migrate.journal import Step
from migrate.model import Evidence, PlannedDisk
from migrate.target.live import ClusterTarget, label
from migrate.transfer._bytes import Opened
from migrate.transfer._claims import CLAIM, check, name_of, present
from migrate.transfer._compare import compare

__all__ = ["OPENS", "TARGET", "check", "discard", "move", "present", "unfit"]

TARGET, OPENS = ClusterTarget, True

Progress = Callable[[str, int, int], None]


def unfit(disk: PlannedDisk, cluster: ClusterTarget | None) -> str | None:
    """Why this method cannot serve a disk, None where it can."""
    if disk.path is None:
        return "the disk has no file or device that can be read here"
    if disk.bytes is None:
        return "the size of the disk is unknown; give it under `sizes` in the site file"
    found = cluster and cluster.get(CLAIM, disk.namespace, disk.claim)
    if cluster and (found is None or label(found)):
        return f"there is no claim {name_of(disk)} that others filled: fill it, or name another method in the site file"
    return None


def move(
    opened: Opened, disk: PlannedDisk, cluster: ClusterTarget, step: Step, progress: Progress | None = None
) -> Evidence:
    """Compares the claim with the source; a Mismatch leaves it as it is, for it is not ours."""
    return compare("adopt", opened, disk, cluster, step, progress)


def discard(disk: PlannedDisk, cluster: ClusterTarget, step: Step, reason: str) -> None:
    """Voids a step; the claim stays, for it is not ours."""
    step.void(reason)
