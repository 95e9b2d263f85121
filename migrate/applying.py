"""The only part that acts: carries a plan out, goes on where an earlier run ended, and checks again what arrived."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType

from migrate import journal as journals
from migrate import preflight, sources, transfer
from migrate.journal import Journal
from migrate.model import VM, Evidence, Mismatch, PlannedDisk, Refused, Unfinished
from migrate.planned import Planned, planned
from migrate.preflight import Carried
from migrate.selection import Selection
from migrate.target import api, live
from migrate.target.live import ClusterTarget
from migrate.transfer._throttle import Throttle
from migrate.transfer.file import DirectoryTarget

Target = DirectoryTarget | ClusterTarget
Progress = Callable[[PlannedDisk, str, int, int], None]
JOBS = 4


@dataclass(slots=True)
class Outcome:
    """What became of one disk, or of an object that was `made` of a VM: the evidence, or why there is none.

    Of a VM without disks where nothing but disks is dealt with, there is the name alone.
    """

    vm: str
    disk: str | None = None
    evidence: Evidence | None = None
    problem: Exception | None = None
    earlier: bool = False
    made: str | None = None


class Blocked(Exception):
    """What the plan or the cluster rules out is left out."""


class Unverified(Unfinished):
    """Nothing could be read back, so nothing is proved. The command ends with exit code 3."""


def apply(
    folder: Path,
    target: Target,
    select: Selection,
    progress: Progress,
    *,
    jobs: int = JOBS,
    bandwidth: int | None = None,
    accept_unverified: bool = False,
    namespace: str | None = None,
) -> Iterator[Outcome]:
    """Copies the disks of a plan's VMs that are not blocked, and makes the VMs in a cluster; one outcome each.

    What stops one VM does not stop the others; the journal lets a later run go on. `progress` gets the disk, "copy" or
    "read back", the bytes dealt with so far and how many of them were zeroes that were skipped. At most `jobs` disks
    are copied at a time, with `bandwidth` bytes a second in all and of each source.
    """
    rows = planned(folder, select)
    path = folder / journals.NAME
    with journals.opened(path) as journal:
        items, left_out = _checked(folder, rows, target, namespace, ours(target, journal.objects(target.name)))
        arrived = journals.arrived(path, target.name)
        run = _Run(folder, target, journal, progress, arrived, items, left_out, jobs, accept_unverified)
        run.throttle = Throttle(bandwidth) if bandwidth else None
        yield from run.outcomes(rows)


def rehearse(
    folder: Path, target: Target, select: Selection, *, ask: bool, namespace: str | None = None
) -> Iterator[Outcome]:
    """What `apply` would do of each VM; with `ask` the cluster says whether it takes it. Nothing is changed."""
    rows = planned(folder, select)
    made = ours(target, journals.objects(folder / journals.NAME, target.name)) if ask else set()
    items, left_out = _checked(folder, rows, target, namespace, made, ask=ask)
    for row in rows:
        name = row.vm.folder
        if reason := _left_out(row, left_out):
            yield Outcome(name, problem=Blocked(reason))
            continue
        for disk in row.disks:
            method, reason = _method(row.vm, disk, target)
            place = f"PersistentVolumeClaim {disk.namespace}/{disk.claim}"
            how = method and transfer.name_of(method)
            yield Outcome(name, disk.name, problem=Blocked(reason) if reason else None, made=f"{place}, {how}")
        if not row.disks and name not in items:
            yield Outcome(name)
        for item in [*items[name].others, items[name].machine] if name in items else []:
            yield Outcome(name, made=live.shown(live.key_of(item)))


def ours(target: Target, made: list[journals.Made]) -> set[journals.Name]:
    """Those of the objects that are there and still the plan's, with the claims that its DataVolumes become."""
    if isinstance(target, DirectoryTarget):
        return set()
    found = {each.key for each in made if (item := target.get(*each.key)) and live.is_ours(item, each)}
    return found | {("PersistentVolumeClaim", *key[1:]) for key in found if key[0] == "DataVolume"}


