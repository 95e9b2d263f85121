"""Runs one copy in small batches, logs each block it writes, and kills itself at a named point."""

import os
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

from migrate import journal
from migrate.model import PlannedDisk
from migrate.transfer import _bytes, _copy, file

source, record, out, size, flush, connections, log, point = sys.argv[1:]
LOG = os.open(log, os.O_WRONLY | os.O_APPEND)
KIND, _, COUNT = point.partition(":")
_copy.FLUSH = int(flush)
file.copy = partial(_copy.copy, connections=int(connections))
passed: dict[str, int] = {}


def reach(kind: str) -> None:
    passed[kind] = passed.get(kind, 0) + 1
    if kind == KIND and passed[kind] == int(COUNT):
        os.kill(os.getpid(), signal.SIGKILL)


def before(kind: str, function):
    def wrapped(*arguments, **options):
        reach(kind)
        return function(*arguments, **options)

    return wrapped


def write(sink, offset, data, original=file._Sink.write):
    os.write(LOG, b"%d " % offset)
    original(sink, offset, data)
    reach("write")


def rename(*arguments, original=os.rename, **options):
    if point == "rename:0":
        os.kill(os.getpid(), signal.SIGKILL)
    original(*arguments, **options)
    if point == "rename:1" and arguments[1] == file.NAME:
        os.kill(os.getpid(), signal.SIGKILL)


def first_connection(*arguments, original=_bytes._first_connection):
    """The server runs and nobody has connected."""
    while KIND == "connect" and not list(Path(tempfile.gettempdir()).glob("kubevirt-migrate-*/nbd")):
        pass
    reach("connect")
    return original(*arguments)


_bytes._first_connection = first_connection
file._Sink.write = write
file._Sink.flush = before("flush", file._Sink.flush)
journal.Step.record = before("record", journal.Step.record)
journal.Step.place = before("place", journal.Step.place)
os.rename = rename

disk = PlannedDisk("vda", "default", "vm-vda", ["file"], source, "raw", int(size), None, None)
cluster = file.DirectoryTarget(Path(out))
with journal.opened(Path(record)) as opened_journal:
    if not journal.arrived(opened_journal.path, cluster.name):
        with _bytes.opened(_bytes.chain(source, "raw", [])) as opened:
            step = opened_journal.step("vm", "vda", cluster.name, opened.stamp)
            step.end(file.move(opened, disk, cluster, step))
