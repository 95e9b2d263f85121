"""The story: collect reads a source, translate makes Kubernetes objects of a domain, plan does so for all.

What acts on a plan stands in `applying`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from migrate import inventory as inventories
from migrate import sources, state, transfer
from migrate.collisions import Collision, Collisions, Wants, wants
from migrate.inventory import Inventory
from migrate.mapping import ledger, vocabulary
from migrate.mapping.disk import CLAIMS, LEAF
from migrate.mapping.paths import as_xml, parse, printable, redact
from migrate.mapping.rules import Rules
from migrate.mapping.signs import Context
from migrate.model import (
    VM,
    Disk,
    Finding,
    Gain,
    LeftOut,
    PlannedDisk,
    Refused,
    Severity,
    Skipped,
    Translation,
)
from migrate.selection import Selection
from migrate.site import Site
from migrate.sources import _domain as domains
from migrate.spread import spread
from migrate.target import admission, fits, luns, manifests
from migrate.target.cluster import Cluster
from migrate.target.quantity import to_bytes
from migrate.target.vocabulary import Target, strict


def collect(kind: str, urls: Sequence[str], select: Selection, rules: Rules, folder: Path) -> Inventory:
    """Reads VMs of a source into an inventory folder, their secrets redacted, and changes nothing at the source.

    Raises Refused where nothing can be read.
    """
    found = sources.collect(kind, urls, select)
    skipped: list[Skipped] = []
    read = [sources.source(kind).unread(url)[1] for url in urls]

    def anew(item: Skipped, vms: list[VM]) -> bool:
        again = any(item.source == each or item.source.startswith(f"{each}/") for each in read)
        return again or (not select.narrows and any(item.source == vm.source for vm in vms))

    return inventories.write(folder, _redacted(_some(found, select), rules, skipped), skipped, anew)


def _some(found: Iterator[VM | Skipped], select: Selection) -> Iterator[VM | Skipped]:
    """What was found; Refused at its end where a selection finds nothing."""
    item = None
    for item in found:
        yield item
    if item is None and select.narrows:
        raise Refused(NOT_ONE)


def opened(paths: Sequence[Path], select: Selection) -> Inventory:
    """The VMs that a plan is made of: an inventory folder, or XML files and folders of them, cut to the selection.

    Raises Refused where nothing can be read.
    """
    held = len(paths) == 1 and inventories.holds(paths[0])
    inventory = inventories.read(paths[0]) if held else _of_files(paths)
    wanted = [vm for vm in inventory.vms if select.wants(vm)]
    skipped = [item for item in inventory.skipped if select.may_mean(item)]
    if select.narrows and not wanted and not skipped and (inventory.vms or not held):
        raise Refused(f"{paths[0]}: {NOT_ONE}" if held else NOT_ONE)
    others = [vm for vm in inventory.vms if not select.wants(vm)]
    return replace(inventory, vms=wanted, others=others, skipped=skipped)


def _of_files(paths: Sequence[Path]) -> Inventory:
    """All VMs of XML files, those that are not selected among them, so that a name is the same beside the others."""
    inside = next((path for path in paths if inventories.holds(path)), None)
    if inside is not None:
        raise Refused(f"{inside}: an inventory is planned alone; collect the others into it")
    found = sources.collect("files", [str(path) for path in paths], Selection())
    return inventories.direct(found, sources.source("files").xml)


NOT_ONE = "not one VM fits --select and --exclude; `kubevirt-migrate list` shows names, uuids and states"


def _redacted(found: Iterator[VM | Skipped], rules: Rules, skipped: list[Skipped]) -> Iterator[VM]:
    for item in found:
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        try:
            xml = _clean(item.xml, item.name, rules)
            live = _clean(item.live, item.name, rules) if item.has_live else b""
        except Refused as refusal:
            skipped.append(Skipped(item.name, item.source, str(refusal)))
            continue
        yield replace(item, xml=xml, live=live)


def _clean(xml: bytes, name: str, rules: Rules) -> bytes:
    root = parse(xml, name)
    ledger.redact_secrets(vocabulary.read(root), rules)
    return as_xml(root)


def translate(vm: VM, rules: Rules, target: Target, site: Site, today: date = date.max) -> Translation:
    """One VM's domain XML as a ledger and Kubernetes objects. Pure: no clock, network or chance.

    `today` is the day on which waivers hold or have ended; without one all have. Raises Refused for XML that is no
    domain.
    """
    site = site.of(vm)
    vm = _sized(vm, site)
    document = vocabulary.read(parse(vm.xml, vm.name))
    ledger.imply(document, rules)
    context = Context(vm, document, site, target, {disk.target: disk for disk in vm.disks})
    book = ledger.run(document, rules, context)
    labelled = list(_label(vm, book, site))
    objects = manifests.assemble(book.ordered())
    translation = Translation(vm, book.entries, book.findings, book.gains)
    translation.internal, translation.wave = book.internal, site.wave
    for leaf in book.secrets:
        redact(leaf)
    translation.tree = document.root.element
    translation.manifest = objects.get("VirtualMachine", [{}])[0]
    translation.claims = objects.get("PersistentVolumeClaim", [])
    translation.disks = list(_disks(vm, book, site))
    translation.volumes = list(_volumes(translation, site))
    translation.findings += labelled
    translation.findings += _refused(vm, book, translation, target)
    translation.findings += _unfit(vm, translation)
    translation.findings += _state(translation, book, rules, context)
    translation.findings += _undecided(vm, site)
    translation.findings += _unchosen(translation, site)
    _tell_apart(translation.all_findings())
    if site.waivers:
        site.waive(vm, translation.all_findings(), today)
    translation.findings = _without_echoes(translation)
    return translation


def _without_echoes(translation: Translation) -> list[Finding]:
    """The findings of no leaf, without refusals of a whole device that lacks a part which is a blocker of its own."""
    whole = [
        each for each in translation.findings if each.id.startswith("admission/") and (each.target or "").endswith("]")
    ]
    if not whole:
        return translation.findings
    missing = [
        each.target or ""
        for each in translation.all_findings()
        if each.id.endswith("/unsupported") and each.severity == "blocker" and not each.waived
    ]
    echoes = {each.key for each in whole if any(part.startswith(f"{each.target}.") for part in missing)}
    return [each for each in translation.findings if each.key not in echoes]


def _tell_apart(findings: list[Finding]) -> None:
    """Gives findings of like devices, of which nothing else tells one from the other, keys of their own."""
    seen: dict[tuple[str, ...], int] = {}
    for finding in findings:
        parts = finding.parts
        if parts in seen:
            seen[parts] += 1
            finding.parts = (*parts, str(seen[parts]))
        else:
            seen[parts] = 1


def _sized(vm: VM, site: Site) -> VM:
    """The VM with the sizes that the site file gives for disks of unknown size."""
    given = {disk.target: size for disk in vm.disks if disk.capacity is None and (size := site.size(disk))}
    if not given:
        return vm
    disks = [
        replace(disk, capacity=given[disk.target], problem=None) if disk.target in given else disk for disk in vm.disks
    ]
    return replace(vm, disks=disks)


def _label(vm: VM, book: ledger.Ledger, site: Site) -> Iterator[Finding]:
    """Adds the site file's labels, to the VM and to what runs it, and its annotations, where no rule writes them."""
    kinds = (("metadata.labels", site.labels), ("spec.template.metadata.labels", site.labels))
    for place, added in (*kinds, ("metadata.annotations", site.annotations)):
        for key, value in added.items():
            path = f"VirtualMachine.{place}[{key}]"
            if written := book.writes.get(path):
                because = f"The site file's {key} is what rule {written.rule} writes, so it does not count."
                yield leafless(vm, "site/written", "warning", because, WRITTEN_REMEDY, path)
                continue
            book.writes.add(ledger.Write(path, value, "site", 0), f"VirtualMachine.{place}")
            book.gains.append(Gain(path, value, "The site file asks for it."))


