"""A disk as one body whose length is known before its first byte: a qcow2 with nothing but data, or raw.

The header and tables of the qcow2 are computed from the extents; the data follows in the guest's order, read ahead by
several connections. The layout: QEMU docs/interop/qcow2.txt.
"""

from __future__ import annotations

import struct
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import chain
from mmap import mmap
from queue import SimpleQueue
from sys import byteorder

from migrate.transfer._copy import ALIGNMENT, Progress, fill, not_zero_ranges
from migrate.transfer._digest import BLOCK, Tree, blocks, digest
from migrate.transfer._nbd import Connection
from migrate.transfer._throttle import Throttle

READERS = 4
_PIECE = 1 << 20  # bytes that a body hands over at a time, at most
_CLUSTER_BITS = range(12, 22)
_MAX_L1, _MAX_REFCOUNT_TABLE = 32 << 20, 8 << 20  # bytes (QEMU block/qcow2.h)
_USED_ONCE = 1 << 63  # of a table's entry: what it points to has refcount 1

Ranges = Iterable[tuple[int, int]]


def qcow2(uri: str, *, behind: int = 0, throttle: Throttle | None = None, progress: Progress | None = None) -> Body:
    """The disk as a qcow2 of its data alone, `behind` bytes longer, with the cluster size that makes it smallest.

    A disk without holes may come from a server that does not tell them: it is read for its zeroes beforehand.
    """
    size, data = _extents(uri)
    if len(data) == 2 and data[0] == 0 and data[1] >= size:
        data = _flat(not_zero_ranges(uri, READERS))
    layouts = (_Layout.of(size + behind, bits, data) for bits in _CLUSTER_BITS)
    layout = min((layout for layout in layouts if layout.opens), key=lambda layout: layout.length)
    return Body(uri, size, layout.length, layout.clusters, layout.tables, throttle, progress)


def raw(uri: str, *, throttle: Throttle | None = None, progress: Progress | None = None) -> Body:
    """The disk as it is; holes are sent as zeroes and not read."""
    size, data = _extents(uri)
    return Body(uri, size, size, data, None, throttle, progress)


@dataclass(slots=True)
class Body:
    """`length` bytes to iterate over, each time anew; `tree` is that of the disk once an iteration is through.

    A piece is valid until the next one is asked for. `progress` gets the bytes of the disk dealt with, holes included.
    Memory is two blocks for each of READERS connections, whatever the size of the disk. A source that fails raises
    Unfinished.
    """

    uri: str
    size: int
    length: int
    ranges: array[int]
    tables: Callable[[], Iterator[bytes]] | None
    throttle: Throttle | None
    progress: Progress | None
    tree: Tree = field(init=False)

    def __iter__(self) -> Iterator[memoryview]:
        self.tree = Tree.of(self.size, {})
        self.tree.data = sum(min(end, self.size) - start for start, end in _pairs(self.ranges))
        if self.tables:
            yield from map(self._in_time, _pieces(self.tables()))
        sent = 0
        with closing(self._read_ahead()) as contents:
            for index, content in contents:
                for start in range(0, len(content), _PIECE):
                    yield self._in_time(content[start : start + _PIECE])
                sent += len(content)
                self._tell(min((index + 1) * BLOCK, self.size), sent)
        self._tell(self.size, sent)

    def _tell(self, passed: int, sent: int) -> None:
        if self.progress:
            self.progress(passed, max(0, passed - sent))

    def blank(self) -> bool:
        """Whether the disk is all zero; it is read up to its first byte that is not."""
        buffer, zeroes = mmap(-1, BLOCK), bytes(BLOCK)
        with Connection(self.uri) as source:
            for _, parts in blocks(_pairs(self.ranges)):
                for start, end in parts:
                    length = min(end, self.size) - start
                    source.pread(start, buffer, 0, length)
                    if buffer[:length] != zeroes[:length]:
                        return False
        return True

    def _in_time(self, piece: memoryview) -> memoryview:
        if self.throttle:
            time.sleep(self.throttle.reserve(len(piece)))
        return piece

    def _read_ahead(self) -> Iterator[tuple[int, memoryview]]:
        """What is sent of each block, in order."""
        idle: SimpleQueue[Connection] = SimpleQueue()
        ahead: deque[Future[tuple[int, mmap, int]]] = deque()
        free = [mmap(-1, BLOCK) for _ in range(2 * READERS)]

        def oldest() -> Iterator[tuple[int, memoryview]]:
            index, buffer, length = ahead.popleft().result()
            yield index, memoryview(buffer)[:length]
            free.append(buffer)

        with ExitStack() as stack:
            for _ in range(READERS):
                idle.put(stack.enter_context(Connection(self.uri)))
            pool = ThreadPoolExecutor(READERS)
            stack.callback(pool.shutdown, cancel_futures=True)
            work = blocks(_pairs(self.ranges))
            for index, parts in work if self.tables else _with_holes(work, self.size):
                if not free:
                    yield from oldest()
                ahead.append(pool.submit(self._read, idle, index, parts, free.pop()))
            while ahead:
                yield from oldest()

    def _read(
        self, idle: SimpleQueue[Connection], index: int, parts: list[tuple[int, int]], buffer: mmap
    ) -> tuple[int, mmap, int]:
        base, length = index * BLOCK, min(BLOCK, self.size - index * BLOCK)
        connection = idle.get()
        try:
            fill(buffer, base, [(start, min(end, self.size)) for start, end in parts], BLOCK, connection.pread)
        finally:
            idle.put(connection)
        if parts:
            with memoryview(buffer) as view:
                self.tree.digests[index] = digest(view[:length])
        return index, buffer, _close_up(buffer, base, parts) if self.tables else length


