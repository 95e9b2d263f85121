"""Reads a claim back inside of the cluster, as the program of a Job. The standard library is all that it needs.

`python -m migrate.worker --size BYTES` prints `INDEX DIGEST` of each block that is not zero, and leaves one JSON
object as the container's termination message: `root` is that of the BLAKE2b-256 tree over 4 MiB blocks of the first
BYTES, `size` what the claim holds, and `tail` the offset of the first data behind them, null where all is zero.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

BLOCK = 4 * 1024 * 1024
PATHS = ("/data/disk.img", "/dev/claim")  # on a Filesystem claim and on a Block one
MESSAGE = "/dev/termination-log"
THREADS = 4
SHOWN = 16  # hex digits of a digest that are printed


def main() -> None:
    """Reads the claim and says what is there; what fails is one line and exit code 1."""
    parser = argparse.ArgumentParser(description="Reads a claim back and prints its BLAKE2b-256 tree.")
    parser.add_argument("--size", type=int, required=True, help="How many bytes the disk has; behind them all is zero.")
    parser.add_argument("--path", default=next(filter(os.path.exists, PATHS), PATHS[0]))
    parser.add_argument("--message", default=MESSAGE)
    given = parser.parse_args()
    try:
        found = look(given.path, given.size)
    except OSError as error:
        _leave(given.message, {"problem": f"{given.path}: {error.strerror}"})
        sys.exit(1)
    _leave(given.message, found)


def look(path: str, size: int) -> dict[str, object]:
    """What lies in a file or on a device: the tree's root over `size` bytes, and where data lies behind them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if end < size:
            return {"size": end, "root": None, "tail": None}
        # What only memory holds proves nothing.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        root = _root(descriptor, size)
        return {"size": end, "root": root, "tail": _first_data(descriptor, size, end)}
    finally:
        os.close(descriptor)


def _root(descriptor: int, size: int) -> str:
    """The BLAKE2b-256 over the digests of all blocks in order."""
    tree = hashlib.blake2b(digest_size=32)
    zero = _digest(bytes(BLOCK))
    position = 0
    for start, value in _digests(descriptor, _blocks(_data(descriptor, 0, size)), size):
        tree.update(zero * ((start - position) // BLOCK))
        tree.update(value)
        position = start + BLOCK
        if value != zero:
            print(start // BLOCK, value.hex()[:SHOWN])
    for start in range(position, size, BLOCK):
        tree.update(zero if start + BLOCK <= size else _digest(bytes(size - start)))
    return tree.hexdigest()


def _digests(descriptor: int, starts: Iterable[int], size: int) -> Iterator[tuple[int, bytes]]:
    """Start and digest of blocks, in order, several read at a time."""
    read = partial(_read, descriptor, size)
    with ThreadPoolExecutor(THREADS) as pool:
        batch: list[int] = []
        for start in starts:
            batch.append(start)
            if len(batch) == 4 * THREADS:
                yield from zip(batch, pool.map(read, batch), strict=True)
                batch = []
        yield from zip(batch, pool.map(read, batch), strict=True)


def _read(descriptor: int, size: int, start: int) -> bytes:
    return _digest(_bytes(descriptor, start, min(start + BLOCK, size)))


def _bytes(descriptor: int, start: int, end: int) -> bytes:
    parts = []
    while start < end:
        part = os.pread(descriptor, end - start, start)
        if not part:
            raise OSError(errno.EIO, f"ended at byte {start} while it was read")
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def _first_data(descriptor: int, start: int, end: int) -> int | None:
    """The offset of the first block from `start` on that is not all zero, None where there is none."""
    for first, last in _data(descriptor, start, end):
        for at in range(first, last, BLOCK):
            if any(_bytes(descriptor, at, min(at + BLOCK, last))):
                return at
    return None


def _blocks(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    """The starts of the blocks that ranges touch, each once."""
    done = 0
    for first, last in ranges:
        for start in range(max(done, first - first % BLOCK), last, BLOCK):
            yield start
            done = start + BLOCK


def _data(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges that are no holes."""
    while start < end:
        try:
            first = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data after this offset (lseek(2))
                return
            if error.errno != errno.EINVAL:  # a device without holes
                raise
            yield start, end
            return
        if first >= end:
            return
        last = min(os.lseek(descriptor, first, os.SEEK_HOLE), end)
        yield first, last
        start = last


def _leave(path: str, found: dict[str, object]) -> None:
    with open(path, "w", encoding="ascii") as message:
        json.dump(found, message)


if __name__ == "__main__":
    main()