def _undecided(vm: VM, site: Site) -> Iterator[Finding]:
    """What the site file decides for other VMs or disks and leaves open for these, and what it says in vain."""
    if site.namespaces and not site.placed:
        because = "The site file has namespaces and none of them is for this VM."
        yield leafless(vm, "site/no-namespace", "blocker", because, f"{TO_DECIDE} `namespace`, or `namespaces`.")
    for disk in vm.disks:
        if (disk.path or disk.volume) and site.storage_of(disk) is None:
            where = f"pool {disk.pool}" if disk.pool else disk.path or ""
            because = f"The site file has storage and none of it is for the disk {disk.target} ({printable(where)})."
            todo = f"{TO_DECIDE} `storage` with a key that fits it, or with `default`."
            yield leafless(vm, "site/no-storage", "blocker", because, todo, disk.target)
        if (given := site.size(disk)) and given != disk.capacity:
            because = (
                f"The site file says that the disk {disk.target} has {given} bytes, the source says {disk.capacity}."
            )
            yield leafless(vm, "site/size", "note", f"{because} The source counts.", SIZE_REMEDY, disk.target)


def _unchosen(translation: Translation, site: Site) -> Iterator[Finding]:
    """What the VM and its claims get because the site file, or none, leaves it open for all."""
    vm = translation.vm
    if not site.placed and not site.namespaces:
        because = f"No namespace is chosen, so the VM and its claims go to {site.namespace}."
        yield leafless(vm, "site/default-namespace", "note", because, NAMESPACE_REMEDY, "metadata.namespace")
    specs = {claim["metadata"]["name"]: claim.get("spec", {}) for claim in translation.claims}
    asked = [
        f"{name} ({', '.join((spec.get('volumeMode', 'Filesystem'), *spec.get('accessModes', ())))})"
        for name, spec in specs.items()
        if "volumeName" not in spec
    ]
    if asked and not any(site.storage):
        because = f"No storage is chosen, so claims are of the cluster's default class: {', '.join(asked)}."
        yield leafless(vm, "site/default-storage", "note", because, STORAGE_REMEDY)


