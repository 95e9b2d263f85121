"""A thousand faults between the copy and its read-back: all are found, located to their blocks, and repaired."""

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrate import journal
from migrate.model import Evidence, Image, PlannedDisk
from migrate.transfer import file
from migrate.transfer._bytes import Opened, serve
from migrate.transfer._digest import BLOCK

TAIL = 5 * 4096
SIZE = 4 * BLOCK + TAIL
MEMORY = Path("/dev/shm")  # a thousand faults need no disk


def disk(seed: int) -> bytes:
    """A little data in each block, and in the last bytes."""
    chance, content = random.Random(seed), bytearray(SIZE)
    for index in range(4):
        at = index * BLOCK + chance.randrange(BLOCK - 8192)
        content[at : at + 8192] = chance.randbytes(8192)
    content[-TAIL:] = chance.randbytes(TAIL)
    return bytes(content)


SOURCE, STALE = disk(1), disk(2)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def opened(folder: Path) -> Iterator[Opened]:
    with (folder / "source").open("wb") as source:
        for at in range(0, SIZE, 4096):
            if any(part := SOURCE[at : at + 4096]):
                os.pwrite(source.fileno(), part, at)
    with serve([Image(str(folder / "source"), "raw")]) as uri:
        yield Opened(uri, SIZE, "stamp")


Move = Callable[[Callable[[Path], object]], Evidence]


@pytest.fixture
def move(folder: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> Move:
    """Copies the disk, does harm to what was written before it is read back, and looks at what has arrived."""
    cluster = file.DirectoryTarget(folder / "out")
    planned = PlannedDisk("vda", "default", "vm-vda", ["file"], "/source", "raw", SIZE, None, None)
    claim = folder / "out/default/vm-vda"

    def run(harm: Callable[[Path], object]) -> Evidence:
        left = [harm]

        def read(*arguments: object, original: Callable = file._read) -> object:
            if left:
                left.pop()(claim / file.PARTIAL)
            return original(*arguments)

        with monkeypatch.context() as patch, journal.opened(folder / "journal.jsonl") as record:
            patch.setattr(file, "_read", read)
            evidence = file.move(opened, planned, cluster, record.step("vm", "vda", cluster.name, "stamp"))
        assert (claim / file.NAME).read_bytes() == SOURCE
        (claim / file.NAME).unlink()
        (folder / "journal.jsonl").unlink()
        assert evidence.source == evidence.read_back
        return evidence

    return run


def block(content: bytes, index: int) -> bytes:
    return content[index * BLOCK : (index + 1) * BLOCK]


def five_faults(path: Path, chance: random.Random) -> None:
    """Two blocks swapped, one with a flipped bit, one of zeroes or of an older disk, and the tail lost."""
    one, other, flipped, wrong = chance.sample(range(4), 4)
    bit = chance.randrange(8 * BLOCK)
    at = flipped * BLOCK + bit // 8
    with path.open("r+b") as partial:
        descriptor = partial.fileno()
        os.pwrite(descriptor, block(SOURCE, one), other * BLOCK)
        os.pwrite(descriptor, block(SOURCE, other), one * BLOCK)
        os.pwrite(descriptor, bytes([SOURCE[at] ^ 1 << bit % 8]), at)
        os.pwrite(descriptor, chance.choice([bytes(BLOCK), block(STALE, wrong)]), wrong * BLOCK)
        os.ftruncate(descriptor, SIZE - chance.randrange(1, TAIL))


@pytest.mark.parametrize("seed", range(200))
def test_five_faults_at_once(move: Move, seed: int):
    assert move(lambda path: five_faults(path, random.Random(seed))).repaired == 5


@pytest.mark.parametrize(
    ("wrong", "blocks"),
    [(STALE, 5), (bytes(SIZE), 5), (b"", 5), (SOURCE + bytes(4096), 1), (SOURCE[: 4 * BLOCK], 1), (SOURCE, 0)],
    ids=["stale base image", "all zeroes", "all lost", "too long", "no tail", "nothing wrong"],
)
def test_faults_of_the_whole_disk(move: Move, wrong: bytes, blocks: int):
    assert move(lambda path: path.write_bytes(wrong)).repaired == blocks
