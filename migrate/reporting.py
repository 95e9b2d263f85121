"""What a person or a pipeline reads of a plan: the files of the plan folder, and the summary on the terminal.

Every view is of the ledger: nothing here decides anything.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from migrate import journal
from migrate.collisions import is_shared
from migrate.model import SEVERITIES, Entry, Finding, LeftOut, Refused, Skipped, Translation, Waiver
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
                "claim": f"{disk.namespace}/{disk.claim}",
            }
            for disk in translation.disks
        ],
    }


def target_document(target: Target) -> dict[str, Any]:
    """`target` of report.json."""
    return {"kubevirt": target.kubevirt, "featureGates": sorted(target.gates)}


def finding_document(finding: Finding) -> dict[str, Any]:
    """A finding of report.json."""
    return {name: getattr(finding, name) for name in FINDING} | _waivers(finding)


FINDING = ("id", "key", "rule", "severity", "path", "value", "target", "because", "remedy")


def _waivers(finding: Finding) -> dict[str, Any]:
    """The waiver of a finding that has one, or the one that has ended."""
    found = {"waived": finding.waived, "waiverEnded": finding.ended}
    return {name: asdict(waiver) for name, waiver in found.items() if waiver}


def plan_row(translation: Translation) -> dict[str, Any]:
    """A VM of plan.json: what `apply` needs to reach the source again and to copy its disks."""
    vm = translation.vm
    record = {name: getattr(vm, name) for name in vm.__slots__ if name not in ("xml", "live")}
    return {"verdict": translation.verdict, "wave": translation.wave, "disks": translation.disks, "vm": record}


@dataclass(slots=True)
class Summary:
    """The counts of a whole plan, and the rows that a terminal shows."""

    verdicts: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    waived: int = 0
    ended: dict[tuple[str, str], Waiver] = field(default_factory=dict)
    disks: int = 0
    bytes: int = 0
    internal: list[str] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def add(self, item: Translation | Skipped) -> None:
        """Counts one more VM."""
        if isinstance(item, Skipped):
            self.verdicts["skipped"] += 1
            self.skipped.append(item)
            return
        findings = item.all_findings()
        counts = Counter(finding.severity for finding in findings if not finding.waived)
        self.waived += sum(1 for finding in findings if finding.waived)
        for finding in findings:
            if finding.ended:
                self.ended[finding.ended.reason, finding.ended.until] = finding.ended
        size = sum(disk.bytes or 0 for disk in item.disks)
        self.verdicts[item.verdict] += 1
        self.findings.update(counts)
        self.disks += len(item.disks)
        self.bytes += size
        if item.internal:
            self.internal.append(item.vm.folder)
        covered = coverage(item.entries)
        numbers = [str(counts[severity] or "") for severity in reversed(SEVERITIES)]
        unsized = any(disk.bytes is None for disk in item.disks)
        shown = (
            ""
            if not item.disks
            else human(None if unsized and not size else size) + (" + ?" if unsized and size else "")
        )
        self.rows.append(
            (item.vm.folder, item.verdict, *numbers, str(len(item.disks) or ""), shown, str(covered["leaves"]))
        )

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
    """Writes the plan folder under another name and renames it once. An older plan that was never applied is replaced.

    `site` is the text of the site file, which is kept with the redacted domain XML for `what-if`. Raises
    Refused where the folder is something else, or holds a journal.
    """
    _may_replace(folder)
    summary = Summary()
    try:
        with _renamed(folder) as partial:
            resources: list[str] = []
            shared: dict[tuple[str, str], dict[str, Any]] = {}
            with open(partial / ".vms", "wb") as vms, open(partial / ".plan", "wb") as plan:
                for item in items:
                    summary.add(item)
                    if isinstance(item, Translation):
                        resources += _write_vm(partial, item, shared)
                        vms.write(orjson.dumps(report_row(item), option=LINE))
                        plan.write(orjson.dumps(plan_row(item), option=LINE))
            if site:
                (partial / SITE).write_text(site, encoding="utf-8")
            if shared:
                (partial / CLAIMS).write_text(manifests.dump(shared.values()), encoding="utf-8")
                resources.insert(0, CLAIMS)
            (partial / "kustomization.yaml").write_text(manifests.kustomization(resources))
            _write_documents(partial, summary, target)
    except OSError as error:
        raise Refused(f"{folder}: {error.strerror}; give a folder that can be written with -d") from None
    return summary


def _may_replace(folder: Path) -> None:
    if (folder / journal.NAME).exists():
        raise Refused(f"{folder}: `apply` has begun on this plan; finish it, or plan into another folder with -d")
    if folder.name in ("", ".."):
        raise Refused(f"{folder}: is not replaced by a plan; give a new folder with -d")
    if folder.exists() and not (folder / "plan.json").exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"{folder}: is there and is no plan; give a new folder with -d")


def _write_vm(folder: Path, translation: Translation, shared: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    """Writes a VM's files and returns those that `kubectl apply -k` takes; claims that VMs share go to `shared`."""
    name = translation.vm.folder
    place = f"{folder}/{name}"
    os.mkdir(place)
    verdict = translation.verdict
    blockers = sum(finding.severity == "blocker" and not finding.waived for finding in translation.all_findings())
    heading = BLOCKED.format(count=blockers) if verdict == "blocked" else ""
    _put(f"{place}/vm.yaml", (heading + manifests.dump([translation.manifest])).encode())
    claims = translation.claims
    if verdict != "blocked":
        for claim in filter(is_shared, claims):
            shared[claim["metadata"].get("namespace", ""), claim["metadata"]["name"]] = claim
        claims = [claim for claim in claims if not is_shared(claim)]
    if claims:
        _put(f"{place}/{CLAIMS}", (heading + manifests.dump(claims)).encode())
    _put(f"{place}/ledger.jsonl", b"".join(map(ledger_line, translation.entries)))
    _put(f"{place}/{SOURCE}", translation.source)
    if translation.live:
        _put(f"{place}/{LIVE}", translation.live)
    files = [f"{name}/{CLAIMS}"] if claims else []
    return [] if verdict == "blocked" else [*files, f"{name}/vm.yaml"]


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
            file.write(orjson.dumps({**head, **middle})[:-1] + b',"vms":[')
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
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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


def totals(summary: Summary) -> str:
    """One line: how many VMs have which verdict."""
    parts = [f"{summary.verdicts[word]} {word}" for word in COLORS if summary.verdicts[word]]
    count = sum(summary.verdicts.values())
    waived = f"; {summary.waived} finding{'' if summary.waived == 1 else 's'} waived" if summary.waived else ""
    return f"{count} VM{'' if count == 1 else 's'}: " + (", ".join(parts) or "nothing to do") + waived