NAMESPACE_REMEDY = "Choose one with `namespace` in the site file."
STORAGE_REMEDY = "Choose class, volume mode and access modes with `storage` in the site file."
WRITTEN_REMEDY = "Choose another key in the site file, or take the rule's write away."
TO_DECIDE = "Extend the site file's"
SIZE_REMEDY = "Remove the size from the site file; it is for disks of unknown size."


def _disks(vm: VM, book: ledger.Ledger, site: Site) -> Iterator[PlannedDisk]:
    """A row for each disk whose volume is a claim."""
    for write in book.writes.every(*CLAIMS):
        if device := LEAF.match(write.leaf):
            yield _planned(vm, vm.disks[int(device[1])], write.key, write.value, book, site)


def _planned(vm: VM, disk: Disk, name: str, claim: str, book: ledger.Ledger, site: Site) -> PlannedDisk:
    size = book.writes.get(f"PersistentVolumeClaim[{name}].spec.resources.requests.storage")
    volume = book.writes.get(f"PersistentVolumeClaim[{name}].spec.volumeName")
    return PlannedDisk(
        name=name,
        namespace=site.namespace,
        claim=claim,
        methods=[transfer.LUN, *site.methods] if volume else site.methods,
        path=disk.path,
        format=disk.format,
        bytes=disk.capacity,
        allocated=disk.allocation,
        size=to_bytes(size.value) if size else None,
        chain=disk.chain,
        allowed=sorted({*vm.pool_paths, *site.images}),
        volume=volume.value if volume else None,
    )


def _volumes(translation: Translation, site: Site) -> Iterator[dict[str, Any]]:
    """The volumes of the LUNs that are handed over."""
    claims = {claim["metadata"]["name"]: claim for claim in translation.claims}
    for disk in translation.disks:
        if disk.volume and (lun := site.lun(disk.path or "")):
            yield luns.volume(lun, claims[disk.claim])


def leafless(vm: VM, name: str, severity: Severity, because: str, remedy: str, target: str | None = None) -> Finding:
    """A finding that no leaf causes; its name is rule/row."""
    parts = (vm.source, vm.uuid, name, target or "")
    return Finding(name, parts, name.partition("/")[0], severity, None, None, target, because, remedy)


def _refused(vm: VM, book: ledger.Ledger, translation: Translation, target: Target) -> Iterator[Finding]:
    """What the cluster refuses of the finished objects, each led back to the rule that wrote it."""
    manifests_made = (translation.manifest, *translation.claims)
    problems = [problem for manifest in manifests_made for problem in strict(manifest, target)]
    for problem in problems:
        because = f"The API server refuses the manifest: {problem}."
        yield leafless(vm, "manifest/fields", "blocker", because, FIELDS_REMEDY, problem.partition(": ")[0])
    if problems:
        return
    for refusal in admission.refusals(translation.manifest, translation.claims, target):
        finding = leafless(vm, f"admission/{refusal.id}", "blocker", refusal.because, refusal.remedy, refusal.path)
        finding.rule = book.writer(refusal.path) or finding.rule
        yield finding


FIELDS_REMEDY = "A device above is only partly carried; its findings say which."


