"""Method `file`: a disk into OUT/<namespace>/<claim>/disk.img, raw and sparse.

It is written under another name, made durable, read back from the storage, compared, and renamed last. Blocks that
read back wrong are sent again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shlex
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from mmap import mmap
from pathlib import Path

from migrate.journal import Step
from migrate.model import Evidence, Mismatch, PlannedDisk, Refused, Unfinished
from migrate.transfer._bytes import Opened
from migrate.transfer._copy import ALIGNMENT, copy, read_back, send_again
from migrate.transfer._digest import BLOCK, Tree

NAME, PARTIAL = "disk.img", ".disk.img.partial"
REPAIRS = 3  # times that blocks which read back wrong are sent again
_ZEROES = mmap(-1, BLOCK)  # where direct I/O can take them from
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_USE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EISDIR,
)
_HINTS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "move the folder to a file system that holds files of this size",
}

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class DirectoryTarget:
    """The embedded target: a folder that stands for a cluster, with a folder for each namespace and claim."""

    root: Path

    @property
    def name(self) -> str:
        """What the journal calls this target: the same for all ways to write the folder's path."""
        return f"directory:{os.path.realpath(self.root)}"


TARGET, OPENS = DirectoryTarget, True


def unfit(disk: PlannedDisk, cluster: DirectoryTarget | None) -> str | None:
    """Why this method cannot serve a disk, None where it can."""
    if disk.path is None:
        return "the disk has no file or device that can be read here"
    if not disk.path.startswith("/"):
        return (
            f"it is reached over the network ({disk.path!r}), and files and devices of the host alone are read; "
            "attach it to the host as a block device (rbd map, iscsiadm, nbd-client) and put that in its place"
        )
    if disk.bytes is None:
        return "the size of the disk is unknown; give it under `sizes` in the site file"
    return None


