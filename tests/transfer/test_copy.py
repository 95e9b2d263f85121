"""The engine on real servers: qemu-nbd, and nbdkit for what qemu-nbd never does."""

import os
import subprocess
import threading
from pathlib import Path

import pytest
from transfer.servers import nbdkit

from migrate.model import Unfinished
from migrate.transfer import _copy
from migrate.transfer._bytes import Image, serve
from migrate.transfer._digest import BLOCK, Tree, blocks, digest, zero_digest
from migrate.transfer._nbd import Connection

MIB = 1 << 20


class Memory:
    """A sink that keeps what it is given, and how much had been flushed."""

    def __init__(self, size: int) -> None:
        self.data, self.written, self.flushes = bytearray(size), [], 0
        self.lock = threading.Lock()

    def write(self, offset: int, data: memoryview) -> None:
        with self.lock:
            self.data[offset : offset + len(data)] = data
            self.written.append((offset, len(data)))

    def zero(self, offset: int, length: int) -> None:
        self.write(offset, memoryview(bytes(length)))

    def flush(self) -> None:
        self.flushes += 1


def reference(content: bytes) -> list[bytes]:
    return [digest(content[at : at + BLOCK]) for at in range(0, len(content), BLOCK)]


def run(uri: str, size: int, **options) -> tuple[Memory, Tree, dict[int, bytes]]:
    sink, recorded = Memory(size), {}
    tree = _copy.copy(uri, sink, **{"done": {}, "on_chunks": recorded.update, **options})
    return sink, tree, recorded


def test_every_byte_arrives_and_no_hole_is_written(raw: Path, qcow2: Path):
    content = raw.read_bytes()
    with serve([Image(str(qcow2), "qcow2")]) as uri:
        sink, tree, recorded = run(uri, len(content))
    assert sink.data == content
    assert tree.digests == reference(content)
    assert sum(length for _, length in sink.written) < 14 * MIB
    assert recorded == {index: tree.digests[index] for index in (0, 1, 2, 3, 5, 8, 10)}


@pytest.mark.parametrize("size", [1, 511, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 4097])
def test_any_size(tmp_path: Path, size: int):
    content = os.urandom(size)
    (tmp_path / "disk").write_bytes(content)
    with nbdkit("file", str(tmp_path / "disk")) as (uri, _):
        sink, tree, _ = run(uri, size)
    assert sink.data == content
    assert tree.digests == reference(content)
    assert tree.root == digest(b"".join(reference(content))).hex()


def test_nothing_at_all(tmp_path: Path):
    with nbdkit("null", "size=0") as (uri, _):
        assert run(uri, 0)[1] == Tree(0, [])


def test_server_without_extents_is_read_whole_and_its_zeroes_stay_holes(raw: Path):
    content = raw.read_bytes()
    with nbdkit("--filter=noextents", "file", str(raw)) as (uri, _):
        sink, tree, _ = run(uri, len(content))
    assert sink.data == content
    assert tree.data == len(content)
    assert sum(length for _, length in sink.written) < 14 * MIB


def test_every_write_fits_direct_io(raw: Path):
    size, fine = raw.stat().st_size, raw.with_suffix(".qcow2")
    command = ["qemu-img", "convert", "-S", "512", "-O", "qcow2", "-o", "cluster_size=512", raw, fine]
    subprocess.run(command, check=True)
    with serve([Image(str(fine), "qcow2")]) as uri:
        with Connection(uri) as source:
            assert any(start % 4096 for start, _ in source.data_ranges())
        sink, tree, _ = run(uri, size)
    assert sink.data == raw.read_bytes()
    assert tree.digests == reference(raw.read_bytes())
    assert all(
        offset % 4096 == 0 and (length % 4096 == 0 or offset + length == size) for offset, length in sink.written
    )


def test_done_blocks_are_not_read_again(raw: Path, qcow2: Path):
    content = raw.read_bytes()
    with serve([Image(str(qcow2), "qcow2")]) as uri:
        known = dict(enumerate(reference(content)))
        sink, tree, recorded = run(uri, len(content), done={index: known[index] for index in (1, 2, 3)})
    assert sorted(recorded) == [0, 5, 8, 10]
    assert not any(BLOCK <= offset < 4 * BLOCK for offset, _ in sink.written)
    assert tree.digests == reference(content)


