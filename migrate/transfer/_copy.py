"""The copy engine: data extents of an NBD export into a sink, several at a time, hashed on the way.

Memory is one block a connection, whatever the size of the disk. Reading back goes through the same loop.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from errno import ENXIO
from mmap import mmap
from time import monotonic
from typing import Protocol

from migrate.model import Unfinished
from migrate.transfer._digest import BLOCK, Tree, blocks, digest
from migrate.transfer._nbd import Connection
from migrate.transfer._throttle import Throttle

CONNECTIONS = 8
ALIGNMENT = 4096  # of offset and memory of all that a sink gets, and of its length but at the end: direct I/O needs it
FLUSH = 64  # blocks: at most so many, and one for each connection, are written and not yet recorded as safe
_ZEROS = bytes(64 * 1024)  # the grain in which zeroes that come as data stay holes

Progress = Callable[[int, int], None]  # the bytes dealt with, and how many of them were zeroes that nobody sent
Chunks = dict[int, bytes]
_Read = Callable[[int, mmap, int, int], None]
_Parts = list[tuple[int, int]]


class Sink(Protocol):
    """Where a copy goes: `write` puts bytes at an offset, from several threads; `flush` makes all of them durable.

    `zero` makes zeroes of what was written before.
    """

    def write(self, offset: int, data: memoryview) -> None: ...

    def zero(self, offset: int, length: int) -> None: ...

    def flush(self) -> None: ...


def copy(
    uri: str,
    sink: Sink,
    *,
    done: Mapping[int, bytes],
    on_chunks: Callable[[Chunks], None],
    connections: int = CONNECTIONS,
    throttle: Throttle | None = None,
    progress: Progress | None = None,
) -> Tree:
    """Copies all but zeroes into a sink of zeroes; blocks `done` earlier are not read again.

    `on_chunks` gets the digests of blocks by index once they are durable; `progress` the bytes dealt with, holes
    included, and how many of them were skipped. A source or sink that fails raises Unfinished or OSError after every
    thread has stopped.
    """
    unflushed = _Unflushed(sink, on_chunks)
    with Connection(uri) as source:
        tree = Tree.of(source.size, done)

        def take(index: int, parts: _Parts, buffer: mmap, length: int) -> None:
            base = index * BLOCK
            with memoryview(buffer) as view:
                for start, end in _not_zero(buffer, base, _aligned(parts, base + length)):
                    sink.write(start, view[start - base : end - base])
                tree.digests[index] = digest(view[:length])
            unflushed.add(index, tree.digests[index])

        walk = _Walk(source.size, blocks(source.data_ranges()), take, done, throttle, progress)
        walk.run(lambda: _nbd_reader(uri), connections)
    unflushed.flush()
    tree.data = walk.data
    return tree


def send_again(
    uri: str,
    sink: Sink,
    tree: Tree,
    bad: list[int],
    *,
    on_chunks: Callable[[Chunks], None],
    throttle: Throttle | None = None,
) -> Tree:
    """Copies the `bad` blocks of a disk onto a sink that has something else there; the tree with their digests anew."""
    for index in bad:
        sink.zero(index * BLOCK, min(BLOCK, tree.size - index * BLOCK))
    kept = dict(enumerate(tree.digests))
    for index in bad:
        del kept[index]
    return copy(uri, sink, done=kept, on_chunks=on_chunks, throttle=throttle)


def read_back(descriptor: int, size: int, *, threads: int = CONNECTIONS, progress: Progress | None = None) -> Tree:
    """The tree of a file as the disk holds it: what the page cache has of it is dropped first, holes are zeroes."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return _tree(size, _file_ranges(descriptor, size), lambda: _file_reader(descriptor, size), threads, progress)


def read_export(uri: str, *, connections: int = CONNECTIONS, progress: Progress | None = None) -> Tree:
    """The tree of an NBD export."""
    with Connection(uri) as export:
        return _tree(export.size, export.data_ranges(), lambda: _nbd_reader(uri), connections, progress)


def _tree(
    size: int,
    ranges: Iterable[tuple[int, int]],
    reader: Callable[[], AbstractContextManager[_Read]],
    threads: int,
    progress: Progress | None,
) -> Tree:
    tree = Tree.of(size, {})

    def take(index: int, _parts: _Parts, buffer: mmap, length: int) -> None:
        with memoryview(buffer) as view:
            tree.digests[index] = digest(view[:length])

    walk = _Walk(size, blocks(ranges), take, {}, None, progress)
    walk.run(reader, threads)
    tree.data = walk.data
    return tree


def not_zero_ranges(uri: str, connections: int = CONNECTIONS) -> list[tuple[int, int]]:
    """The (start, end) of what is not zero, in grains of 64 KiB, found by reading all of an export."""
    found: dict[int, list[tuple[int, int]]] = {}

    def take(index: int, parts: _Parts, buffer: mmap, _length: int) -> None:
        found[index] = list(_not_zero(buffer, index * BLOCK, parts))

    with Connection(uri) as source:
        walk = _Walk(source.size, blocks([(0, source.size)]), take, {}, None, None)
        walk.run(lambda: _nbd_reader(uri), connections)
    return [part for index in sorted(found) for part in found[index]]


