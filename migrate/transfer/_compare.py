"""A claim that holds its disk already is compared with the source, byte for byte."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from migrate.journal import Step
from migrate.model import Evidence, PlannedDisk, Refused
from migrate.target.live import ClusterTarget
from migrate.transfer._bytes import Opened
from migrate.transfer._claims import Unverifiable, name_of, read_back, there
from migrate.transfer._copy import copy

Progress = Callable[[str, int, int], None]


def compare(
    method: str, opened: Opened, disk: PlannedDisk, cluster: ClusterTarget, step: Step, progress: Progress | None
) -> Evidence:
    """The evidence that a claim holds what the source does; a Mismatch where it does not."""
    if disk.bytes is None or opened.size != disk.bytes + -disk.bytes % 512:
        raise Refused(f"{disk.path} has {opened.size} bytes and the plan says {disk.bytes}: plan again")
    claim = there(cluster, disk)
    started = time.monotonic()
    told = None if progress is None else partial(progress, "read")
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
        method=method,
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


class _Nowhere:
    """Takes what is read for its digests alone."""

    def write(self, offset: int, data: memoryview) -> None:
        """Keeps nothing."""

    def flush(self) -> None:
        """Nothing is to be made durable."""
