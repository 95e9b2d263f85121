"""Method `lun`: the LUN itself is handed over by a volume that is bound to the claim, and nothing is copied.

Where the source can be read here the two are compared, so that it is known to be the same LUN.
"""

from __future__ import annotations

from collections.abc import Callable

from migrate.journal import Step
from migrate.model import Evidence, Mismatch, PlannedDisk, Refused
from migrate.target import live
from migrate.target.live import ClusterTarget
from migrate.transfer import _claims
from migrate.transfer._bytes import Opened
from migrate.transfer._claims import check, manifest, name_of, present, there
from migrate.transfer._compare import compare

__all__ = ["OPENS", "TARGET", "check", "discard", "move", "present", "unfit"]

TARGET, OPENS = ClusterTarget, None
VOLUME = "PersistentVolume"
UNKNOWN = "the LUN cannot be read from here, so that nobody has seen that the volume is the same one"

Progress = Callable[[str, int, int], None]


def unfit(disk: PlannedDisk, cluster: ClusterTarget | None) -> str | None:
    """Why this method cannot serve a disk, None where it can."""
    if disk.volume is None:
        return "the disk is no LUN of which `luns` in the site file says how nodes reach it"
    if disk.bytes is None:
        return "the size of the disk is unknown; give it under `sizes` in the site file"
    return None


def move(
    opened: Opened | None, disk: PlannedDisk, cluster: ClusterTarget, step: Step, progress: Progress | None = None
) -> Evidence:
    """Binds the claim to the LUN's volume; `progress` gets "read" and the bytes of the source that were read.

    A Mismatch takes both back, for the volume leads to another LUN.
    """
    volume = cluster.claims.get(("", disk.volume or ""))
    if volume is None:
        raise Refused(f"the plan has no manifest of the volume {disk.volume}: plan again")
    live.make(cluster, step.journal, step.vm, volume)
    live.make(cluster, step.journal, step.vm, manifest(cluster, disk))
    claim = cluster.wait(lambda: _bound(disk, cluster), lambda: f"claim {name_of(disk)} is not bound to {disk.volume}")
    if opened is not None:
        try:
            return compare("lun", opened, disk, cluster, step, progress)
        except Mismatch as problem:
            discard(disk, cluster, step, str(problem))
            raise Mismatch(f"{problem}: {disk.volume} is another LUN; correct `luns` and plan again") from None
    return Evidence(
        vm=step.vm,
        disk=disk.name,
        namespace=disk.namespace,
        claim=disk.claim,
        method="lun",
        bytes=disk.bytes or 0,
        data=0,
        source="",
        read_back="",
        copy_seconds=0.0,
        read_back_seconds=0.0,
        check=cluster.check_command(step.plan),
        uid=claim["metadata"]["uid"],
        unverified=UNKNOWN,
    )


def discard(disk: PlannedDisk, cluster: ClusterTarget, step: Step, reason: str) -> None:
    """Voids a step and removes the claim and the volume, where they are the plan's; the LUN stays as it is."""
    _claims.discard(disk, cluster, step, reason)
    made = step.journal.made(cluster.name, (VOLUME, "", disk.volume or ""))
    if made:
        live.remove(cluster, step.journal, made)


def _bound(disk: PlannedDisk, cluster: ClusterTarget) -> live.Object | None:
    claim = there(cluster, disk)
    return claim if (claim.get("status") or {}).get("phase") == "Bound" else None
