"""The journal of a plan: an append-only file of what `apply` did, from which it goes on after any end.

Each line is one JSON object whose last member `sum` is a BLAKE2b-64 of the text before it. A line is durable before
what it records counts. A torn last line is dropped; damage anywhere else is Refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from migrate.model import Evidence, Refused, Unfinished

NAME = "journal.jsonl"
_DIGESTS_A_LINE = 4096

Key = tuple[str, str, str, str]  # vm, disk, target, namespace
Name = tuple[str, str, str]  # kind, namespace, name


@dataclass(frozen=True, slots=True)
class Made:
    """An object that a plan made in a cluster, or is about to: then without the `uid` that the cluster gave it.

    `mark` is the label by which the plan knows its objects again. `again` says that it is made in place of one that
    somebody else removed.
    """

    vm: str
    kind: str
    namespace: str
    name: str
    mark: str
    uid: str | None = None
    again: bool = False

    @property
    def key(self) -> Name:
        """What an object is called in its cluster."""
        return self.kind, self.namespace, self.name


@dataclass(slots=True)
class Step:
    """One disk on its way to one namespace of a target: what earlier runs made durable, and how this one records more.

    `done` has the digests of finished blocks by index, valid for a source of this `stamp` only; `placed` identifies
    the file that an earlier run was about to put into place; `restarted` says why earlier work is not used. `sent` has
    the uid of the claim that an earlier run sent the whole disk to, and its bytes of data.
    """

    journal: Journal
    vm: str
    disk: str
    target: str
    stamp: str
    namespace: str
    done: dict[int, bytes] = field(default_factory=dict)
    placed: list[int] | None = None
    restarted: str | None = None
    sent: tuple[str, int] | None = None

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
        self.done, self.sent, self.restarted = {}, None, reason

    def send(self, uid: str, data: int, digests: dict[int, bytes]) -> None:
        """Records that the whole disk was sent to the claim of this uid, with the digests of its blocks."""
        items = sorted(digests.items())
        for start in range(0, len(items), _DIGESTS_A_LINE):
            self.record(dict(items[start : start + _DIGESTS_A_LINE]))
        self._append("sent", uid=uid, data=data)
        self.sent = uid, data

    def end(self, evidence: Evidence) -> None:
        """Records that the disk has arrived."""
        self.journal.prove(self.target, evidence)

    @property
    def plan(self) -> Path:
        """The plan's folder, in which the journal lies."""
        return self.journal.path.parent

    def _append(self, kind: str, **facts: Any) -> None:
        self.journal.append({"kind": kind, **_place(self.vm, self.disk, self.target, self.namespace), **facts})


