"""What a claim asks for so that a disk fits: computed from what the file systems take for themselves.

The file systems are ext4 and xfs as Kubernetes makes them (k8s.io/mount-utils: `mkfs.ext4 -F -m0`, `mkfs.xfs -f`).
ext4: mke2fs.conf and lib/ext2fs of e2fsprogs 1.47; xfs: the defaults of mkfs.xfs 6.1 and rmapbt,
which newer ones switch on; for both what the kernel holds back while they are mounted.
"""

from __future__ import annotations

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
_SMALL = 512 * MIB  # mke2fs: below it the type is "small"
_XFS_LEAST = 300 * MIB  # mkfs.xfs refuses less
_JOURNAL = (  # below so many blocks, so many blocks of journal (ext2fs_default_journal_size)
    (2 << 10, 0),
    (32 << 10, 1024),
    (256 << 10, 4096),
    (512 << 10, 8192),
    (4 << 20, 16384),
    (8 << 20, 32768),
    (16 << 20, 65536),
    (32 << 20, 131072),
)
_STEPS = sorted({blocks * size for blocks, _ in _JOURNAL for size in (KIB, 4 * KIB)} | {_SMALL, _XFS_LEAST})


def claim_size(virtual_bytes: int, volume_mode: str) -> int:
    """Bytes to ask for, a multiple of 1 MiB: a disk of `virtual_bytes` fits, also when the volume turns out larger."""
    if volume_mode == "Block":
        return _up(virtual_bytes, MIB)
    size = _grown(virtual_bytes, virtual_bytes)
    for step in _STEPS:  # a larger file system may hold less where its journal or its xfs begins
        if size < step and _room(step) < virtual_bytes:
            size = _grown(step, virtual_bytes)
    return size


def _grown(size: int, virtual_bytes: int) -> int:
    """The least size from `size` on, in MiB, that has the room."""
    size = _up(size, MIB)
    while (missing := virtual_bytes - _room(size)) > 0:
        size += _up(missing, MIB)
    return size


def _room(size: int) -> int:
    """Bytes that one file may have on the fullest of the new file systems of `size` bytes."""
    layouts = [(KIB, 4096), (4 * KIB, 4096)] if size < _SMALL else [(4 * KIB, _inode_ratio(size))]
    taken = [_ext4(size, block, ratio) for block, ratio in layouts]
    if size >= _XFS_LEAST:
        taken.append(_xfs(size))
    return size - max(taken) - _extents(size)


def _extents(size: int) -> int:
    """Blocks that map one file whose extents are 1 MiB on average, and a few for its folders."""
    return size // MIB * 16 + 64 * KIB


def _inode_ratio(size: int) -> int:
    """Bytes for each inode: types "default", "big" and "huge" of mke2fs.conf."""
    return 16384 if size < 4 * TIB else 32768 if size < 16 * TIB else 65536


def _ext4(size: int, block: int, inode_ratio: int) -> int:
    """Bytes of an ext4 file system that no file can have."""
    blocks = size // block
    groups = -(-blocks // (8 * block))
    inode_blocks = -(-size // inode_ratio // groups) * 256 // block + 1  # of each group; mke2fs rounds up
    descriptors = -(-groups * 64 // block)
    reserved_descriptors = min(
        -(-(groups << 10) * 64 // block), block // 4
    )  # to grow 1024-fold (calc_reserved_gdt_blocks)
    copies = 2 + sum(_powers_below(groups, base) for base in (3, 5, 7))  # sparse_super: groups 0, 1, 3**n, 5**n, 7**n
    journal = next((length for below, length in _JOURNAL if blocks < below), 262144)
    orphans = 32 if blocks < 128 << 10 else min(blocks // 4096, 512)  # ext2fs_default_orphan_file_blocks
    held_back = min(blocks // 50, 4096)  # by the kernel, for extents that are split
    last_group = inode_blocks + 50  # a rest that is too short for a group of its own is left unused (ext2fs_initialize)
    per_group = inode_blocks + 2
    taken = (
        groups * per_group
        + copies * (1 + descriptors + reserved_descriptors)
        + journal
        + orphans
        + held_back
        + last_group
    )
    return taken * block


def _powers_below(limit: int, base: int) -> int:
    """How many powers of `base`, from its first, are below `limit`."""
    count, power = 0, base
    while power < limit:
        count, power = count + 1, power * base
    return count


def _xfs(size: int) -> int:
    """Bytes of an xfs file system that no file can have."""
    blocks = size // (4 * KIB)
    groups = max(4, -(-size // TIB))
    each = -(-blocks // groups)
    log = min(max(size // 2048, 64 * MIB), 2 * GIB) // (4 * KIB)
    refcounts = _tree(each, leaf=168, node=252)
    free_inodes = _tree(each // 8, leaf=126, node=252)
    reverse_map = max(_tree(each, leaf=84, node=45), each // 100)
    reserve = min(blocks // 20, 8192)  # xfs_default_resblks
    return (log + reserve + groups * (refcounts + free_inodes + reverse_map + 32)) * 4 * KIB


def _tree(records: int, *, leaf: int, node: int) -> int:
    """Blocks of a B-tree with half-full blocks, as xfs_btree_calc_size counts them."""
    blocks = level = -(-records // leaf)
    while level > 1:
        level = -(-level // node)
        blocks += level
    return blocks


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
