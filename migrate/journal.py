"""The journal of a plan: an append-only file of what `apply` did, from which it goes on after any end.

Each line is one JSON object whose last member `sum` is a BLAKE2b-64 of the text before it. A line is durable before
what it records counts. A torn last line is dropped; damage anywhere else is Refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from migrate.model import Evidence, Refused, Unfinished

NAME = "journal.jsonl"

Key = tuple[str, str, str]  # vm, disk, target


@dataclass(slots=True)
class Step:
    """One disk on its way to one target: what earlier runs made durable, and how this run records more.

    `done` has the digests of finished blocks by index, valid for a source of this `stamp` only; `placed` identifies
    the file that an earlier run was about to put into place; `restarted` says why earlier work is not used.
    """

    journal: Journal
    vm: str
    disk: str
    target: str
    stamp: str
    done: dict[int, bytes] = field(default_factory=dict)
    placed: list[int] | None = None
    restarted: str | None = None

    def record(self, chunks: dict[int, bytes]) -> None:
        """Records blocks that are durable on the target."""
        self._append("chunks", chunks={str(index): value.hex() for index, value in chunks.items()})
        self.done.update(chunks)

    def place(self, identity: list[int]) -> None:
        """Records which file is about to be given its final name."""
        self._append("place", identity=identity)
        self.placed = identity

    def void(self, reason: str) -> None:
        """Records that nothing of this step counts any more."""
        self._append("void", reason=reason)
        self.done, self.restarted = {}, reason

    def end(self, evidence: Evidence) -> None:
        """Records that the disk has arrived."""
        self._append("evidence", evidence=asdict(evidence))

    @property
    def plan(self) -> Path:
        """The plan's folder, in which the journal lies."""
        return self.journal.path.parent

    def _append(self, kind: str, **facts: Any) -> None:
        self.journal.append({"kind": kind, "vm": self.vm, "disk": self.disk, "target": self.target, **facts})


class Journal:
    """The journal while `apply` runs: `opened` is the way to get one."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor, self._end = path, descriptor, 0
        self._states = _replay(self._lines(), keep=False)
        os.ftruncate(descriptor, self._end)

    def step(self, vm: str, disk: str, target: str, stamp: str) -> Step:
        """Begins or goes on with a disk: blocks done earlier count when the source still has the same stamp."""
        state = self._states.get((vm, disk, target), _State())
        step = Step(self, vm, disk, target, stamp, state.done, state.placed)
        if state.done and state.stamp != stamp:
            step.void("the source changed since the last run: the copy starts anew")
        self.append({"kind": "begin", "vm": vm, "disk": disk, "target": target, "stamp": stamp})
        return step

    def _lines(self) -> Iterator[dict[str, Any]]:
        for end, record in _read(self.path):
            self._end = end
            yield record

    def append(self, record: dict[str, Any]) -> None:
        """Adds a durable line; on failure the file is as before and Unfinished is raised."""
        line = _line(record)
        try:
            written = 0
            while written < len(line):
                written += os.pwrite(self._descriptor, line[written:], self._end + written)
            os.fdatasync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            raise Unfinished(f"{self.path} cannot be written ({error.strerror}): make room and run again") from None
        self._end += len(line)


@contextmanager
def opened(path: Path) -> Iterator[Journal]:
    """The journal at `path`, made where there is none, for this process alone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Refused(f"{path} cannot be opened: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another apply is running on this plan ({path}): wait for it to end") from None
        _sync_folder(path.parent)
        yield Journal(path, descriptor)
    finally:
        os.close(descriptor)


def arrived(path: Path, target: str) -> dict[tuple[str, str], Evidence]:
    """The evidence of what has arrived at a target, by namespace and claim, also of a journal that is being written."""
    states = _replay((record for _, record in _read(path) if record["target"] == target), keep=False)
    found = (state.evidence for state in states.values() if state.evidence)
    return {(evidence.namespace, evidence.claim): evidence for evidence in found}


def digests(path: Path, vm: str, disk: str, target: str) -> dict[int, bytes]:
    """The digests of the blocks of a disk that were sent to a target, by index; blocks that are absent were zero."""
    key = (vm, disk, target)
    return _replay((record for _, record in _read(path) if _key(record) == key), keep=True).get(key, _State()).done


@dataclass(slots=True)
class _State:
    stamp: str = ""
    done: dict[int, bytes] = field(default_factory=dict)
    placed: list[int] | None = None
    evidence: Evidence | None = None


def _replay(records: Iterable[dict[str, Any]], *, keep: bool) -> dict[Key, _State]:
    """Where each disk stands; the digests of disks that have arrived only with `keep`."""
    states: dict[Key, _State] = {}
    for record in records:
        state = states.setdefault(_key(record), _State())
        match record["kind"]:
            case "begin":
                if state.evidence:
                    state.done, state.placed, state.evidence = {}, None, None
                state.stamp = record["stamp"]
            case "chunks":
                state.done |= {int(index): bytes.fromhex(value) for index, value in record["chunks"].items()}
            case "place":
                state.placed = record["identity"]
            case "void":
                state.done, state.evidence = {}, None
            case "evidence":
                state.evidence = Evidence(**record["evidence"])
                state.done = state.done if keep else {}
    return states


def _key(record: dict[str, Any]) -> Key:
    return record["vm"], record["disk"], record["target"]


def _sum(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).hexdigest().encode()


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode().removesuffix(b"}")
    return text + b',"sum":"' + _sum(text) + b'"}\n'


def _read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each record with the offset of its end; the last line is left out when torn, damage elsewhere is Refused."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        end, number = 0, 0
        while line := file.readline():
            number += 1
            text, mark, rest = line.rpartition(b',"sum":"')
            if not mark or rest != _sum(text) + b'"}\n':
                if file.readline():
                    raise Refused(f"{path} is damaged in line {number}: restore it, or plan into a new folder")
                return
            end += len(line)
            yield end, json.loads(text + b"}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
