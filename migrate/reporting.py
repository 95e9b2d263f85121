"""What a person or a pipeline reads of a plan: the files of the plan folder, and the summary on the terminal.

Every view is of the ledger: nothing here decides anything.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from migrate import journal
from migrate.collisions import is_shared
from migrate.model import SEVERITIES, VM, Entry, Finding, LeftOut, Refused, Skipped, Translation, Verdict, Waiver
from migrate.target import manifests
from migrate.target.quantity import human
from migrate.target.vocabulary import Target

if TYPE_CHECKING:
    from rich.table import Table

LINE = orjson.OPT_APPEND_NEWLINE
SCHEMA = 1
SITE, SOURCE, LIVE, CLAIMS = "site.yaml", "source.xml", "live.xml", "claims.yaml"
BLOCKED = (
    "# Blocked: {count} finding(s) stand against this VM, see report.json. It is left out of kustomization.yaml.\n"
)


def coverage(entries: Iterable[Entry]) -> dict[str, int]:
    """How many leaves of the source have each fate. Implied leaves do not count; `unknown` is a part of `flag`."""
    fates: Counter[str] = Counter()
    for entry in entries:
        if not entry.implied:
            fates[entry.fate] += 1
            fates["unknown"] += entry.rule == "unknown"
    words = {word: fates[word] for word in ("write", "default", "flag", "ignore")}
    return {"leaves": sum(words.values()), **words, "unknown": fates["unknown"]}


def ledger_line(entry: Entry) -> bytes:
    """One line of ledger.jsonl."""
    line: dict[str, Any] = {
        "path": entry.path,
        "value": entry.value,
        "rule": entry.rule,
        "fate": entry.fate,
        "writes": entry.writes,
        "because": entry.because,
        "findings": [
            {
                "id": item.id,
                "key": item.key,
                "severity": item.severity,
                "because": item.because,
                "remedy": item.remedy,
                **_waivers(item),
            }
            for item in entry.findings
        ],
    }
    if entry.implied:
        line["implied"] = True
    return orjson.dumps(line, option=LINE)


def report_row(translation: Translation) -> dict[str, Any]:
    """A VM of report.json."""
    vm = translation.vm
    return {
        "name": vm.name,
        "source": vm.source,
        "id": vm.id,
        "uuid": vm.uuid,
        "folder": vm.folder,
        "state": vm.state,
        "managedSave": vm.managed_save,
        "snapshots": vm.snapshots,
        "checkpoints": vm.checkpoints,
        "wave": translation.wave,
        "verdict": translation.verdict,
        "manifest": f"{vm.folder}/vm.yaml",
        "findings": [finding_document(finding) for finding in translation.all_findings()],
        "coverage": coverage(translation.entries),
        "gains": [{"path": gain.path, "value": gain.value, "because": gain.because} for gain in translation.gains],
        "disks": [
            {
                "name": disk.name,
                "path": disk.path,
                "bytes": disk.bytes,
                "allocated": disk.allocated,
                "requested": disk.size,
                "claim": f"{disk.namespace}/{disk.claim}",
            }
            for disk in translation.disks
        ],
    }


def target_document(target: Target) -> dict[str, Any]:
    """`target` of report.json."""
    found: dict[str, Any] = {"kubevirt": target.kubevirt, "featureGates": sorted(target.gates)}
    if target.machines:
        found["emulatedMachines"] = sorted(target.machines)
    if target.vga_for_efi:
        found["vgaDisplayForEFIGuests"] = True
    if target.plugins:
        found["networkBindings"] = sorted(target.plugins)
    if target.obsolete:
        found["obsoleteCPUModels"] = sorted(target.obsolete)
    return found


def finding_document(finding: Finding) -> dict[str, Any]:
    """A finding of report.json."""
    return {name: getattr(finding, name) for name in FINDING} | _waivers(finding)


FINDING = ("id", "key", "rule", "severity", "path", "value", "target", "because", "remedy")


def _waivers(finding: Finding) -> dict[str, Any]:
    """The waiver of a finding that has one, or the one that has ended."""
    found = {"waived": finding.waived, "waiverEnded": finding.ended}
    return {name: asdict(waiver) for name, waiver in found.items() if waiver}


RECORD = tuple(each.name for each in fields(VM) if each.name not in ("xml", "live"))


def plan_row(translation: Translation) -> dict[str, Any]:
    """A VM of plan.json: what `apply` needs to reach the source again and to copy its disks."""
    vm = translation.vm
    record = {name: getattr(vm, name) for name in RECORD}
    return {"verdict": translation.verdict, "wave": translation.wave, "disks": translation.disks, "vm": record}


@dataclass(slots=True)
class Row:
    """What the report and the terminal need of one VM: counts, its shown row, and its lines of the documents.

    `resources` are its files that `kubectl apply -k` takes, `shared` its claims that other VMs have too. A VM that
    could not be read is `skipped`.
    """

    skipped: Skipped | None = None
    folder: str = ""
    verdict: Verdict | Literal["skipped"] = "skipped"
    findings: Counter[str] = field(default_factory=Counter)
    waived: int = 0
    ended: list[Waiver] = field(default_factory=list)
    blockers: list[Finding] = field(default_factory=list)
    disks: int = 0
    bytes: int = 0
    internal: bool = False
    shown: tuple[str, ...] = ()
    resources: list[str] = field(default_factory=list)
    shared: list[dict[str, Any]] = field(default_factory=list)
    report: bytes = b""
    plan: bytes = b""


def _row(item: Translation) -> Row:
    findings = item.all_findings()
    counts = Counter(finding.severity for finding in findings if not finding.waived)
    size = sum(disk.bytes or 0 for disk in item.disks)
    unsized = any(disk.bytes is None for disk in item.disks)
    amount = human(None if unsized and not size else size) + (" + ?" if unsized and size else "")
    report = report_row(item)
    numbers = [str(counts[severity] or "") for severity in reversed(SEVERITIES)]
    disks, leaves = len(item.disks), report["coverage"]["leaves"]
    return Row(
        folder=item.vm.folder,
        verdict=report["verdict"],
        findings=counts,
        waived=len(findings) - counts.total(),
        ended=[finding.ended for finding in findings if finding.ended],
        blockers=[finding for finding in findings if finding.severity == "blocker" and not finding.waived],
        disks=disks,
        bytes=size,
        internal=item.internal,
        shown=(item.vm.folder, report["verdict"], *numbers, str(disks or ""), amount if disks else "", str(leaves)),
        report=orjson.dumps(report, option=LINE),
        plan=orjson.dumps(plan_row(item), option=LINE),
    )


@dataclass(slots=True)
class Blocker:
    """What one kind of blocker says of the first VM that has it, and which VMs have it, in order."""

    because: str
    remedy: str
    vms: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True)
class Summary:
    """The counts of a whole plan, and the rows that a terminal shows."""

    verdicts: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    waived: int = 0
    ended: dict[tuple[str, str], Waiver] = field(default_factory=dict)
    blockers: dict[str, Blocker] = field(default_factory=dict)
    disks: int = 0
    bytes: int = 0
    internal: list[str] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Counts one more VM."""
        self.verdicts[row.verdict] += 1
        if row.skipped:
            self.skipped.append(row.skipped)
            return
        self.findings.update(row.findings)
        self.waived += row.waived
        self.ended.update({(waiver.reason, waiver.until): waiver for waiver in row.ended})
        for finding in row.blockers:
            self.blockers.setdefault(finding.id, Blocker(finding.because, finding.remedy)).vms[row.folder] = None
        self.disks += row.disks
        self.bytes += row.bytes
        self.internal += [row.folder] if row.internal else []
        self.rows.append(row.shown)

    def document(self) -> dict[str, Any]:
        """`summary` of report.json."""
        return {
            "vms": sum(self.verdicts.values()),
            **{verdict: self.verdicts[verdict] for verdict in ("ready", "changed", "blocked", "skipped")},
            "findings": {severity: self.findings[severity] for severity in SEVERITIES},
            "waived": self.waived,
            "disks": self.disks,
            "bytes": self.bytes,
        }

    def reaches(self, threshold: str) -> bool:
        """Whether a finding of this severity or above stands; a VM that could not be read counts as a blocker."""
        if threshold == "never":
            return False
        above = SEVERITIES[SEVERITIES.index(threshold) :]  # type: ignore[arg-type]
        unread = any(not isinstance(item, LeftOut) for item in self.skipped)
        return unread or any(self.findings[severity] for severity in above)


