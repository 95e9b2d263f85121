"""Claims of the computed size against real file systems, made as Kubernetes makes them."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.target.sizes import claim_size

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
EXT4, XFS, XFS_NEWER = (
    ["mkfs.ext4", "-q", "-F", "-m0"],
    ["mkfs.xfs", "-q", "-f"],
    ["mkfs.xfs", "-q", "-f", "-m", "rmapbt=1"],
)


@contextmanager
def mounted(folder: Path, size: int, make: list[str]) -> Iterator[Path]:
    """A new file system on a sparse file of `size` bytes."""
    with (folder / "volume").open("wb") as volume:
        volume.truncate(size)
    subprocess.run([*make, folder / "volume"], check=True, stdout=subprocess.DEVNULL)
    (folder / "mount").mkdir()
    subprocess.run(["mount", "-o", "loop", folder / "volume", folder / "mount"], check=True)
    try:
        yield folder / "mount"
    finally:
        subprocess.run(["umount", folder / "mount"], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
@pytest.mark.parametrize(
    ("make", "size"),
    [
        *((EXT4, size) for size in (16 * MIB, 29 * MIB, 100 * MIB + 512, 500 * MIB, 1500 * MIB, 20 * GIB, TIB)),
        *((XFS, size) for size in (300 * MIB, 1500 * MIB, TIB)),
        *((XFS_NEWER, size) for size in (300 * MIB, 20 * GIB, TIB)),
    ],
)
def test_disk_fits_on_a_new_file_system_of_the_claims_size(tmp_path: Path, make: list[str], size: int):
    with mounted(tmp_path, claim_size(size, "Filesystem"), make) as folder, (folder / "disk.img").open("wb") as disk:
        os.posix_fallocate(disk.fileno(), 0, size)
        os.fsync(disk.fileno())
        assert os.fstat(disk.fileno()).st_blocks * 512 >= size


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
@pytest.mark.parametrize(
    ("make", "size", "step"), [([*EXT4, "-b4096"], 95 * MIB, 128 * MIB), (XFS, 230 * MIB, 300 * MIB)]
)
def test_disk_fits_when_the_volume_is_larger_than_asked(tmp_path: Path, make: list[str], size: int, step: int):
    larger = max(claim_size(size, "Filesystem"), step)
    with mounted(tmp_path, larger, make) as folder, (folder / "disk.img").open("wb") as disk:
        os.posix_fallocate(disk.fileno(), 0, size)


def test_little_is_wasted():
    for size, share in ((100 * MIB, 0.4), (GIB, 0.12), (10 * GIB, 0.035), (TIB, 0.025), (16 * TIB, 0.025)):
        assert size < claim_size(size, "Filesystem") < size * (1 + share)


@given(st.integers(1, 64 * TIB), st.integers(0, 64 * MIB))
def test_sizes_are_whole_and_grow_with_the_disk(size: int, more: int):
    for mode in ("Block", "Filesystem"):
        asked = claim_size(size, mode)
        assert asked % MIB == 0
        assert size <= asked <= claim_size(size + more, mode)


def test_block_claims_are_rounded_up_only():
    assert [claim_size(size, "Block") for size in (1, MIB, MIB + 1, GIB)] == [MIB, MIB, 2 * MIB, GIB]
