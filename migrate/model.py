"""The nouns of the whole program: what a VM, a disk, a ledger entry, a finding and a plan are.

Plain data, no behaviour beyond what follows from the fields. Sizes are bytes; paths of leaves are dotted and
indexed from 0 (`devices.disk[0].target.bus`); target paths name list items by key
(`domain.devices.disks[vda].disk.bus`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Severity = Literal["note", "warning", "blocker"]
Fate = Literal["write", "default", "flag", "ignore"]
Verdict = Literal["ready", "changed", "blocked", "skipped"]

SEVERITIES: tuple[Severity, ...] = ("note", "warning", "blocker")
REDACTED = "(redacted)"


class Refused(Exception):
    """Bad use or bad input: one line that says what to do. The command ends with exit code 2."""


class Unfinished(Exception):
    """A transfer that did not end and can be run again. The command ends with exit code 3."""


class Mismatch(Exception):
    """Bytes that were read back differ from the bytes that were sent. The command ends with exit code 4."""


def short_hash(*parts: str, digits: int = 12) -> str:
    """Hex digits of the SHA-256 over parts joined by NUL: the same on every machine and in every run."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:digits]


@dataclass(slots=True)
class Image:
    """One file or device of a backing chain: where it is and its format as declared, never as probed.

    `snapshots` and `bitmaps` are how many it holds itself.
    """

    path: str
    format: str
    data_file: str | None = None
    snapshots: int = 0
    bitmaps: int = 0


@dataclass(slots=True)
class Disk:
    """What the source knows of one disk: identity from the domain, facts from the storage.

    `target` is the domain's target dev and is unique in a VM. `capacity` is the virtual size and `allocation` what it
    takes on the source, both in bytes, None where unknown. `chain` is what the headers name, top first. `named` is what
    the domain itself names of it, top first, empty where that is the top alone; `ends` says that nothing is below the
    last of them. `problem` says why a fact is missing, or why the disk cannot be copied.
    """

    target: str
    device: str = "disk"
    type: str = "file"
    path: str | None = None
    format: str | None = None
    capacity: int | None = None
    allocation: int | None = None
    chain: list[Image] = field(default_factory=list)
    pool: str | None = None
    volume: str | None = None
    problem: str | None = None
    named: list[Image] = field(default_factory=list)
    ends: bool = False


@dataclass(slots=True)
class BlockJob:
    """A job of the hypervisor that works on a disk: `kind` is pull, copy, commit, active-commit or backup.

    One that is `ready` mirrors the disk until it is ended.
    """

    disk: str
    kind: str
    ready: bool = False


@dataclass(slots=True)
class VM:
    """One virtual machine of an inventory: who it is, where it lives, how it stands. Its shape is in the domain XML.

    `source` is canonical (`qemu://HOST/system`, `files://PATH`) and with `uuid` makes the identity; `url` is what
    reaches the source again. `folder` is the folder and the Kubernetes name; once recorded it stays. `project` and
    `tags` are those of the platform above libvirt. `live` is the domain XML of the running guest where `has_live`.
    `digest` is of both as they were listed, nothing before. `autostart` tells whether the source starts the VM with its
    host, None where the source does not know.
    """

    name: str
    uuid: str
    kind: str
    source: str
    url: str
    host: str = ""
    folder: str = ""
    state: str = "unknown"
    transient: bool = False
    managed_save: bool = False
    autostart: bool | None = None
    snapshots: list[str] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    disks: list[Disk] = field(default_factory=list)
    pool_paths: list[str] = field(default_factory=list)
    project: str = ""
    tags: list[str] = field(default_factory=list)
    jobs: list[BlockJob] = field(default_factory=list)
    has_live: bool = False
    digest: str = ""
    xml: bytes = b""
    live: bytes = b""

    @property
    def id(self) -> str:
        """The identity as 16 hex digits."""
        return short_hash(self.source, self.uuid, digits=16)


@dataclass(slots=True)
class Skipped:
    """A VM that could not be read, with the reason. It counts as a blocker for `--fail-on`."""

    name: str
    source: str
    reason: str

    @property
    def whole(self) -> bool:
        """Whether it stands for a host or a file, which it is named after, with all VMs in it."""
        return self.name in (self.source, self.source.removeprefix("files://"))