class _Walk:
    """Reads the blocks that hold data in several threads; each block is given to `take` with its gaps zeroed."""

    def __init__(
        self,
        size: int,
        work: Iterator[tuple[int, _Parts]],
        take: Callable[[int, _Parts, mmap, int], None],
        done: Mapping[int, bytes],
        throttle: Throttle | None,
        progress: Progress | None,
    ) -> None:
        self.size, self.work, self.take, self.done = size, work, take, done
        self.throttle, self.progress = throttle, progress
        self.data = 0
        self.passed = 0
        self.lock = threading.Lock()
        self.stop = threading.Event()

    def run(self, reader: Callable[[], AbstractContextManager[_Read]], threads: int) -> None:
        """Returns when all is read; raises what failed first, after all threads have ended."""
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(self._loop, reader) for _ in range(threads)]
            try:
                ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self.stop.set()
        for future in ended:
            future.result()
        self._report(self.size)

    def _loop(self, reader: Callable[[], AbstractContextManager[_Read]]) -> None:
        buffer = mmap(-1, BLOCK)
        with reader() as read:
            while not self.stop.is_set() and (item := self._next()):
                index, parts = item
                if self.throttle and self._waits(self.throttle.reserve(sum(end - start for start, end in parts))):
                    return
                length = min(BLOCK, self.size - index * BLOCK)
                fill(buffer, index * BLOCK, parts, length, read)
                self.take(index, parts, buffer, length)
                self._report(index * BLOCK + length)

    def _waits(self, seconds: float) -> bool:
        """Waits for the throttle, and whether all is over; meanwhile `progress` may end it, for it can take minutes."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            if self.stop.wait(min(left, 1.0)):
                return True
            with self.lock:
                if self.progress:
                    self.progress(self.passed, max(0, self.passed - self.data))
        return self.stop.is_set()

    def _next(self) -> tuple[int, _Parts] | None:
        with self.lock:
            for index, parts in self.work:
                self.data += sum(end - start for start, end in parts)
                if index not in self.done:
                    return index, parts
            return None

    def _report(self, position: int) -> None:
        with self.lock:
            if self.progress and position > self.passed:
                self.passed = position
                self.progress(position, max(0, position - self.data))


class _Unflushed:
    """Blocks written and not yet durable: in batches, half of FLUSH at most waiting while another half is flushed."""

    def __init__(self, sink: Sink, on_chunks: Callable[[Chunks], None]) -> None:
        self.sink, self.on_chunks = sink, on_chunks
        self.pending: Chunks = {}
        self.lock = threading.Lock()
        self.flushing = threading.Lock()

    def add(self, index: int, value: bytes) -> None:
        with self.lock:
            self.pending[index] = value
        if len(self.pending) >= FLUSH // 2:
            self.flush(at_least=FLUSH // 2)

    def flush(self, at_least: int = 1) -> None:
        """Makes what is pending durable, then records it; nothing when another thread has just done so."""
        with self.flushing:
            with self.lock:
                if len(self.pending) < at_least:
                    return
                batch, self.pending = self.pending, {}
            self.sink.flush()
            self.on_chunks(batch)


def fill(buffer: mmap, base: int, parts: _Parts, length: int, read: _Read) -> None:
    """Reads the parts of the block that begins at `base` and zeroes what is left of its `length` bytes."""
    position = 0
    for start, end in parts:
        _zero(buffer, position, start - base)
        read(start, buffer, start - base, end - start)
        position = end - base
    _zero(buffer, position, length)


def _zero(buffer: mmap, start: int, end: int) -> None:
    if start < end:
        buffer[start:end] = bytes(end - start)


def _aligned(parts: _Parts, end_of_block: int) -> Iterator[tuple[int, int]]:
    """The parts widened to ALIGNMENT, which takes in zeroes of the gaps between them; they may then touch."""
    for start, end in parts:
        yield start - start % ALIGNMENT, min(end + -end % ALIGNMENT, end_of_block)


def _not_zero(buffer: mmap, base: int, parts: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts without their zero grains, adjacent grains joined."""
    for start, end in parts:
        first, position = start, start
        while position < end:
            stop = min(position - position % len(_ZEROS) + len(_ZEROS), end)
            at = position - base
            if not buffer[at] and buffer[at : stop - base] == _ZEROS[: stop - position]:
                if first < position:
                    yield first, position
                first = stop
            position = stop
        if first < end:
            yield first, end


@contextmanager
def _nbd_reader(uri: str) -> Iterator[_Read]:
    with Connection(uri) as connection:
        yield connection.pread


@contextmanager
def _file_reader(descriptor: int, size: int) -> Iterator[_Read]:
    def read(offset: int, buffer: mmap, start: int, length: int) -> None:
        end = offset + length
        with memoryview(buffer) as view:
            while offset < min(end, size):
                count = os.preadv(descriptor, [view[start : start + end - offset]], offset)
                if not count:
                    raise Unfinished(f"the file ended at byte {offset} while it was read back; run again")
                offset, start = offset + count, start + count

    yield read


def _file_ranges(descriptor: int, size: int) -> Iterable[tuple[int, int]]:
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == ENXIO:  # no data after this offset (lseek(2))
                return
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        end += -end % ALIGNMENT
        yield start - start % ALIGNMENT, end
