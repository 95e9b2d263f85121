"""Real images made with qemu-img, and disks of a plan that point to them."""

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.model import PlannedDisk

MIB = 1 << 20


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def scatter(path: Path, size: int, extents: dict[int, int], seed: int = 1) -> Path:
    """A sparse raw file of `size` bytes with random data: lengths by offset."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset, length in extents.items():
            file.seek(offset)
            file.write(random.Random(seed * 1000 + offset).randbytes(length))
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """41 MiB and 512 bytes: holes, whole blocks, parts of blocks, and data to the last byte."""
    extents = {0: 70000, 5 * MIB: 9 * MIB, 20 * MIB + 512: 1536, 33 * MIB: 3 * MIB, 41 * MIB - 4096: 4096 + 512}
    return scatter(tmp_path / "source.raw", 41 * MIB + 512, extents)


@pytest.fixture
def qcow2(raw: Path) -> Path:
    """The same bytes as qcow2."""
    qemu_img("convert", "-O", "qcow2", raw, raw.with_suffix(".qcow2"))
    return raw.with_suffix(".qcow2")


@pytest.fixture
def planned() -> Callable[..., PlannedDisk]:
    def make(path: Path, size: int, format: str = "qcow2", claim: str = "vm-vda") -> PlannedDisk:
        return PlannedDisk("vda", "default", claim, ["file"], str(path), format, size, None, None)

    return make
