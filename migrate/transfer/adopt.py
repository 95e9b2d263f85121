"""Method `adopt`: a claim that somebody filled already is compared with the source, and nothing is sent."""

from __future__ import annotations

import time
from collections.abc import Callable

from migrate.journal import Step
from migrate.model import Evidence, PlannedDisk, Refused
from migrate.target.live import ClusterTarget, label
from migrate.transfer._bytes import Opened
from migrate.transfer._claims import CLAIM, Unverifiable, check, name_of, present, read_back, there
from migrate.transfer._copy import copy

__all__ = ["OPENS", "TARGET", "check", "discard", "move", "present", "unfit"]

TARGET, OPENS = ClusterTarget, True

Progress = Callable[[str, int], None]


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
    if disk.bytes is None or opened.size != disk.bytes + -disk.bytes % 512:
        raise Refused(f"{disk.path} has {opened.size} bytes and the plan says {disk.bytes}: plan again")
    claim = there(cluster, disk)
    started = time.monotonic()
    told = None if progress is None else lambda count: progress("read", count)
    source = copy(
        opened.uri, _Nowhere(), done=step.done, on_chunks=step.record, throttle=opened.throttle, progress=told
    )
    read = time.monotonic()
    root = unverified = ""
    try:
        found = read_back(cluster, disk, opened.size)
    except Unverifiable as reason:
        unverified = str(reason)
    else:
        root = found.root or ""
        if problem := found.problem(name_of(disk), source):
            step.void(str(problem))
            raise problem
    opened.check()
    return Evidence(
        vm=step.vm,
        disk=disk.name,
        namespace=disk.namespace,
        claim=disk.claim,
        method="adopt",
        bytes=opened.size,
        data=source.data,
        source=source.root,
        read_back=root,
        copy_seconds=round(read - started, 3),
        read_back_seconds=round(time.monotonic() - read, 3),
        check=cluster.check_command(step.plan),
        uid=claim["metadata"]["uid"],
        unverified=unverified,
    )


def discard(disk: PlannedDisk, cluster: ClusterTarget, step: Step, reason: str) -> None:
    """Voids a step; the claim stays, for it is not ours."""
    step.void(reason)


class _Nowhere:
    """Takes what is read for its digests alone."""

    def write(self, offset: int, data: memoryview) -> None:
        """Keeps nothing."""

    def flush(self) -> None:
        """Nothing is to be made durable."""