class Journal:
    """The journal while `apply` runs: `opened` is the way to get one."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor, self._end = path, descriptor, 0
        self._lock = threading.Lock()
        self._objects: dict[str, dict[Name, Made]] = {}
        self._states = _replay(self._lines(), keep=False)
        os.ftruncate(descriptor, self._end)

    def step(self, vm: str, disk: str, target: str, stamp: str, namespace: str = "default") -> Step:
        """Begins or goes on with a disk: blocks done earlier count when the source still has the same stamp."""
        state = self._states.get((vm, disk, target, namespace), _State())
        step = Step(self, vm, disk, target, stamp, namespace, state.done, state.placed, sent=state.sent)
        if (state.done or state.sent) and state.stamp != stamp:
            step.void("the source changed since the last run: the copy starts anew")
        self.append({"kind": "begin", **_place(vm, disk, target, namespace), "stamp": stamp})
        return step

    def _lines(self) -> Iterator[dict[str, Any]]:
        for end, record in _read(self.path):
            self._end = end
            _note(self._objects, record)
            yield record

    def prove(self, target: str, evidence: Evidence) -> None:
        """Records what is known of a disk that has arrived."""
        place = _place(evidence.vm, evidence.disk, target, evidence.namespace)
        self.append({"kind": "evidence", **place, "evidence": asdict(evidence)})

    def forget(self, target: str, evidence: Evidence, reason: str) -> None:
        """Records that a disk that had arrived is not there any more."""
        place = _place(evidence.vm, evidence.disk, target, evidence.namespace)
        self.append({"kind": "void", **place, "reason": reason})

    def objects(self, target: str) -> list[Made]:
        """What the plan made at a target and did not remove, in this order."""
        return list(self._objects.get(target, {}).values())

    def made(self, target: str, key: Name) -> Made | None:
        """What is recorded of an object, None where the plan has not made it."""
        return self._objects.get(target, {}).get(key)

    def make(self, target: str, vm: str, key: Name) -> Made:
        """Records that an object is about to be made."""
        mark = next((made.mark for made in self.objects(target)), None) or secrets.token_hex(8)
        before = self.made(target, key)
        again = before is not None and (before.again or before.uid is not None)
        return self._object("make", target, Made(vm, *key, mark, again=again))

    def exists(self, target: str, made: Made, uid: str) -> None:
        """Records the uid that an object got."""
        self._object("made", target, replace(made, uid=uid))

    def remove(self, target: str, made: Made) -> None:
        """Records that an object is gone."""
        self._object("removed", target, made)

    def _object(self, kind: str, target: str, made: Made) -> Made:
        record = {"kind": kind, "vm": made.vm, "disk": "", "target": target, "object": asdict(made)}
        self.append(record)
        _note(self._objects, record)
        return made

    def append(self, record: dict[str, Any]) -> None:
        """Adds a durable line; on failure the file is as before and Unfinished is raised."""
        line = _line(record)
        with self._lock:
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


def objects(path: Path, target: str) -> list[Made]:
    """What a plan made at a target and did not remove, in this order, also of a journal that is being written."""
    found: dict[str, dict[Name, Made]] = {}
    for _, record in _read(path):
        _note(found, record)
    return list(found.get(target, {}).values())


def targets(path: Path) -> list[str]:
    """The targets that a plan was applied to, in this order, less those where it came to nothing."""
    tried: dict[str, bool] = {}
    for _, record in _read(path):
        tried[record["target"]] = tried.get(record["target"], False) or record["kind"] != "begin"
    return [target for target, reached in tried.items() if reached] or list(tried)


def begun(path: Path, target: str) -> dict[tuple[str, str, str], int]:
    """How many blocks have been recorded of each disk that was begun at a target, by VM, disk and namespace."""
    states = _replay((record for _, record in _read(path) if record["target"] == target), keep=True)
    return {(vm, disk, place): len(state.done) for (vm, disk, _, place), state in states.items() if disk}


def digests(path: Path, vm: str, disk: str, target: str, namespace: str = "default") -> dict[int, bytes]:
    """The digests of the blocks of a disk that were sent to a target, by index; blocks that are absent were zero."""
    return digests_at(path, target)(vm, disk, namespace)


def digests_at(path: Path, target: str) -> Callable[[str, str, str], dict[int, bytes]]:
    """The `digests` of any disk at a target, by VM, disk and namespace; the journal is gone through once for all."""
    lines: dict[Key, list[tuple[int, int]]] = defaultdict(list)
    start = 0
    for end, record in _read(path):
        if record["target"] == target:
            lines[_key(record)].append((start, end - start))
        start = end

    def find(vm: str, disk: str, namespace: str) -> dict[int, bytes]:
        key = (vm, disk, target, namespace)
        if key not in lines:
            return {}
        with path.open("rb") as file:
            texts = (os.pread(file.fileno(), length, offset) for offset, length in lines[key])
            return _replay(map(json.loads, texts), keep=True)[key].done

    return find


@dataclass(slots=True)
class _State:
    stamp: str = ""
    done: dict[int, bytes] = field(default_factory=dict)
    placed: list[int] | None = None
    sent: tuple[str, int] | None = None
    evidence: Evidence | None = None


def _note(objects: dict[str, dict[Name, Made]], record: dict[str, Any]) -> None:
    """Takes what a record says of an object into the objects by target and name."""
    if record["kind"] in ("make", "made", "removed"):
        made = Made(**record["object"])
        there = objects.setdefault(record["target"], {})
        if record["kind"] == "removed":
            there.pop(made.key, None)
        else:
            there[made.key] = made


def _replay(records: Iterable[dict[str, Any]], *, keep: bool) -> dict[Key, _State]:
    """Where each disk stands; the digests of disks that have arrived only with `keep`."""
    states: dict[Key, _State] = {}
    for record in records:
        state = states.setdefault(_key(record), _State())
        match record["kind"]:
            case "begin":
                if state.evidence:
                    state.done, state.placed, state.sent, state.evidence = {}, None, None, None
                state.stamp = record["stamp"]
            case "chunks":
                state.done |= {int(index): bytes.fromhex(value) for index, value in record["chunks"].items()}
            case "place":
                state.placed = record["identity"]
            case "void":
                state.done, state.sent, state.evidence = {}, None, None
            case "sent":
                state.sent = record["uid"], record["data"]
            case "evidence":
                state.evidence = Evidence(**record["evidence"])
                state.done = state.done if keep else {}
    return states


def _key(record: dict[str, Any]) -> Key:
    return record["vm"], record["disk"], record["target"], record.get("namespace", "")


def _place(vm: str, disk: str, target: str, namespace: str) -> dict[str, str]:
    return {"vm": vm, "disk": disk, "target": target, "namespace": namespace}


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