def write_plan(folder: Path, items: Iterable[Translation | Skipped], target: Target, site: str = "") -> Summary:
    """Writes the plan folder of VMs that are planned already; see `write_rows`."""
    return write_rows(folder, lambda partial: (write_vm(partial, item) for item in items), target, site)


def write_rows(folder: Path, rows: Callable[[Path], Iterable[Row]], target: Target, site: str = "") -> Summary:
    """Writes the plan folder under another name and renames it once. An older plan that was never applied is replaced.

    `rows` writes the VMs' own files below the folder it gets. `site` is the text of the site file, which is kept with
    the redacted domain XML for `what-if`. Raises Refused where the folder is something else, or holds a journal.
    """
    _may_replace(folder)
    summary = Summary()
    try:
        with _renamed(folder) as partial:
            resources: list[str] = []
            shared: dict[tuple[str, str], dict[str, Any]] = {}
            with open(partial / ".vms", "wb") as vms, open(partial / ".plan", "wb") as plan:
                for row in rows(partial):
                    summary.add(row)
                    resources += row.resources
                    shared |= {
                        (claim["metadata"].get("namespace", ""), claim["metadata"]["name"]): claim
                        for claim in row.shared
                    }
                    vms.write(row.report)
                    plan.write(row.plan)
            if site:
                (partial / SITE).write_text(site, encoding="utf-8")
            if shared:
                (partial / CLAIMS).write_text(manifests.dump(shared.values()), encoding="utf-8")
                resources.insert(0, CLAIMS)
            (partial / "kustomization.yaml").write_text(manifests.kustomization(resources))
            _write_documents(partial, summary, target)
    except OSError as error:
        raise Refused(f"{folder}: {error.strerror}; give a folder that can be written and has room, with -d") from None
    return summary


