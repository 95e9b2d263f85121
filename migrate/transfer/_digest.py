"""BLAKE2b-256 over 4 MiB blocks: the digests of a disk, which say where two disks differ, and their root.

The block hash is the one of ovirt-imageio's checksum endpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import Self

BLOCK = 4 * 1024 * 1024


def digest(data: bytes | bytearray | memoryview) -> bytes:
    """The 32 bytes of BLAKE2b-256; releases the GIL for all but tiny data."""
    return hashlib.blake2b(data, digest_size=32).digest()


@cache
def zero_digest(length: int) -> bytes:
    """The digest of `length` zero bytes."""
    return digest(bytes(length))


@dataclass(slots=True)
class Tree:
    """The digests of all blocks of `size` bytes, the last block being what is left; `data` bytes were not holes."""

    size: int
    digests: list[bytes]
    data: int = 0

    @classmethod
    def of(cls, size: int, known: Mapping[int, bytes]) -> Self:
        """The tree of a disk whose blocks are zero but for those `known` by index."""
        digests = [zero_digest(BLOCK)] * (size // BLOCK)
        if size % BLOCK:
            digests.append(zero_digest(size % BLOCK))
        for index, value in known.items():
            digests[index] = value
        return cls(size, digests)

    @property
    def root(self) -> str:
        """The BLAKE2b-256 over all digests in order, as hex."""
        return digest(b"".join(self.digests)).hex()

    def differences(self, other: Tree) -> list[int]:
        """The indices of the blocks that the other tree lacks or has otherwise."""
        pairs = zip_longest(self.digests, other.digests[: len(self.digests)])
        return [index for index, (ours, theirs) in enumerate(pairs) if ours != theirs]


def blocks(ranges: Iterable[tuple[int, int]], block: int = BLOCK) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """The blocks that data ranges touch, in order: their index and the (start, end) in each, in bytes of the disk."""
    index, parts = -1, []
    for start, end in ranges:
        while start < end:
            if start // block != index:
                if parts:
                    yield index, parts
                index, parts = start // block, []
            stop = min(end, (index + 1) * block)
            parts.append((start, stop))
            start = stop
    if parts:
        yield index, parts