def _unfit(vm: VM, translation: Translation) -> Iterator[Finding]:
    """Why `apply` cannot copy disks, once a reason. A warning where the source is not there, as for XML files.

    What the findings about the state say is not said again.
    """
    if not translation.disks:
        return
    said: set[str] = set()
    problems = {disk.path: disk.problem for disk in vm.disks if disk.capacity is None and disk.problem}
    at_rest = state.at_rest(vm)
    for disk in translation.disks:
        unread = sources.source(vm.kind).unfit
        now, later = (unread(each, disk) for each in (vm, at_rest))
        _, disk.unfit = transfer.chosen(disk, None, now)
        reason = disk.unfit if now == later else transfer.chosen(disk, None, later)[1]
        if reason and reason not in said:
            said.add(reason)
            severity: Severity = "warning" if vm.state == "unknown" else "blocker"
            problem = None if later else problems.get(disk.path)
            detail = f" ({problem.rstrip('.')})" if problem else ""
            because = f"The disk {disk.name} cannot be copied: {reason.rstrip('.')}{detail}."
            yield leafless(vm, "transfer/unfit", severity, because, UNFIT_REMEDY, f"volumes[{disk.name}]")
        if not reason and sources.source(vm.kind).spools(vm, disk):
            below = ", and room for the images below it" if len(disk.chain) > 1 else ""
            because = (
                f"The disk {disk.name} comes through the host's storage pool: `apply` takes it over whole into $TMPDIR "
                f"or /var/tmp before it copies it, and needs {disk.allocated or disk.bytes} bytes there{below}."
            )
            yield leafless(vm, "transfer/spool", "note", because, SPOOL_REMEDY, f"volumes[{disk.name}]")


UNFIT_REMEDY = "Do what the reason says, collect again and plan again."
SPOOL_REMEDY = "Have that room, or collect over ssh (qemu+ssh://...), which needs none."


def _state(translation: Translation, book: ledger.Ledger, rules: Rules, context: Context) -> Iterator[Finding]:
    """What of the VM's state on its source is in the way, what starts it, and where its running guest differs.

    Keeps the running domain's XML without secrets.
    """
    vm = context.vm
    remarks = [*state.remarks(vm), *state.starts(vm, context.site.run_strategy)]
    if vm.live:
        tree = parse(vm.live, vm.name)
        state.take_back(tree, context.document.root.element)
        document = vocabulary.read(tree)
        ledger.imply(document, rules)
        running = domains.disks(tree)
        live = replace(context, vm=replace(vm, disks=_known(running, vm.disks)), document=document)
        live_book = ledger.run(document, rules, live)
        remarks += state.differences(book, live_book, vm.disks, running)
        for leaf in live_book.secrets:
            redact(leaf)
        translation.live = as_xml(tree)
    for remark in remarks:
        finding = leafless(vm, f"state/{remark.id}", remark.severity, remark.because, remark.remedy, remark.target)
        if remark.path:
            finding.path, finding.value = remark.path, remark.value
            finding.parts += (remark.path,)
        yield finding


def _known(running: list[Disk], defined: list[Disk]) -> list[Disk]:
    """The disks of a running guest with what is known of those that the definition has under the same names."""
    by_target = {disk.target: disk for disk in defined}
    known = []
    for disk in running:
        same = by_target.get(disk.target, disk)
        moved = replace(disk, capacity=same.capacity, allocation=same.allocation, chain=same.chain)
        known.append(same if state.same_image(same, disk) else moved)
    return known


@dataclass(slots=True)
class Planning:
    """All that the VMs of an inventory are planned with.

    With a cluster each is held against what that offers. `ask` tells what an API server says against an object.
    """

    inventory: Inventory
    rules: Rules
    target: Target
    site: Site
    today: date = date.max
    cluster: Cluster | None = None
    ask: Callable[[dict[str, Any]], str | None] | None = None
    used: fits.Used = field(default_factory=Counter)
    twins: dict[tuple[bool, str], list[VM]] = field(default_factory=lambda: defaultdict(list))
    collisions: Collisions = field(default_factory=Collisions)

    def __post_init__(self) -> None:
        for vm in (*self.inventory.vms, *self.inventory.others):
            self.twins[vm.kind == "files", vm.uuid].append(vm)

    def begin(self, record: VM) -> tuple[Translation | Skipped, Wants | None]:
        """A VM translated, and what it wants that others could have."""
        if (reason := self.site.of(record).skip) is not None:
            return LeftOut(record.name, record.source, f"left out by the site file: {reason}"), None
        try:
            vm = self.inventory.whole(record)
            translation = translate(vm, self.rules, self.target, self.site, self.today)
        except Refused as refusal:
            return Skipped(record.name, record.source, str(refusal)), None
        vm.xml = vm.live = translation.vm.xml = translation.vm.live = b""
        return translation, wants(translation)

    def meet(self, record: VM, wanted: Wants | None) -> list[Collision]:
        """What VMs that met before have taken already."""
        return list(self.collisions.of(record, wanted)) if wanted else []

    def finish(self, item: Translation | Skipped, met: list[Collision]) -> Translation | Skipped:
        """The VM with what others and the cluster have against it."""
        if isinstance(item, Skipped):
            return item
        found = list(_twin(item.vm, self.twins[item.vm.kind == "files", item.vm.uuid]))
        found += _outdated(item.vm, self.inventory.skipped)
        found += (leafless(item.vm, *collision) for collision in met)
        if self.cluster and not any(finding.id == "manifest/fields" for finding in item.findings):
            found += _misfits(item, self.cluster, self.target, self.used)
        self.site.waive(item.vm, found, self.today)
        item.findings += found
        if self.ask and item.verdict != "blocked":
            said = list(_asked(item, self.ask))
            self.site.waive(item.vm, said, self.today)
            item.findings += said
        _tell_apart(item.findings)
        return item