def _checked(
    folder: Path, rows: list[Planned], target: Target, namespace: str | None, made: set[journals.Name], ask: bool = True
) -> tuple[dict[str, Carried], dict[str, str]]:
    """The objects of the VMs that are not blocked, and which of them a cluster does not take."""
    if isinstance(target, DirectoryTarget):
        return {}, {}
    items = {row.vm.folder: preflight.carried(folder, row, namespace) for row in rows if row.verdict != "blocked"}
    for item in items.values():
        target.claims |= {live.key_of(each)[1:]: each for each in (*item.claims, *item.volumes)}
    return items, preflight.problems(folder, items.values(), target, made) if ask else {}


def _left_out(row: Planned, left_out: dict[str, str]) -> str | None:
    return BLOCKED if row.verdict == "blocked" else left_out.get(row.vm.folder)


BLOCKED = "is blocked by the plan and left out; see report.json"


def _method(vm: VM, disk: PlannedDisk, target: Target) -> tuple[ModuleType | None, str | None]:
    return transfer.chosen(disk, target, sources.source(vm.kind).unfit(vm, disk))


@dataclass
class _Run:
    """One `apply`: several VMs at a time, and `jobs` disks of all of them."""

    folder: Path
    target: Target
    journal: Journal
    progress: Progress
    arrived: dict[tuple[str, str], Evidence]
    items: dict[str, Carried]
    left_out: dict[str, str]
    jobs: int
    accept_unverified: bool
    throttle: Throttle | None = None
    throttles: dict[str, Throttle] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    locks: dict[tuple[str, str], threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    def outcomes(self, rows: list[Planned]) -> Iterator[Outcome]:
        """What becomes of the VMs, as it comes; where nobody listens any more, all ends at the next block."""
        if isinstance(self.target, ClusterTarget):
            self.target.pause = self._pause
            api.load_types()
        said: SimpleQueue[Outcome | BaseException | None] = SimpleQueue()
        with ThreadPoolExecutor(self.jobs) as disks, ThreadPoolExecutor(self.jobs) as vms:
            try:
                for row in rows:
                    vms.submit(self._say, row, disks, said)
                left = len(rows)
                while left:
                    item = said.get()
                    if isinstance(item, BaseException):
                        raise item
                    if item is None:
                        left -= 1
                    else:
                        yield item
            finally:
                self.stop.set()
                vms.shutdown(wait=False, cancel_futures=True)
                # Those who wait for a disk are not told when `cancel_futures` takes it away: it ends by `stop`.
                disks.shutdown(wait=False)

    def _say(self, row: Planned, disks: ThreadPoolExecutor, said: SimpleQueue[Outcome | BaseException | None]) -> None:
        try:
            for outcome in self._vm(row, disks):
                said.put(outcome)
        except BaseException as error:
            said.put(error)
        said.put(None)

    def _pause(self, seconds: float) -> None:
        self.stop.wait(seconds)
        self._go_on()

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise Unfinished("interrupted; run again")

    def _vm(self, row: Planned, disks: ThreadPoolExecutor) -> Iterator[Outcome]:
        if reason := _left_out(row, self.left_out):
            yield Outcome(row.vm.folder, problem=Blocked(reason))
            return
        whole = True
        try:
            if self._made(row):
                yield from self._of_made(row)
                return
            for outcome in self._disks(row, disks):
                whole &= outcome.problem is None
                yield outcome
            if whole and row.vm.folder in self.items:
                yield from self._objects(self.items[row.vm.folder])
            elif not row.disks:
                self.journal.step(row.vm.folder, "", self.target.name, "")
                yield Outcome(row.vm.folder)
        except (Refused, Unfinished) as problem:
            yield Outcome(row.vm.folder, problem=problem)

    def _made(self, row: Planned) -> bool:
        """Whether the VM is in the cluster already, made by this plan: then its claims are its own."""
        item = self.items.get(row.vm.folder)
        if item is None or isinstance(self.target, DirectoryTarget):
            return False
        key = live.key_of(item.machine)
        made, there = self.journal.made(self.target.name, key), self.target.get(*key)
        return there is not None and live.is_ours(there, made)

    def _of_made(self, row: Planned) -> Iterator[Outcome]:
        for disk in row.disks:
            evidence = self.arrived.get((disk.namespace, disk.claim))
            if evidence and not transfer.method(evidence.method).present(disk, self.target, evidence):
                gone = Unfinished(f"claim {disk.namespace}/{disk.claim} of the VM is gone: `undo`, and apply again")
                yield Outcome(row.vm.folder, disk.name, evidence, gone, earlier=True)
            elif evidence:
                yield self._outcome(row.vm, disk, evidence, earlier=True)
            else:
                yield Outcome(row.vm.folder, disk.name, earlier=True)
        key = live.key_of(self.items[row.vm.folder].machine)
        yield Outcome(row.vm.folder, made=live.shown(key), earlier=True)

    def _objects(self, item: Carried) -> Iterator[Outcome]:
        """Makes what else the VM needs, and the VM last."""
        for manifest in [*item.others, item.machine]:
            live.make(self.target, self.journal, item.row.vm.folder, manifest)
            yield Outcome(item.row.vm.folder, made=live.shown(live.key_of(manifest)))

    def _disks(self, row: Planned, disks: ThreadPoolExecutor) -> Iterator[Outcome]:
        """A claim that several VMs share has arrived for all of them once it has for one."""
        left = []
        for disk in row.disks:
            if outcome := self._earlier(row.vm, disk):
                yield outcome
                continue
            method, reason = _method(row.vm, disk, self.target)
            if method is None:
                yield Outcome(row.vm.folder, disk.name, problem=Blocked(reason))
            else:
                left.append((disk, method))
        source = sources.source(row.vm.kind)
        read = [(disk, method) for disk, method in left if method.OPENS is not False and hasattr(source, "hold")]
        pulled = [(disk, method, None) for disk, method in left if (disk, method) not in read]
        if read:
            with source.hold(row.vm) as check:
                yield from self._together(row.vm, [(disk, method, check) for disk, method in read] + pulled, disks)
        else:
            yield from self._together(row.vm, pulled, disks)

    def _together(
        self,
        vm: VM,
        work: list[tuple[PlannedDisk, ModuleType, Callable[[], None] | None]],
        disks: ThreadPoolExecutor,
    ) -> Iterator[Outcome]:
        futures = [disks.submit(self._once, vm, *each) for each in work]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()

    def _earlier(self, vm: VM, disk: PlannedDisk) -> Outcome | None:
        """The outcome of a disk that has arrived already; what was not proved then is proved now if that can be."""
        evidence = self.arrived.get((disk.namespace, disk.claim))
        if evidence is None or not transfer.method(evidence.method).present(disk, self.target, evidence):
            return None
        if evidence.unverified and evidence.source:
            return self._prove(vm, disk, evidence)
        return self._outcome(vm, disk, evidence, earlier=True)

    def _prove(self, vm: VM, disk: PlannedDisk, evidence: Evidence) -> Outcome:
        known = evidence.vm, evidence.disk, self.target.name, evidence.namespace
        sent = journals.digests(self.folder / journals.NAME, *known)
        try:
            problem = transfer.method(evidence.method).check(disk, self.target, evidence, sent)
        except Unfinished as reason:
            evidence = replace(evidence, unverified=str(reason))
            return self._outcome(vm, disk, evidence, earlier=True)
        if problem:
            self.journal.forget(self.target.name, evidence, str(problem))
            del self.arrived[disk.namespace, disk.claim]
            return Outcome(vm.folder, disk.name, problem=problem)
        evidence = replace(evidence, unverified="", read_back=evidence.source)
        self.journal.prove(self.target.name, evidence)
        self.arrived[disk.namespace, disk.claim] = evidence
        return self._outcome(vm, disk, evidence)

    def _outcome(self, vm: VM, disk: PlannedDisk, evidence: Evidence, earlier: bool = False) -> Outcome:
        problem = None
        if evidence.unverified and not self.accept_unverified:
            reason = f"is copied and unverified: {evidence.unverified}; --accept-unverified goes on all the same"
            problem = Unverified(reason)
        return Outcome(vm.folder, disk.name, evidence, problem, earlier)

    def _once(self, vm: VM, disk: PlannedDisk, method: ModuleType, check: Callable[[], None] | None) -> Outcome:
        """Moves a disk unless another VM that shares it has done so meanwhile."""
        with self.locks[disk.namespace, disk.claim]:
            try:
                self._go_on()
                if outcome := self._earlier(vm, disk):
                    return outcome
                evidence = self._moved(vm, disk, method, check)
            except (Refused, Unfinished, Mismatch) as problem:
                return Outcome(vm.folder, disk.name, problem=problem)
            self.arrived[disk.namespace, disk.claim] = evidence
            return self._outcome(vm, disk, evidence)

    def _moved(self, vm: VM, disk: PlannedDisk, method: ModuleType, check: Callable[[], None] | None) -> Evidence:
        def told(phase: str, count: int, zeroes: int) -> None:
            self._go_on()
            self.progress(disk, phase, count, zeroes)

        if check is None or (method.OPENS is None and not sources.readable(vm, disk)):
            step = self.journal.step(vm.folder, disk.name, self.target.name, "", disk.namespace)
            evidence = method.move(None, disk, self.target, step, told)
        else:
            with sources.source(vm.kind).open(vm, disk) as opened:
                opened.checks.append(check)
                opened.throttle = self._throttle(vm)
                step = self.journal.step(vm.folder, disk.name, self.target.name, opened.stamp, disk.namespace)
                evidence = method.move(opened, disk, self.target, step, told)
        step.end(evidence)
        return evidence

    def _throttle(self, vm: VM) -> Throttle | None:
        """What passes of one source, inside of what passes in all."""
        if self.throttle is None:
            return None
        return self.throttles.setdefault(vm.source, Throttle(self.throttle.rate, self.throttle))


def verify(folder: Path, target: Target, select: Selection, namespace: str | None = None) -> Iterator[Outcome]:
    """Reads every claim of a plan's VMs again and compares it with the evidence of its copy."""
    rows = planned(folder, select)
    items, _ = _checked(folder, rows, target, namespace, set(), ask=False)
    journal = folder / journals.NAME
    known, sent = journals.arrived(journal, target.name), journals.digests_at(journal, target.name)
    for row in rows:
        if row.verdict == "blocked":
            yield Outcome(row.vm.folder, problem=Blocked(BLOCKED))
            continue
        if not row.disks:
            yield Outcome(row.vm.folder)
        for disk in row.disks:
            evidence = known.get((disk.namespace, disk.claim))
            if evidence is None:
                yield Outcome(row.vm.folder, disk.name, problem=Unfinished("was not copied yet; run `apply`"))
            else:
                problem = _verified(sent, disk, target, evidence, items)
                yield Outcome(row.vm.folder, disk.name, _remembered(journal, target, evidence, problem), problem)


def _remembered(path: Path, target: Target, evidence: Evidence, problem: Exception | None) -> Evidence:
    """The evidence with what a reading found, which the journal keeps for `status` and `apply` if it can be written.

    What no source proves is unverified whatever is read.
    """
    found = evidence
    if evidence.source and isinstance(problem, Mismatch):
        found = replace(evidence, unverified=str(problem))
    elif evidence.source and evidence.unverified and problem is None:
        found = replace(evidence, unverified="", read_back=evidence.source)
    if found != evidence:
        with suppress(Refused, Unfinished), journals.opened(path) as journal:
            journal.prove(target.name, found)
    return found


def _verified(
    sent: Callable[[str, str, str], dict[int, bytes]],
    disk: PlannedDisk,
    target: Target,
    evidence: Evidence,
    items: dict[str, Carried],
) -> Exception | None:
    """What is wrong with a claim, or why that cannot be told."""
    if evidence.vm in items and isinstance(target, ClusterTarget):
        key = live.key_of(items[evidence.vm].machine)
        if target.get(*key) and (reason := live.started(target, *key[1:])):
            return Blocked(f"the VM's disks are its own by now, for {reason}: they are not compared with the source")
    try:
        digests = sent(evidence.vm, evidence.disk, evidence.namespace)
        return transfer.method(evidence.method).check(disk, target, evidence, digests)
    except Unfinished as reason:
        return Unverified(f"is unverified: {reason}")
