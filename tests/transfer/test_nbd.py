"""Copies from one NBD server to another, and what a server that may be written to does not know."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from transfer.conftest import MIB, qemu_img
from transfer.servers import nbdkit

from migrate.model import Image, Unfinished
from migrate.transfer import _copy
from migrate.transfer._bytes import serve
from migrate.transfer._digest import Tree
from migrate.transfer._nbd import Connection, Export


@contextmanager
def written(path: Path, format: str) -> Iterator[str]:
    """qemu-nbd on an image that may be written to."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--persistent", "--shared=16", f"--socket={folder}/nbd", f"--pid-file={folder}/pid"]
        server = subprocess.Popen(["qemu-nbd", *options, f"--format={format}", "--discard=unmap", path])
        try:
            while not Path(folder, "pid").exists():
                assert server.poll() is None
            yield f"nbd+unix:///?socket={folder}/nbd"
        finally:
            server.terminate()
            server.wait()


def send(source: str, target: str) -> Tree:
    with Export(target, 4) as sink:
        return _copy.copy(source, sink, done={}, on_chunks=lambda chunks: None)


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_disk_arrives_at_another_server(raw: Path, qcow2: Path, tmp_path: Path, format: str):
    qemu_img("create", "-q", "-f", format, tmp_path / "target", str(raw.stat().st_size))
    with serve([Image(str(qcow2), "qcow2")]) as source, written(tmp_path / "target", format) as target:
        sent = send(source, target)
        assert _copy.read_export(target).digests == sent.digests
        with Connection(target) as export:
            assert export.shares
            assert sum(end - start for start, end in export.data_ranges()) < 14 * MIB
    qemu_img("compare", "-f", format, "-F", "raw", tmp_path / "target", raw)


def test_bad_blocks_of_another_server_are_sent_again(raw: Path, tmp_path: Path):
    size = raw.stat().st_size
    (tmp_path / "target").write_bytes(b"\xff" * size)
    with serve([Image(str(raw), "raw")]) as source, written(tmp_path / "target", "raw") as target:
        sent = send(source, target)
        bad = sent.differences(_copy.read_export(target))
        assert bad == [0, 1, *range(3, 11)]  # the third is all data
        with Export(target, 4) as sink:
            _copy.send_again(source, sink, sent, bad, on_chunks=lambda chunks: None)
        assert _copy.read_export(target).root == sent.root
    assert (tmp_path / "target").read_bytes() == raw.read_bytes()


def test_a_server_whose_connections_share_nothing_is_written_over_one(raw: Path, tmp_path: Path):
    with nbdkit("--filter=multi-conn", "memory", "64M", "multi-conn-mode=disable", writable=True) as (target, _):
        with Connection(target) as export:
            assert not export.shares
        with serve([Image(str(raw), "raw")]) as source:
            sent = send(source, target)
        found = _copy.read_export(target)
    assert found.digests[:10] == sent.digests[:10]


def test_more_zeroes_than_one_request_holds():
    with nbdkit("memory", "5G", writable=True) as (target, _), Export(target, 1) as sink:
        sink.write(5 * 1024 * MIB - 4096, memoryview(bytearray(b"\x01" * 4096)))
        sink.zero(0, 5 * 1024 * MIB)
        with Connection(target) as export:
            assert list(export.data_ranges()) == []


@pytest.mark.parametrize("fault", ["error-pwrite", "error-zero"])
def test_a_failing_target_is_unfinished(raw: Path, fault: str):
    failing = ["--filter=error", "memory", "64M", f"{fault}=ENOSPC", f"{fault}-rate=100%"]
    with (
        serve([Image(str(raw), "raw")]) as source,
        nbdkit(*failing, writable=True) as (target, _),
        pytest.raises(Unfinished, match=r"writing to the NBD server failed: .*No space left on device; run again"),
    ):
        with Export(target, 4) as sink:
            sink.zero(0, 64 * MIB)
        send(source, target)