def plan(
    inventory: Inventory,
    rules: Rules,
    target: Target,
    site: Site,
    today: date = date.max,
    cluster: Cluster | None = None,
    ask: Callable[[dict[str, Any]], str | None] | None = None,
) -> Iterator[Translation | Skipped]:
    """Every VM of an inventory, translated one at a time, in the order of their folders, then those not readable."""
    return each(Planning(inventory, rules, target, site, today, cluster, ask), lambda item: item)


Told = TypeVar("Told")


def each(planning: Planning, tell: Callable[[Translation | Skipped], Told], processes: int = 1) -> Iterator[Told]:
    """What `tell` makes of every planned VM, in the order of `plan`, in the process that translated it.

    A cluster is asked by one process alone.
    """

    def finish(item: Translation | Skipped, met: list[Collision]) -> Told:
        return tell(planning.finish(item, met))

    alone = planning.cluster is not None or planning.ask is not None
    yield from spread(planning.inventory.vms, planning.begin, planning.meet, finish, 1 if alone else processes)
    yield from map(tell, planning.inventory.skipped)


def _misfits(translation: Translation, cluster: Cluster, target: Target, used: fits.Used) -> Iterator[Finding]:
    """What keeps a VM out of the cluster, each led back to the rule that wrote it."""
    for misfit in fits.misfits(translation, cluster, target, used):
        id = f"cluster/{misfit.id}"
        finding = leafless(translation.vm, id, misfit.severity, misfit.because, misfit.remedy, misfit.target)
        writes = ((path, entry.rule) for entry in translation.entries for path in entry.writes)
        finding.rule = next((rule for path, rule in writes if path == misfit.target), finding.rule)
        yield finding


def _asked(translation: Translation, ask: Callable[[dict[str, Any]], str | None]) -> Iterator[Finding]:
    """What the API server says against the claims and the VM."""
    for manifest in (*translation.volumes, *translation.claims, translation.manifest):
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if message := ask(manifest):
            because = f"The API server refuses the {kind} {name}: {message.rstrip('.')}."
            yield leafless(translation.vm, "cluster/refused", "blocker", because, ASKED_REMEDY, f"{kind}[{name}]")


ASKED_REMEDY = "Do what the message says, and plan again."


def _outdated(vm: VM, skipped: list[Skipped]) -> Iterator[Finding]:
    """That a VM could not be read again when its inventory was collected last, by itself or with its whole host."""
    for item in skipped:
        if item.source in (vm.source, vm.url) and (item.whole or item.name == vm.name):
            because = f"The VM stands here as it was collected before; it could not be read again ({item.reason})."
            yield leafless(vm, "state/outdated", "warning", because, "Do what the reason says and collect again.")


def _twin(vm: VM, twins: list[VM]) -> Iterator[Finding]:
    """The same uuid elsewhere: `twins` are all VMs that have it, files apart from hosts."""
    other = next((twin for twin in twins if twin.source != vm.source), None)
    if other and vm.kind == "files":
        because = f"The uuid {vm.uuid} stands in {len(twins)} files, {other.url} for one."
        yield leafless(vm, "identity/uuid-in-two-files", "warning", because, FILES_REMEDY)
    elif other:
        because = f"The same uuid is defined on {other.source} too, as a live migration leaves it behind."
        yield leafless(vm, "identity/uuid-on-two-hosts", "blocker", because, HOSTS_REMEDY)


FILES_REMEDY = "Plan the one file that is the VM; two VMs with one uuid cannot both be imported."
HOSTS_REMEDY = "Find out where the VM lives, undefine it on the other host and collect again with a new inventory."