def test_blocks_are_recorded_after_a_flush_and_few_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(_copy, "FLUSH", 4)
    (tmp_path / "disk").write_bytes(os.urandom(20 * BLOCK))
    waiting, flushed, most = set(), set(), 0

    class Watched(Memory):
        def write(self, offset: int, data: memoryview) -> None:
            nonlocal most
            with self.lock:
                waiting.add(offset // BLOCK)
                most = max(most, len(waiting))

        def flush(self) -> None:
            flushed.update(waiting)

    def on_chunks(chunks: dict[int, bytes]) -> None:
        assert chunks.keys() <= flushed
        waiting.difference_update(chunks)

    with nbdkit("file", str(tmp_path / "disk")) as (uri, _):
        _copy.copy(uri, Watched(0), done={}, on_chunks=on_chunks, connections=3)
    assert not waiting
    assert most <= 4 + 3


def test_progress_rises_to_the_size(raw: Path, qcow2: Path):
    seen = []
    with serve([Image(str(qcow2), "qcow2")]) as uri:
        run(uri, raw.stat().st_size, progress=lambda count, zeroes: seen.append(count))
    assert seen == sorted(set(seen))
    assert seen[-1] == raw.stat().st_size


def test_a_terabyte_of_nothing_is_quick(tmp_path: Path):
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(1 << 40)
    with serve([Image(str(tmp_path / "disk"), "raw")]) as uri:
        sink, tree, recorded = run(uri, 0)
    assert (sink.written, recorded, tree.data) == ([], {}, 0)
    assert set(tree.digests) == {zero_digest(BLOCK)}


def test_source_error_is_unfinished(tmp_path: Path):
    with (
        nbdkit("--filter=error", "pattern", "64M", "error-pread=EIO", "error-pread-rate=100%") as (uri, _),
        pytest.raises(Unfinished, match="Input/output error; run again"),
    ):
        run(uri, 64 * MIB)


def test_killed_server_is_unfinished():
    # Far more than what is read ahead, so that there is something left to read when the first block is written.
    with nbdkit("pattern", "512M") as (uri, server):

        class Killer(Memory):
            def write(self, offset: int, data: memoryview) -> None:
                server.kill()

        with pytest.raises(Unfinished, match="reading the source failed"):
            _copy.copy(uri, Killer(0), done={}, on_chunks=lambda chunks: None)


def test_failing_sink_ends_all_threads(qcow2: Path):
    class Full(Memory):
        def write(self, offset: int, data: memoryview) -> None:
            raise OSError(28, "No space left on device")

    before = threading.active_count()
    with serve([Image(str(qcow2), "qcow2")]) as uri, pytest.raises(OSError, match="No space"):
        _copy.copy(uri, Full(0), done={}, on_chunks=lambda chunks: None)
    assert threading.active_count() == before


def test_read_back_reads_what_the_file_holds(raw: Path):
    with raw.open("r+b") as file:
        tree = _copy.read_back(file.fileno(), raw.stat().st_size)
        assert tree.digests == reference(raw.read_bytes())
        os.pwrite(file.fileno(), b"\1", 30 * MIB)
        assert tree.differences(_copy.read_back(file.fileno(), raw.stat().st_size)) == [7]


def test_blocks_split_ranges_at_their_borders():
    ranges = [(10, 20), (30, BLOCK + 5), (3 * BLOCK, 5 * BLOCK)]
    assert list(blocks(ranges)) == [
        (0, [(10, 20), (30, BLOCK)]),
        (1, [(BLOCK, BLOCK + 5)]),
        (3, [(3 * BLOCK, 4 * BLOCK)]),
        (4, [(4 * BLOCK, 5 * BLOCK)]),
    ]


def test_gaps_of_a_block_hold_nothing_of_the_one_before(raw: Path):
    content = raw.read_bytes()
    with serve([Image(str(raw), "raw")]) as uri:
        sink, tree, _ = run(uri, len(content), connections=1)
    assert sink.data == content
    assert tree.digests == reference(content)
    with raw.open("rb") as file:
        assert _copy.read_back(file.fileno(), len(content), threads=1).digests == reference(content)


def test_blocks_sent_again_are_whole_also_where_the_source_has_holes(raw: Path, qcow2: Path):
    content = raw.read_bytes()
    with serve([Image(str(qcow2), "qcow2")]) as uri:
        sink, tree, _ = run(uri, len(content))
        sink.data[:] = b"\xff" * len(content)
        sink.written.clear()
        bad = [0, 4, 5, 10]
        again = _copy.send_again(uri, sink, tree, bad, on_chunks=lambda chunks: None)
    assert again == tree
    for index in range(len(tree.digests)):
        part = slice(index * BLOCK, (index + 1) * BLOCK)
        assert (sink.data[part] == content[part]) == (index in bad)