def move(
    opened: Opened, disk: PlannedDisk, cluster: DirectoryTarget, step: Step, progress: Progress | None = None
) -> Evidence:
    """Copies a disk and proves it; `progress` gets "copy" or "read back" and the bytes dealt with.

    Raises Unfinished where running again goes on, Mismatch where the file keeps differing from the source, and Refused
    where a file is in place that this step did not write.
    """
    if disk.bytes is None or opened.size != disk.bytes + -disk.bytes % 512:
        raise Refused(f"{disk.path} has {opened.size} bytes and the plan says {disk.bytes}: plan again")
    with _folder(cluster, disk, make=True) as folder, _plain_errors(cluster, disk):
        _take_back(folder, cluster, disk, step)
        opened.check()
        with _partial(folder, step) as descriptor, _Sink.on(folder, descriptor) as sink:
            started = time.monotonic()
            os.ftruncate(descriptor, opened.size)
            sent = copy(
                opened.uri,
                sink,
                done=step.done,
                on_chunks=step.record,
                throttle=opened.throttle,
                progress=_part(progress, "copy"),
            )
            os.fsync(descriptor)
            copied = time.monotonic()
            sent, found, repaired = _read_and_repair(folder, descriptor, sink, opened, step, sent, progress)
            finished = time.monotonic()
            _prove(folder, opened, step, _place(cluster, disk), sent, found)
            step.place(_identity(os.fstat(descriptor)))
            os.rename(PARTIAL, NAME, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
    return Evidence(
        vm=step.vm,
        disk=disk.name,
        namespace=disk.namespace,
        claim=disk.claim,
        method="file",
        bytes=opened.size,
        data=sent.data,
        source=sent.root,
        read_back=found.root,
        copy_seconds=round(copied - started, 3),
        read_back_seconds=round(finished - copied, 3),
        check=shlex.join(["kubevirt-migrate", "verify", str(step.plan), "--directory", str(cluster.root)]),
        repaired=repaired,
    )


def check(
    disk: PlannedDisk, cluster: DirectoryTarget, evidence: Evidence, sent: dict[int, bytes] | None = None
) -> Mismatch | None:
    """What is wrong with a claim now, None where it still holds what the evidence says; it is read again whole.

    With the digests `sent` (journal.digests) the bad blocks are counted and the first is named.
    """
    place = _place(cluster, disk)
    if not present(disk, cluster, evidence):
        return Mismatch(f"{place} is missing or does not have {evidence.bytes} bytes: {ANEW}")
    with _folder(cluster, disk, make=False) as folder, _plain_errors(cluster, disk):
        found = _read(folder, NAME, evidence.bytes, None)
    if found.root == evidence.source:
        return None
    bad = Tree.of(evidence.bytes, sent).differences(found) if sent is not None else []
    return Mismatch(f"{_differs(place, bad)}: {ANEW}")


ANEW = "move what is there away and apply again"


def present(disk: PlannedDisk, cluster: DirectoryTarget, evidence: Evidence) -> bool:
    """Whether the claim's file is there and has the size; its bytes are not read."""
    try:
        with _folder(cluster, disk, make=False) as folder:
            entry = os.stat(NAME, dir_fd=folder, follow_symlinks=False)
    except (FileNotFoundError, Refused):
        return False
    return stat.S_ISREG(entry.st_mode) and entry.st_size == evidence.bytes


def discard(disk: PlannedDisk, cluster: DirectoryTarget, step: Step, reason: str) -> None:
    """Voids a step and removes what it wrote, in place or not."""
    with _folder(cluster, disk, make=False) as folder, _plain_errors(cluster, disk):
        _take_back(folder, cluster, disk, step)
        _void(folder, step, reason)


class _Sink:
    """The file, past the page cache where the file system can: less work, and nothing that only memory holds."""

    def __init__(self, plain: int, direct: int) -> None:
        self.plain, self.direct = plain, direct

    @classmethod
    @contextmanager
    def on(cls, folder: int, plain: int) -> Iterator[_Sink]:
        direct = _open_direct(folder, PARTIAL, os.O_WRONLY)
        try:
            yield cls(plain, direct)
        finally:
            os.close(direct)

    def write(self, offset: int, data: memoryview) -> None:
        whole = len(data) - len(data) % ALIGNMENT
        _write(self.direct, offset, data[:whole])
        _write(self.plain, offset + whole, data[whole:])

    def zero(self, offset: int, length: int) -> None:
        with memoryview(_ZEROES) as zeroes:
            self.write(offset, zeroes[:length])

    def flush(self) -> None:
        os.fdatasync(self.plain)


def _write(descriptor: int, offset: int, data: memoryview) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        offset, data = offset + count, data[count:]


def _open_direct(folder: int, name: str, flags: int) -> int:
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags | os.O_DIRECT, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system has no direct I/O (open(2))
            raise
        return os.open(name, flags, dir_fd=folder)


@contextmanager
def _folder(cluster: DirectoryTarget, disk: PlannedDisk, *, make: bool) -> Iterator[int]:
    """A descriptor of the claim's folder, reached without following a link below the root."""
    for label in (disk.namespace, disk.claim):
        if not _LABEL.fullmatch(label):
            raise Refused(f"{label!r} is not a DNS label: name the claim anew and plan again")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        if make:
            os.makedirs(cluster.root, exist_ok=True)
        folder = os.open(cluster.root, flags)
        for label in (disk.namespace, disk.claim):
            with _closing(folder):
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(label, dir_fd=folder)
                        os.fsync(folder)
                folder = os.open(label, flags | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError as error:
        if make:
            raise Refused(f"{cluster.root} cannot be made: {error.strerror}") from None
        raise
    except OSError as error:
        raise _plain(error, _place(cluster, disk).parent) from None
    with _closing(folder):
        yield folder


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _partial(folder: int, step: Step) -> Iterator[int]:
    """The unfinished file, locked; blocks done earlier do not count when it is gone."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(PARTIAL, flags, 0o600, dir_fd=folder)
    with _closing(descriptor):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("another apply writes this claim: wait for it to end") from None
        if step.done and not os.fstat(descriptor).st_size:
            step.void("the unfinished file is gone: the copy starts anew")
        if not step.done:
            os.ftruncate(descriptor, 0)
        yield descriptor


def _take_back(folder: int, cluster: DirectoryTarget, disk: PlannedDisk, step: Step) -> None:
    """A file that was put into place and not recorded as done is unfinished again; one of others is Refused."""
    try:
        entry = os.stat(NAME, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if step.placed != _identity(entry):
        raise Refused(f"{_place(cluster, disk)} is there and is not the work of this plan: move it away and run again")
    os.rename(NAME, PARTIAL, src_dir_fd=folder, dst_dir_fd=folder)


def _read_and_repair(
    folder: int, descriptor: int, sink: _Sink, opened: Opened, step: Step, sent: Tree, progress: Progress | None
) -> tuple[Tree, Tree, int]:
    """The trees sent and read back, and how many blocks were sent again until both were equal, or REPAIRS times."""
    found = _read(folder, PARTIAL, opened.size, progress)
    repaired: set[int] = set()
    for _ in range(REPAIRS):
        if found.root == sent.root:
            break
        bad = sent.differences(found)
        repaired.update(bad)
        os.ftruncate(descriptor, opened.size)
        sent = send_again(opened.uri, sink, sent, bad, on_chunks=step.record, throttle=opened.throttle)
        os.fsync(descriptor)
        found = _read(folder, PARTIAL, opened.size, progress)
    return sent, found, len(repaired)


def _prove(folder: int, opened: Opened, step: Step, place: Path, sent: Tree, found: Tree) -> None:
    """Voids the step unless the source stood still and the file has its bytes."""
    if sent.root != found.root:
        bad = sent.differences(found)
        text = f"{_differs(place.with_name(PARTIAL), bad)} also when sent again: check the storage and apply again"
        _void(folder, step, text)
        raise Mismatch(text)
    try:
        opened.check()
    except Unfinished as error:
        _void(folder, step, str(error))
        raise


def _void(folder: int, step: Step, reason: str) -> None:
    step.void(reason)
    with suppress(FileNotFoundError):
        os.unlink(PARTIAL, dir_fd=folder)
    os.fsync(folder)


def _read(folder: int, name: str, size: int, progress: Progress | None) -> Tree:
    """The tree of a file that should have `size` bytes; of a larger one no more than says so."""
    descriptor = _open_direct(folder, name, os.O_RDONLY)
    with _closing(descriptor):
        size = min(os.fstat(descriptor).st_size, size + 1)
        return read_back(descriptor, size, progress=_part(progress, "read back"))


def _part(progress: Progress | None, phase: str) -> Callable[[int, int], None] | None:
    return None if progress is None else partial(progress, phase)


def _identity(entry: os.stat_result) -> list[int]:
    """What stays with a file when it is renamed and is hardly met twice."""
    return [entry.st_ino, entry.st_mtime_ns, entry.st_size]


def _place(cluster: DirectoryTarget, disk: PlannedDisk) -> Path:
    return Path(cluster.root, disk.namespace, disk.claim, NAME)


def _differs(place: Path, bad: list[int]) -> str:
    where = f" in {len(bad)} of its blocks of {BLOCK >> 20} MiB, the first at byte {bad[0] * BLOCK}" if bad else ""
    return f"{place} differs from the source{where}"


@contextmanager
def _plain_errors(cluster: DirectoryTarget, disk: PlannedDisk) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _plain(error, _place(cluster, disk)) from None


def _plain(error: OSError, place: Path) -> Exception:
    if error.errno in _USE:
        return Refused(f"{place} cannot be written or read: {error.strerror}")
    hint = _HINTS.get(error.errno, "check the storage")
    return Unfinished(f"{place}: {error.strerror}; {hint} and run again")
