"""libnbd through ctypes: what the copy needs of it, usable from threads with one connection each.

Every call of the C library releases the GIL.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from mmap import mmap
from queue import SimpleQueue
from typing import Self

from migrate.model import Refused, Unfinished

_CONTEXT = b"base:allocation"
_ZERO = 2  # LIBNBD_STATE_ZERO; a hole without it has no defined content (NBD protocol, "base:allocation")
_WINDOW = 1 << 30  # bytes asked for in one block status request; the wire has 32 bits for it

_WRITING = ("nbd_pwrite", "nbd_zero", "nbd_flush")

_Entries = ctypes.POINTER(ctypes.c_uint32)
_OnExtents = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_uint64,
    _Entries,
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_int),
)


class _ExtentCallback(ctypes.Structure):
    _fields_ = (("callback", _OnExtents), ("user_data", ctypes.c_void_p), ("free", ctypes.c_void_p))


_SIGNATURES = {
    "nbd_create": (ctypes.c_void_p,),
    "nbd_close": (None, ctypes.c_void_p),
    "nbd_get_error": (ctypes.c_char_p,),
    "nbd_add_meta_context": (ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p),
    "nbd_set_pread_initialize": (ctypes.c_int, ctypes.c_void_p, ctypes.c_bool),
    "nbd_connect_uri": (ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p),
    "nbd_get_size": (ctypes.c_int64, ctypes.c_void_p),
    "nbd_can_meta_context": (ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p),
    "nbd_pread": (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_uint64,
        ctypes.c_uint32,
    ),
    "nbd_pwrite": (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_uint64,
        ctypes.c_uint32,
    ),
    "nbd_zero": (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32),
    "nbd_flush": (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32),
    "nbd_can_multi_conn": (ctypes.c_int, ctypes.c_void_p),
    "nbd_block_status": (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_uint64,
        ctypes.c_uint64,
        _ExtentCallback,
        ctypes.c_uint32,
    ),
}


@cache
def library() -> ctypes.CDLL:
    """libnbd with its signatures declared; Refused names the package where it is missing."""
    try:
        loaded = ctypes.CDLL("libnbd.so.0")
    except OSError:
        raise Refused("libnbd.so.0 is missing: install the Debian package libnbd0") from None
    for name, (result, *arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


class Connection:
    """One connection to an NBD export, for one thread at a time; a failure is Unfinished."""

    def __init__(self, uri: str) -> None:
        self._library = library()
        self._handle = self._library.nbd_create()
        try:
            self._call("nbd_add_meta_context", _CONTEXT)
            self._call("nbd_set_pread_initialize", False)
            self._call("nbd_connect_uri", uri.encode())
            self.size: int = self._call("nbd_get_size")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; a second time does nothing."""
        self._library.nbd_close(self._handle)
        self._handle = None

    def pread(self, offset: int, buffer: mmap, start: int, length: int) -> None:
        """Fills `buffer[start:start + length]` with the bytes at `offset` of the export."""
        self._call("nbd_pread", (ctypes.c_char * length).from_buffer(buffer, start), length, offset, 0)

    def pwrite(self, offset: int, data: memoryview) -> None:
        """Writes bytes of a writable buffer at `offset` of the export."""
        self._call("nbd_pwrite", (ctypes.c_char * len(data)).from_buffer(data), len(data), offset, 0)

    def zero(self, offset: int, length: int) -> None:
        """Makes zeroes, and holes where the server can."""
        end = offset + length
        while offset < end:
            self._call("nbd_zero", min(_WINDOW, end - offset), offset, 0)
            offset += min(_WINDOW, end - offset)

    def flush(self) -> None:
        """Makes durable what was written."""
        self._call("nbd_flush", 0)

    @property
    def shares(self) -> bool:
        """Whether several connections see each other's writes, and a flush of one is a flush of all."""
        return bool(self._call("nbd_can_multi_conn"))

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """The (start, end) of what does not read as zero, in order; all of it where the server tells no extents."""
        if not self._call("nbd_can_meta_context", _CONTEXT):
            if self.size:
                yield 0, self.size
            return
        offset = 0
        while offset < self.size:
            for length, flags in self._extents(offset, min(_WINDOW, self.size - offset)):
                end = min(offset + length, self.size)
                if not flags & _ZERO:
                    yield offset, end
                offset = end

    def _extents(self, offset: int, length: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []

        def collect(_data: int, context: bytes, _offset: int, entries: _Entries, count: int, _error: object) -> int:
            if context == _CONTEXT:
                found.extend(zip(entries[0:count:2], entries[1:count:2], strict=True))
            return 0

        self._call("nbd_block_status", length, offset, _ExtentCallback(_OnExtents(collect)), 0)
        if not sum(extent for extent, _ in found):
            raise Unfinished(f"the NBD server told no extents at byte {offset}; run again")
        return found

    def _call(self, name: str, *arguments: object) -> int:
        result = getattr(self._library, name)(self._handle, *arguments)
        if result == -1:
            does = "writing to the NBD server" if name in _WRITING else "reading the source"
            raise Unfinished(f"{does} failed: {self._library.nbd_get_error().decode()}; run again")
        return result


class Export:
    """Where a copy may go: an export that several threads write to, each with a connection of its own."""

    def __init__(self, uri: str, connections: int) -> None:
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        with ExitStack() as stack:
            first = stack.enter_context(Connection(uri))
            self._idle.put(first)
            for _ in range(connections - 1 if first.shares else 0):
                self._idle.put(stack.enter_context(Connection(uri)))
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def write(self, offset: int, data: memoryview) -> None:
        with self._connection() as connection:
            connection.pwrite(offset, data)

    def zero(self, offset: int, length: int) -> None:
        with self._connection() as connection:
            connection.zero(offset, length)

    def flush(self) -> None:
        with self._connection() as connection:
            connection.flush()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        connection = self._idle.get()
        try:
            yield connection
        finally:
            self._idle.put(connection)
