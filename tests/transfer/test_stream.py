"""Disks as bodies: qcow2 whose tables are computed beforehand, proved by qemu-img, and raw."""

import os
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transfer.servers import nbdkit

from migrate.model import Image, Unfinished
from migrate.transfer import _stream
from migrate.transfer._bytes import serve
from migrate.transfer._digest import BLOCK, digest
from migrate.transfer._nbd import Connection
from migrate.transfer._stream import Body

MIB, GIB = 1 << 20, 1 << 30


def save(body: Body, path: Path) -> Path:
    """Writes a body as a server would, piece by piece; its length was told beforehand."""
    with path.open("wb") as file:
        for piece in body:
            assert 0 < len(piece) <= MIB
            file.write(piece)
    assert path.stat().st_size == body.length
    return path


def proved(body: Body, path: Path, source: Path) -> None:
    """QEMU finds no fault with what was sent, and the same bytes."""
    save(body, path)
    checked = subprocess.run(["qemu-img", "check", "-f", "qcow2", path], capture_output=True, text=True, check=False)
    assert "No errors were found" in checked.stdout, checked
    subprocess.run(["qemu-img", "compare", "-F", "raw", "-f", "qcow2", path, source], check=True)


def reference(content: bytes) -> list[bytes]:
    return [digest(content[at : at + BLOCK]) for at in range(0, len(content), BLOCK)]


def clusters(path: Path) -> int:
    return struct.unpack(">I", path.read_bytes()[20:24])[0]


def test_qcow2_arrives_as_the_source_was(raw: Path, qcow2: Path, tmp_path: Path):
    with serve([Image(str(qcow2), "qcow2")]) as uri:
        body = _stream.qcow2(uri)
        proved(body, tmp_path / "sent", raw)
    assert body.length < 13 * MIB
    assert body.tree.digests == reference(raw.read_bytes())


def test_raw_arrives_as_the_source_was(raw: Path, qcow2: Path, tmp_path: Path):
    with serve([Image(str(qcow2), "qcow2")]) as uri:
        body = _stream.raw(uri)
        assert save(body, tmp_path / "sent").read_bytes() == raw.read_bytes()
    assert body.tree.digests == reference(raw.read_bytes())


@pytest.mark.parametrize("size", [0, 512, 4096, BLOCK - 512, BLOCK, BLOCK + 512, 2 * BLOCK + 1536])
def test_any_size(tmp_path: Path, size: int):
    content = os.urandom(size)
    (tmp_path / "disk").write_bytes(content)
    with nbdkit("file", str(tmp_path / "disk")) as (uri, _):
        proved(_stream.qcow2(uri), tmp_path / "sent", tmp_path / "disk")
        body = _stream.raw(uri)
        assert save(body, tmp_path / "sent").read_bytes() == content
    assert body.tree.digests == reference(content)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(1, 64 * MIB // 512),
    extents=st.lists(st.tuples(st.integers(0, 64 * MIB // 512), st.integers(1, 2 * MIB // 512)), max_size=12),
)
def test_any_extents_make_a_sound_qcow2(tmp_path: Path, size: int, extents: list[tuple[int, int]]):
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(size * 512)
        for start, length in extents:
            if start < size:
                file.seek(start * 512)
                file.write(b"\xa5" * (min(length, size - start) * 512))
    with nbdkit("file", str(disk)) as (uri, _):
        body = _stream.qcow2(uri)
        proved(body, tmp_path / "sent", disk)
    assert body.tree.digests == reference(disk.read_bytes())


@pytest.mark.parametrize("bits", range(12, 22))
def test_every_cluster_size_is_sound(raw: Path, tmp_path: Path, bits: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_stream, "_CLUSTER_BITS", [bits])
    with serve([Image(str(raw), "raw")]) as uri:
        proved(_stream.qcow2(uri), tmp_path / "sent", raw)
    assert clusters(tmp_path / "sent") == bits


def test_little_is_sent_but_data():
    with nbdkit("sparse-random", "size=64G", "percent=1.6", "runlength=262144") as (uri, _):
        with Connection(uri) as source:
            data = sum(end - start for start, end in source.data_ranges())
        length = _stream.qcow2(uri).length
    assert 0.9 * GIB < data < length <= 1.02 * data + MIB


def test_a_huge_disk_needs_few_tables(tmp_path: Path):
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(15 << 40)
        for number in range(64):
            os.pwrite(file.fileno(), b"\x5a" * 4096, number << 30)
    with nbdkit("file", str(tmp_path / "disk")) as (uri, _):
        body = _stream.qcow2(uri)
        save(body, tmp_path / "sent")
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", tmp_path / "sent"], check=True)
    assert body.length < 12 * MIB


def test_zeroes_of_a_server_without_extents_are_not_sent(raw: Path, tmp_path: Path):
    with nbdkit("--filter=noextents", "file", str(raw)) as (uri, _):
        body = _stream.qcow2(uri)
        proved(body, tmp_path / "sent", raw)
    assert body.length < 14 * MIB
    assert body.tree.digests == reference(raw.read_bytes())


def test_a_body_is_read_anew_each_time(raw: Path):
    seen: list[int] = []
    with serve([Image(str(raw), "raw")]) as uri:
        body = _stream.qcow2(uri, progress=lambda count, zeroes: seen.append(count))
        first, root = b"".join(body), body.tree.root
        assert (b"".join(body), body.tree.root) == (first, root)
    half = seen[: len(seen) // 2]
    assert half == sorted(half) == seen[len(half) :]
    assert half[-1] == raw.stat().st_size


def test_an_abandoned_body_leaves_no_threads(raw: Path):
    before = threading.active_count()
    with serve([Image(str(raw), "raw")]) as uri:
        pieces = iter(_stream.raw(uri))
        next(pieces)
        assert threading.active_count() > before
        pieces.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("body", [_stream.qcow2, _stream.raw])
def test_source_error_is_unfinished(body: Callable[[str], Body]):
    failing = ["--filter=error", "pattern", "64M", "error-pread=EIO", "error-pread-rate=100%"]
    with nbdkit(*failing) as (uri, _), pytest.raises(Unfinished, match="Input/output error; run again"):
        list(body(uri))


def test_reading_ahead_is_bounded():
    with nbdkit("--filter=stats", "pattern", "256M", "statsfile=/dev/null") as (uri, _):
        pieces = iter(_stream.raw(uri))
        held = {id(next(pieces).obj) for _ in range(200)}
        pieces.close()
    assert len(held) <= 2 * _stream.READERS