class LeftOut(Skipped):
    """A VM that the site file leaves out, with its reason. It counts for nothing."""


@dataclass(slots=True)
class Waiver:
    """Why a finding does not count, and the last day (ISO 8601) on which it does not."""

    reason: str
    until: str


@dataclass(slots=True)
class Finding:
    """Something that changes or is lost for the guest: first what happens, then what to do.

    `id` is rule/row; `parts` tell the finding from all others, over runs and whatever its device's index; `path` is
    None for findings that no single leaf causes.
    `value` is the leaf's; of several leaves `name=value` each, the first of them at `path`. A finding with `waived`
    does not count for the verdict; `ended` is a waiver that no longer holds.
    """

    id: str
    parts: tuple[str, ...]
    rule: str
    severity: Severity
    path: str | None
    value: str | None
    target: str | None
    because: str
    remedy: str
    waived: Waiver | None = None
    ended: Waiver | None = None

    @property
    def key(self) -> str:
        """The finding's name among those of all VMs: the same in every run, and where devices change places."""
        return short_hash(*self.parts)


class Entry(Protocol):
    """What became of one leaf of the source document. `writes` maps target paths to the values written there."""

    path: str
    value: str
    rule: str
    fate: Fate
    writes: dict[str, Any]
    because: str | None
    findings: list[Finding]
    implied: bool


@dataclass(slots=True)
class Gain:
    """Something KubeVirt adds that the source did not have."""

    path: str
    value: Any
    because: str


@dataclass(slots=True)
class Translation:
    """One VM after translation: its ledger, what no leaf caused, and the Kubernetes objects made of it.

    `manifest`, `claims` and `volumes` (of LUNs, bound to claims) are plain data; `disks` are rows of the plan, one for
    each disk that needs a claim. `tree` is the domain's XML element and `live` the running domain's XML, both without
    secrets; `wave` says when it is the VM's turn, 0 first. `internal` says that a rule broke a law.
    """

    vm: VM
    entries: Sequence[Entry]
    findings: list[Finding] = field(default_factory=list)
    gains: list[Gain] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    claims: list[dict[str, Any]] = field(default_factory=list)
    volumes: list[dict[str, Any]] = field(default_factory=list)
    disks: list[PlannedDisk] = field(default_factory=list)
    tree: Any = field(default=None, repr=False)
    live: bytes = b""
    wave: int = 0
    internal: bool = False

    def all_findings(self) -> list[Finding]:
        """Every finding, those of leaves in document order first."""
        return [finding for entry in self.entries for finding in entry.findings] + self.findings

    @property
    def verdict(self) -> Verdict:
        """`blocked` with a blocker, `changed` with a warning, else `ready`; what is waived does not count."""
        severities = {finding.severity for finding in self.all_findings() if not finding.waived}
        return "blocked" if "blocker" in severities else "changed" if "warning" in severities else "ready"


@dataclass(slots=True)
class PlannedDisk:
    """A disk and the claim it goes to; the first of `methods` that serves fills it, `unfit` says why none does.

    `bytes` is the virtual size, `size` what the claim asks for. `volume` is that of a LUN which is handed over.
    """

    name: str
    namespace: str
    claim: str
    methods: list[str]
    path: str | None
    format: str | None
    bytes: int | None
    allocated: int | None
    size: int | None
    chain: list[Image] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    unfit: str | None = None
    volume: str | None = None


@dataclass(slots=True)
class Evidence:
    """Proof that a claim holds what the source held: equal digests, and the command that checks again.

    `source` and `read_back` are hex roots of BLAKE2b-256 trees over 4 MiB blocks; times are seconds. `repaired` blocks
    read back wrong at first and were sent again. `uid` is that of a claim on a cluster. `unverified` says why nothing
    could be read back: then there is no proof.
    """

    vm: str
    disk: str
    namespace: str
    claim: str
    method: str
    bytes: int
    data: int
    source: str
    read_back: str
    copy_seconds: float
    read_back_seconds: float
    check: str
    repaired: int = 0
    uid: str = ""
    unverified: str = ""