def _may_replace(folder: Path) -> None:
    if (folder / journal.NAME).exists():
        raise Refused(f"{folder}: `apply` has begun on this plan; finish it, or plan into another folder with -d")
    if folder.name in ("", ".."):
        raise Refused(f"{folder}: is not replaced by a plan; give a new folder with -d")
    if folder.exists() and not (folder / "plan.json").exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"{folder}: is there and is no plan; give a new folder with -d")


def write_vm(folder: Path, item: Translation | Skipped) -> Row:
    """Writes a VM's files below a folder, and returns what the whole plan needs of it."""
    from migrate.mapping.paths import as_xml

    if isinstance(item, Skipped):
        return Row(item)
    row = _row(item)
    place = f"{folder}/{row.folder}"
    os.mkdir(place)
    blocked = row.verdict == "blocked"
    heading = BLOCKED.format(count=row.findings["blocker"]) if blocked else ""
    claims = [*item.volumes, *item.claims]
    if not blocked:
        row.shared = [claim for claim in claims if is_shared(claim)]
        claims = [claim for claim in claims if not is_shared(claim)]
        row.resources = [f"{row.folder}/{CLAIMS}"] * bool(claims) + [f"{row.folder}/vm.yaml"]
    _put(f"{place}/vm.yaml", (heading + manifests.dump([item.manifest])).encode())
    if claims:
        _put(f"{place}/{CLAIMS}", (heading + manifests.dump(claims)).encode())
    _put(f"{place}/ledger.jsonl", b"".join(map(ledger_line, item.entries)))
    _put(f"{place}/{SOURCE}", as_xml(item.tree))
    if item.live:
        _put(f"{place}/{LIVE}", item.live)
    return row


