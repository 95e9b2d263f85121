"""The story: collect reads a source, translate makes Kubernetes objects of a domain, plan does so for all.

What acts on a plan stands in `applying`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from migrate import inventory as inventories
from migrate import sources, transfer
from migrate.inventory import Inventory
from migrate.mapping import ledger, vocabulary
from migrate.mapping.paths import parse, read
from migrate.mapping.rules import Rules
from migrate.mapping.signs import Context
from migrate.model import (
    VM,
    Disk,
    Finding,
    PlannedDisk,
    Refused,
    Severity,
    Skipped,
    Translation,
    short_hash,
)
from migrate.selection import Selection
from migrate.site import Site
from migrate.target import admission, manifests
from migrate.target.quantity import to_bytes
from migrate.target.vocabulary import Target, strict

CLAIM = re.compile(r"volumes\[([^\]]*)\]\.(?:ephemeral\.)?persistentVolumeClaim\.claimName")
DISK = re.compile(r"devices\.disk\[(\d+)\]")
METHOD = "file"


def collect(kind: str, urls: Sequence[str], select: Selection, rules: Rules, folder: Path) -> Inventory:
    """Reads VMs of a source into an inventory folder, their secrets redacted, and changes nothing at the source.

    Raises Refused where nothing can be read.
    """
    found = sources.collect(kind, urls, select)
    skipped: list[Skipped] = []
    return inventories.write(folder, _redacted(found, rules, skipped), skipped)


def opened(paths: Sequence[Path], select: Selection) -> Inventory:
    """The VMs that a plan is made of: an inventory folder, or XML files and folders of them, cut to the selection.

    Raises Refused where nothing can be read.
    """
    if len(paths) == 1 and inventories.holds(paths[0]):
        inventory = inventories.read(paths[0])
        inventory.vms = [vm for vm in inventory.vms if select.wants(vm)]
        return inventory
    inside = next((path for path in paths if inventories.holds(path)), None)
    if inside is not None:
        raise Refused(f"{inside}: an inventory is planned alone; collect the others into it")
    files = sources.source("files")
    return inventories.direct(sources.collect("files", [str(path) for path in paths], select), files.xml)


def _redacted(found: Iterator[VM | Skipped], rules: Rules, skipped: list[Skipped]) -> Iterator[VM]:
    from lxml import etree

    for item in found:
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        try:
            root = parse(item.xml, item.name)
        except Refused as refusal:
            skipped.append(Skipped(item.name, item.source, str(refusal)))
            continue
        ledger.redact_secrets(read(root, vocabulary.load().repeatable), rules)
        yield replace(item, xml=etree.tostring(root, encoding="utf-8", xml_declaration=False) + b"\n")


def translate(vm: VM, rules: Rules, target: Target, site: Site) -> Translation:
    """One VM's domain XML as a ledger and Kubernetes objects. Pure: no clock, network or chance.

    Raises Refused for XML that is no domain.
    """
    document = read(parse(vm.xml, vm.name), vocabulary.load().repeatable)
    ledger.imply(document, rules)
    context = Context(vm, document, site, target, {disk.target: disk for disk in vm.disks})
    book = ledger.run(document, rules, context)
    objects = manifests.assemble((write.path, write.value) for write in book.ordered())
    translation = Translation(vm, book.entries, book.findings, book.gains)
    translation.internal = book.internal
    translation.manifest = objects.get("VirtualMachine", [{}])[0]
    translation.claims = objects.get("PersistentVolumeClaim", [])
    translation.disks = list(_disks(vm, book, site))
    translation.findings += _refused(vm, book, translation, target)
    translation.findings += _unfit(vm, translation)
    translation.findings += _left_behind(vm)
    return translation


def _disks(vm: VM, book: ledger.Ledger, site: Site) -> Iterator[PlannedDisk]:
    """A row for each disk whose volume is a claim."""
    for entry in book.entries:
        for path, claim in entry.writes.items():
            volume, device = CLAIM.fullmatch(path), DISK.match(entry.path)
            if volume and device and book.writes[path].first(entry.path):
                yield _planned(vm, vm.disks[int(device[1])], volume[1], claim, book, site)


def _planned(vm: VM, disk: Disk, name: str, claim: str, book: ledger.Ledger, site: Site) -> PlannedDisk:
    size = book.writes.get(f"PersistentVolumeClaim[{name}].spec.resources.requests.storage")
    return PlannedDisk(
        name=name,
        namespace=site.namespace,
        claim=claim,
        method=METHOD,
        path=disk.path,
        format=disk.format,
        bytes=disk.capacity,
        allocated=disk.allocation,
        size=to_bytes(size.value) if size else None,
        chain=disk.chain,
        allowed=sorted({*vm.pool_paths, *site.images}),
    )


def leafless(vm: VM, name: str, severity: Severity, because: str, remedy: str, target: str | None = None) -> Finding:
    """A finding that no leaf causes; its name is rule/row."""
    key = short_hash(vm.id, name, target or "")
    return Finding(name, key, name.partition("/")[0], severity, None, None, target, because, remedy)


def _refused(vm: VM, book: ledger.Ledger, translation: Translation, target: Target) -> Iterator[Finding]:
    """What the cluster refuses of the finished objects, each led back to the rule that wrote it."""
    for manifest in (translation.manifest, *translation.claims):
        for problem in strict(manifest, target):
            yield leafless(
                vm, "manifest/fields", "blocker", f"The API server refuses the manifest: {problem}.", FIELDS_REMEDY
            )
    for refusal in admission.refusals(translation.manifest, translation.claims, target):
        finding = leafless(vm, f"admission/{refusal.id}", "blocker", refusal.because, refusal.remedy, refusal.path)
        finding.rule = book.writer(refusal.path) or finding.rule
        yield finding


FIELDS_REMEDY = "A device above is only partly carried; its findings say which."


def _unfit(vm: VM, translation: Translation) -> Iterator[Finding]:
    """Why `apply` cannot copy disks, once a reason. A warning where the source is not there, as for XML files."""
    said: set[str] = set()
    for disk in translation.disks:
        reason = sources.source(vm.kind).unfit(vm, disk) or transfer.method(disk.method).unfit(disk, None)
        disk.unfit = reason
        if reason and reason not in said:
            said.add(reason)
            severity: Severity = "warning" if vm.state == "unknown" else "blocker"
            because = f"The disk {disk.name} cannot be copied: {reason.rstrip('.')}."
            yield leafless(vm, "transfer/unfit", severity, because, UNFIT_REMEDY, f"volumes[{disk.name}]")


UNFIT_REMEDY = "Do what the reason says, collect again and plan again."


def _left_behind(vm: VM) -> Iterator[Finding]:
    """What the source keeps beside the disks, which no leaf of the domain mentions."""
    if vm.snapshots:
        because = f"{len(vm.snapshots)} snapshot(s) stay behind: the claims hold the disks as they are now."
        yield leafless(vm, "state/snapshots", "warning", because, "Keep the source while somebody may go back to them.")
    if vm.checkpoints:
        because = f"{len(vm.checkpoints)} checkpoint(s) stay behind, so the next backup after the move is a full one."
        yield leafless(vm, "state/checkpoints", "note", because, "Set up the backup of the VM anew in the cluster.")


def plan(inventory: Inventory, rules: Rules, target: Target, site: Site) -> Iterator[Translation | Skipped]:
    """Every VM of an inventory, translated one at a time, in the order of their folders, then those not readable."""
    twins: dict[tuple[bool, str], list[VM]] = defaultdict(list)
    for vm in inventory.vms:
        twins[vm.kind == "files", vm.uuid].append(vm)
    for record in inventory.vms:
        try:
            vm = replace(record, xml=inventory.xml(record))
            translation = translate(vm, rules, target, site)
        except Refused as refusal:
            yield Skipped(record.name, record.source, str(refusal))
            continue
        translation.findings += _twin(vm, twins[vm.kind == "files", vm.uuid])
        vm.xml = b""
        yield translation
    yield from inventory.skipped


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