@dataclass(slots=True)
class _Layout:
    """A qcow2 of clusters of one size, in this order: header, refcount table and blocks, L1 table, L2 tables, data.

    Its data lies where `clusters` say on the disk; the other counts are of clusters.
    """

    size: int
    bits: int
    clusters: array[int]
    refcount_table: int = 0
    refcount_blocks: int = 0
    l1: int = 0
    l2: int = 0
    total: int = 0

    @classmethod
    def of(cls, size: int, bits: int, data: array[int]) -> _Layout:
        layout = cls(size, bits, _flat(_rounded(_pairs(data), 1 << bits)))
        layout.l1 = -(-8 * layout.l1_entries // layout.cluster)
        layout.l2 = sum(1 for _ in layout._by_table())
        rest = 1 + layout.l1 + layout.l2 + sum(end - start for start, end in _pairs(layout.clusters)) // layout.cluster
        while layout.total != (total := rest + layout.refcount_table + layout.refcount_blocks):
            layout.total = total
            layout.refcount_blocks = -(-2 * total // layout.cluster)
            layout.refcount_table = -(-8 * layout.refcount_blocks // layout.cluster)
        return layout

    @property
    def cluster(self) -> int:
        return 1 << self.bits

    @property
    def length(self) -> int:
        return self.total * self.cluster

    @property
    def mapped(self) -> int:
        """The bytes of the disk that one L2 table maps."""
        return self.cluster * self.cluster // 8

    @property
    def l1_entries(self) -> int:
        return max(1, -(-self.size // self.mapped))

    @property
    def opens(self) -> bool:
        """Whether QEMU opens it: it limits the tables that it keeps in memory."""
        return 8 * self.l1_entries <= _MAX_L1 and self.refcount_table * self.cluster <= _MAX_REFCOUNT_TABLE

    def tables(self) -> Iterator[bytes]:
        """All that comes before the data."""
        cluster = self.cluster
        blocks_at = cluster * (1 + self.refcount_table)
        l1_at = blocks_at + cluster * self.refcount_blocks
        l2_at = l1_at + cluster * self.l1
        yield self._header(l1_at).ljust(cluster, b"\0")
        yield _entries(range(blocks_at, l1_at, cluster)).ljust(cluster * self.refcount_table, b"\0")
        for left in range(2 * self.total, 0, -cluster):
            yield (b"\0\1" * (min(left, cluster) // 2)).ljust(cluster, b"\0")
        l1 = array("Q", bytes(8 * self.l1_entries))
        for number, (index, _) in enumerate(self._by_table()):
            l1[index] = l2_at + number * cluster | _USED_ONCE
        yield _entries(l1).ljust(cluster * self.l1, b"\0")
        yield from self._l2_tables(l2_at + cluster * self.l2)

    def _header(self, l1_at: int) -> bytes:
        """Version 3 without backing file, encryption, snapshots and features; refcounts have 16 bits."""
        sectors = -(-self.size // 512) * 512
        fields = (b"QFI\xfb", 3, 0, 0, self.bits, sectors, 0, self.l1_entries, l1_at, self.cluster, self.refcount_table)
        return struct.pack(">4sIQIIQIIQQIIQQQQII", *fields, 0, 0, 0, 0, 0, 4, 104)

    def _l2_tables(self, data_at: int) -> Iterator[bytes]:
        for _, parts in self._by_table():
            table = array("Q", bytes(self.cluster))
            for start, end in parts:
                first = start % self.mapped >> self.bits
                found = range(data_at | _USED_ONCE, data_at + end - start | _USED_ONCE, self.cluster)
                table[first : first + len(found)] = array("Q", found)
                data_at += end - start
            yield _entries(table)

    def _by_table(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        return blocks(_pairs(self.clusters), self.mapped)


def _extents(uri: str) -> tuple[int, array[int]]:
    """The size of a disk, and where its server says that data is."""
    with Connection(uri) as source:
        return source.size, _flat(_rounded(source.data_ranges(), ALIGNMENT))


def _flat(ranges: Ranges) -> array[int]:
    return array("Q", chain.from_iterable(ranges))


def _rounded(ranges: Ranges, grain: int) -> Iterator[tuple[int, int]]:
    """Ranges in order, widened to whole grains; what then touches is joined."""
    first, last = 0, 0
    for start, end in ranges:
        if start - start % grain > last:
            if last:
                yield first, last
            first = start - start % grain
        last = end + -end % grain
    if last:
        yield first, last


def _pairs(flat: array[int]) -> Iterator[tuple[int, int]]:
    values = iter(flat)
    return zip(values, values, strict=True)


def _entries(values: Iterable[int]) -> bytes:
    entries = array("Q", values)
    if byteorder == "little":
        entries.byteswap()
    return entries.tobytes()


def _pieces(parts: Iterable[bytes]) -> Iterator[memoryview]:
    """The same bytes, most of them in pieces of _PIECE."""
    joined = bytearray()
    for part in parts:
        joined += part
        while len(joined) >= _PIECE:
            yield memoryview(joined[:_PIECE])
            del joined[:_PIECE]
    if joined:
        yield memoryview(joined)


def _with_holes(
    work: Iterable[tuple[int, list[tuple[int, int]]]], size: int
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Every block of the disk, those without data with no parts."""
    position = 0
    for index, parts in work:
        yield from ((hole, []) for hole in range(position, index))
        yield index, parts
        position = index + 1
    yield from ((hole, []) for hole in range(position, -(-size // BLOCK)))


def _close_up(buffer: mmap, base: int, parts: list[tuple[int, int]]) -> int:
    """Moves the parts of a block to its beginning, side by side; returns where they end."""
    position = 0
    for start, end in parts:
        buffer.move(position, start - base, end - start)
        position += end - start
    return position
