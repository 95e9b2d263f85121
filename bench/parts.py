"""What the benchmarks of copies share: images, servers, the reference, and how a ratio is told."""

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from migrate import journal
from migrate.model import Unfinished
from migrate.transfer import _bytes, _copy
from migrate.transfer._nbd import Connection, Export

MIB, GIB = 1 << 20, 1 << 30


def tell(what: str, ratio: float, goal: float) -> None:
    """Prints a ratio, its goal, and whether it is met."""
    print(f"{what}: {ratio:.2f} (goal: at most {goal}, {'met' if ratio <= goal else 'MISSED'})", flush=True)


def image(path: Path, size: int, pieces: int, piece: int) -> Path:
    """A qcow2 with pieces of random data, evenly spread; the same bytes without holes stand beside it, as .data."""
    raw = path.with_suffix(".raw")
    with raw.open("wb") as disk, path.with_suffix(".data").open("wb") as data:
        disk.truncate(size)
        for number in range(pieces):
            content = random.Random(number).randbytes(piece)
            disk.seek(number * (size // pieces))
            disk.write(content)
            data.write(content)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, path], check=True)
    raw.unlink()
    os.sync()
    return path


@contextmanager
def target(path: Path, size: int) -> Iterator[str]:
    """A qemu-nbd that writes to a new raw file, past the page cache; the file is gone at the end."""
    with path.open("wb") as disk:
        disk.truncate(size)
    socket = path.with_suffix(".socket")
    uri = _bytes.unix_uri(socket)
    options = ["--persistent", "--shared=16", "--format=raw", "--cache=none", "--discard=unmap", f"--socket={socket}"]
    server = subprocess.Popen(["qemu-nbd", *options, path])
    try:
        while server.poll() is None:
            with suppress(Unfinished), Connection(uri):
                break
        yield uri
    finally:
        server.terminate()
        server.wait()
        path.unlink()


def copy(source: str, sink: str, record: Path) -> None:
    """Our copy, journalled and flushed."""
    with journal.opened(record) as lines, Export(sink, _copy.CONNECTIONS) as export:
        _copy.copy(source, export, done={}, on_chunks=lines.step("bench", "vda", sink, "").record)
    record.unlink()


def nbdcopy(source: str, sink: str, data: Path | None) -> None:
    """nbdcopy with a flush, and a BLAKE2b over the same bytes at the same time if they are given."""
    running = [subprocess.Popen(["nbdcopy", "--flush", source, sink])]
    if data:
        running.append(subprocess.Popen(["b2sum", "--length=256", data], stdout=subprocess.DEVNULL))
    if any([process.wait() for process in running]):
        raise SystemExit("nbdcopy or b2sum failed")


def seconds(run: Callable[[], object]) -> float:
    """How long a call takes, after all that was written earlier is on disk."""
    os.sync()
    started = time.monotonic()
    run()
    return time.monotonic() - started
