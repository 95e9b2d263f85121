"""The tree of digests."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from migrate.transfer._digest import BLOCK, Tree, blocks, digest, zero_digest


def test_root_is_the_hash_of_the_block_hashes():
    content = bytes(BLOCK) + b"abc"
    parts = [hashlib.blake2b(part, digest_size=32).digest() for part in (bytes(BLOCK), b"abc")]
    tree = Tree.of(len(content), {1: digest(b"abc")})
    assert tree.digests == parts
    assert tree.root == hashlib.blake2b(b"".join(parts), digest_size=32).hexdigest()


def test_last_block_is_as_short_as_the_disk():
    assert Tree.of(BLOCK + 7, {}).digests == [zero_digest(BLOCK), digest(bytes(7))]
    assert Tree.of(2 * BLOCK, {}).digests == [zero_digest(BLOCK)] * 2


def test_differences_are_blocks_that_are_other_or_missing():
    tree = Tree.of(5 * BLOCK + 7, {})
    assert tree.differences(Tree.of(5 * BLOCK + 7, {})) == []
    assert tree.differences(Tree.of(5 * BLOCK + 7, {3: digest(b"x"), 4: digest(b"y")})) == [3, 4]
    assert tree.differences(Tree.of(4 * BLOCK, {})) == [4, 5]
    assert tree.differences(Tree.of(9 * BLOCK, {})) == [5]


@given(st.lists(st.tuples(st.integers(1, 3 * BLOCK), st.integers(1, 3 * BLOCK)), max_size=20))
def test_blocks_keep_every_byte_once_and_in_order(gaps: list[tuple[int, int]]):
    ranges, position = [], 0
    for gap, length in gaps:
        ranges.append((position + gap, position + gap + length))
        position = ranges[-1][1]
    found = list(blocks(ranges))
    assert [index for index, _ in found] == sorted({index for index, _ in found})
    parts = [part for _, parts in found for part in parts]
    assert all(index == start // BLOCK == (end - 1) // BLOCK for index, parts in found for start, end in parts)
    joined: list[tuple[int, int]] = []
    for start, end in parts:
        joined = [*joined[:-1], (joined[-1][0], end)] if joined and joined[-1][1] == start else [*joined, (start, end)]
    assert joined == ranges