def _put(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        while data:
            data = data[file.write(data) :]


def _write_documents(folder: Path, summary: Summary, target: Target) -> None:
    """report.json and plan.json from the rows that were spooled, so that no plan is too large for the memory."""
    head = {"schema": SCHEMA, "target": target_document(target)}
    skipped = [asdict(item) | ({"leftOut": True} if isinstance(item, LeftOut) else {}) for item in summary.skipped]
    tail = {"skipped": skipped}
    for name, spool, middle, end in (
        ("report.json", "vms", {"summary": summary.document()}, tail),
        ("plan.json", "plan", {}, {}),
    ):
        with open(folder / name, "wb") as file:
            # orjson writes no number of more than 64 bits, and forged headers of images add up to one.
            file.write(json.dumps({**head, **middle}, separators=(",", ":")).encode()[:-1] + b',"vms":[')
            with open(folder / f".{spool}", "rb") as rows:
                for index, row in enumerate(rows):
                    file.write((b",\n" if index else b"\n") + row.rstrip(b"\n"))
            file.write(b"\n]" + (b"," + orjson.dumps(end)[1:] if end else b"}") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        (folder / f".{spool}").unlink()


@contextmanager
def _renamed(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place when all went well, and is gone otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial, old = folder.parent / f".{folder.name}.partial", folder.parent / f".{folder.name}.old"
    with _alone(partial, folder):
        try:
            # What a plan that was killed left.
            for left in (*partial.iterdir(), old):
                _remove(left)
            yield partial
            # `apply` may have begun on the older plan meanwhile.
            _may_replace(folder)
            if folder.exists():
                folder.rename(old)
            partial.rename(folder)
            _remove(old)
        finally:
            _remove(partial)


@contextmanager
def _alone(partial: Path, folder: Path) -> Iterator[None]:
    """The unfinished folder, made where there is none, for one plan at a time."""
    with suppress(FileExistsError):
        partial.mkdir()
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not _locked(descriptor, partial):
            raise Refused(f"{folder}: another plan is being written there; wait for its end")
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int, path: Path) -> bool:
    """Whether nobody else has a folder, which is still there under its name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


ROWS_SHOWN = 60
COLORS = {"ready": "green", "changed": "yellow", "blocked": "red", "skipped": "magenta"}


def table(summary: Summary) -> Table:
    """The summary as a table for a terminal: a row a VM, the first ones where there are very many."""
    from rich.table import Table
    from rich.text import Text

    from migrate.mapping.paths import printable

    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("VM", "VERDICT"):
        shown.add_column(name, overflow="fold")
    for name in ("BLOCKERS", "WARNINGS", "NOTES", "DISKS", "SIZE", "LEAVES"):
        shown.add_column(name, justify="right", no_wrap=True)
    for name, verdict, *numbers in summary.rows[:ROWS_SHOWN]:
        shown.add_row(name, Text(verdict, style=COLORS[verdict]), *numbers)
    for item in summary.skipped[: max(0, ROWS_SHOWN - len(summary.rows))]:
        shown.add_row(Text(printable(item.name)), Text("skipped", style=COLORS["skipped"]), Text(""))
    return shown


def blockers(summary: Summary) -> str:
    """What stands in the way, a paragraph for each kind of blocker: its VMs, the reason for the first, what to do."""
    return "\n".join(
        f"blocker {id}: {_first_of(list(kind.vms))}\n  {kind.because}\n  to do: {kind.remedy}"
        for id, kind in summary.blockers.items()
    )


def _first_of(names: list[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" if names[NAMES_SHOWN:] else "")


NAMES_SHOWN = 4


def totals(summary: Summary) -> str:
    """One line: how many VMs have which verdict."""
    parts = [f"{summary.verdicts[word]} {word}" for word in COLORS if summary.verdicts[word]]
    count = sum(summary.verdicts.values())
    waived = f"; {summary.waived} finding{'' if summary.waived == 1 else 's'} waived" if summary.waived else ""
    return f"{count} VM{'' if count == 1 else 's'}: " + (", ".join(parts) or "nothing to do") + waived
