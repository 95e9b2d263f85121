"""Nothing changes in a domain unseen: whatever leaf is changed, removed or added, the manifest or a finding changes.

Tried on every leaf of the golden domains and of the corpus that a rule writes or flags, before or after the change.
What libvirt reads as the same (`_same`) is no change.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from migrate import site as sites
from migrate.mapping import ledger, rule_files, vocabulary
from migrate.mapping.paths import PREFIXES, Document, Leaf, parse
from migrate.mapping.signs import EFI_IMAGE, Context
from migrate.model import REDACTED, VM, Entry
from migrate.sources import _domain
from migrate.target.vocabulary import target

TESTS = Path(__file__).parent.parent
DOMAINS = [*sorted((TESTS / "golden").glob("*.xml")), *sorted((TESTS / "corpus" / "domains").glob("*.xml"))]
RULES = rule_files.load()
KNOWN = vocabulary.load()
TARGET = target("1.9")
SITE = sites.checked(
    {
        "networks": {"network:default": {"multus": "vms/lan"}, "bridge:br0": {"multus": "vms/br0"}},
        "hostDevices": {"pci:0000:81:00.0": "vendor.com/gpu"},
        "timezone": "Europe/Berlin",
    },
    "site",
)

# What libvirt takes where the leaf is left out and no other leaf decides it; `_number` makes 0x00 a 0.
LEFT_OUT = {
    "*.unit": "KiB",
    "memory.unit": "the cells",
    "cpu.topology.dies": "1",
    "cpu.topology.clusters": "1",
    "devices.disk.blockio.logical_block_size": "512",
    # QEMU starts with no physical sector below the logical one.
    "devices.disk.blockio.physical_block_size": "4096",
    "*.address.domain": "0",
    "*.address.bus": "0",
    "*.address.slot": "0",
    "*.address.function": "0",
    "os.loader": "EFI",
    "os.loader.type": "firmware",
    "os.loader.secure": "no",
}
# What it takes for an attribute of an element that is there.
PRESENT = {"state": "on", "shareBacking": "transient", "eoi": "on"}
# Attributes that libvirt refuses a domain without.
REQUIRED = (
    "type",
    "cpu.topology.sockets",
    "os.firmware.feature.name",
    "os.firmware.feature.enabled",
    "devices.disk.source.reservations.managed",
)


@dataclass(slots=True)
class Outcome:
    """What a reader of the plan sees of a domain, and the entries behind it."""

    document: Document
    entries: dict[str, Entry]
    seen: tuple[Any, ...]


def _outcome(root: etree._Element) -> Outcome:
    document = vocabulary.read(root)
    ledger.imply(document, RULES)
    disks = _domain.disks(root)
    places = [(disk.path, disk.pool, disk.volume, disk.format) for disk in disks]
    for disk in disks:
        disk.capacity = 2**30
    vm = VM("vm", "u", "libvirt", "qemu://h/system", "qemu:///system", "h", "vm", "shut off", disks=disks)
    context = Context(vm, document, SITE, TARGET, {disk.target: disk for disk in disks})
    book = ledger.run(document, RULES, context)
    found = [finding for entry in book.entries for finding in entry.findings] + book.findings
    assert not [finding.because for finding in found if finding.id == "internal"]
    findings = [(finding.id, finding.severity, finding.value, finding.because) for finding in found]
    manifest = [(path, repr(value)) for path, value in book.ordered()]
    return Outcome(document, {entry.path: entry for entry in book.entries}, (manifest, findings, places))


def _number(text: str) -> str:
    return str(int(text, 16)) if re.fullmatch("0x[0-9a-fA-F]{1,16}", text) else text


def _same(leaf: Leaf, document: Document) -> str:
    """The value as libvirt's QEMU driver reads it, one for all spellings of one meaning."""
    pattern, value = leaf.pattern, leaf.value
    if pattern == "devices.disk.driver.cache" and f"{leaf.node.trail[1].path}.shareable" in document.by_path:
        # qemuDomainDeviceDiskDefPostParse: a disk that others write is not cached unless the domain says so.
        return "none" if value == "default" else value
    if pattern.endswith((".model", ".model.type")) and re.search("q35|virt", document.text("os.type.machine")):
        # On PCI Express virtio devices speak virtio 1.0 only.
        return value.replace("virtio-non-transitional", "virtio")
    if pattern in ("memory", "memory.unit") and "cpu.numa.cell" in document.nodes:
        return "the cells"  # virDomainDefPostParseMemory: NUMA cells add up to the memory.
    if pattern == "devices.disk.transient.shareBacking":
        return "transient"  # Whether others may read the image below; the guest's writes are thrown away.
    if pattern == "devices.disk.driver.iothread":
        return "a thread"  # Its number means nothing but which thread it is.
    if pattern == "devices.disk.source.reservations.managed":
        return "reservations"  # Who starts the helper on the source host.
    if pattern == "os.loader":
        return "EFI" if EFI_IMAGE.search(value.rpartition("/")[2]) else value
    if pattern == "os.loader.type":
        return "firmware" if value in ("pflash", "rom") else value  # An EFI build is one however it is loaded.
    if pattern == "os.firmware.feature.name":
        return value.replace("enrolled-keys", "secure-boot")  # Keys are enrolled for Secure Boot only.
    return _number(value)


def _meaning(document: Document) -> dict[str, str]:
    means = {leaf.path: (leaf.pattern, _same(leaf, document)) for leaf in document.leaves}
    for leaf in document.leaves:
        for name, value in PRESENT.items():
            pattern = f"{leaf.node.pattern}.{name}"
            if pattern in KNOWN.paths:
                means.setdefault(f"{leaf.node.path}.{name}", (pattern, value))
                if leaf.node.path == leaf.path:
                    means.pop(leaf.path, None)
    return {
        path: value
        for path, (pattern, value) in means.items()
        if not any(value == left_out and fnmatchcase(pattern, glob) for glob, left_out in LEFT_OUT.items())
    }


def _others(leaf: Leaf) -> Iterator[str]:
    """Other values of a leaf: what the schema allows in its place, a near one, and one that nobody knows."""
    value, known = leaf.value, KNOWN.paths.get(leaf.pattern)
    yield from known.values if known else ()
    yield {"yes": "no", "no": "yes", "on": "off", "off": "on"}.get(value, "frobnicate")
    if re.fullmatch(r"\d{1,18}", value):
        yield from (str(int(value) + 1), str(int(value) * 2), str(int(value) // 2))
    elif re.fullmatch("0x[0-9a-fA-F]+", value):
        yield hex(int(value, 16) + 1)
    elif re.search("[0-9a-f]$", value):
        yield value[:-1] + ("0" if value[-1] != "0" else "1")
    else:
        yield value + "x"


def _put(leaf: Leaf, value: str) -> None:
    if leaf.attribute:
        leaf.node.element.set(leaf.attribute, value)
    else:
        leaf.node.element.text = value


def _without(leaf: Leaf, root: etree._Element) -> Outcome:
    """The outcome without an attribute, without a text, or without an element that is nothing else."""
    element = leaf.node.element
    if leaf.attribute:
        kept = dict(element.attrib)
        del element.attrib[leaf.attribute]
        outcome = _outcome(root)
        element.attrib.clear()
        element.attrib.update(kept)
    elif len(element) or element.attrib:
        element.text = None
        outcome = _outcome(root)
        element.text = leaf.value
    else:
        parent = element.getparent()
        position = parent.index(element)
        parent.remove(element)
        outcome = _outcome(root)
        parent.insert(position, element)
    return outcome


def _unseen(before: Outcome, after: Outcome, path: str) -> bool:
    """Whether a leaf that is written or flagged on either side changed its meaning and nothing shows it."""
    if before.seen != after.seen or _meaning(before.document) == _meaning(after.document):
        return False
    fates = {side.entries[path].fate for side in (before, after) if path in side.entries}
    return bool(fates & {"write", "flag"})


def _first_of_its_kind() -> dict[tuple[str, str], Path]:
    """The domain in which a leaf of a pattern and value is tried: the first that has it."""
    first: dict[tuple[str, str], Path] = {}
    for path in DOMAINS:
        for leaf in vocabulary.read(parse(path.read_bytes(), path.name)).leaves:
            first.setdefault((leaf.pattern, leaf.value), path)
    return first


FIRST = _first_of_its_kind()


@pytest.mark.parametrize("path", DOMAINS, ids=lambda path: path.stem)
def test_a_leaf_that_is_changed_or_removed_is_seen(path: Path) -> None:
    root = parse(path.read_bytes(), path.name)
    before = _outcome(root)
    wrong = []
    for leaf in before.document.leaves:
        # The value of a secret is shown nowhere.
        if leaf.implied or before.entries[leaf.path].value == REDACTED:
            continue
        if path.parent.name != "golden" and FIRST[leaf.pattern, leaf.value] != path:
            continue
        if leaf.pattern not in REQUIRED and _unseen(before, _without(leaf, root), leaf.path):
            wrong.append(f"{leaf} removed")
        if not (leaf.value or leaf.attribute):
            continue
        for value in dict.fromkeys(_others(leaf)):
            _put(leaf, value)
            if value != leaf.value and _unseen(before, _outcome(root), leaf.path):
                wrong.append(f"{leaf} changed to {value!r}")
        _put(leaf, leaf.value)
    assert not wrong


def _tag(name: str) -> str:
    prefix, _, local = name.rpartition(":")
    uri = next((uri for uri, known in PREFIXES.items() if known == prefix), "")
    return f"{{{uri}}}{local}" if uri else name


def _home(pattern: str, documents: dict[Path, Document]) -> tuple[Path, int]:
    """The first domain with the deepest of the elements that a leaf lies in, and how deep that is."""
    above = pattern.split(".")[:-1]
    for depth in range(len(above), 0, -1):
        for path, document in documents.items():
            if ".".join(above[:depth]) in document.nodes:
                return path, depth
    return next(iter(documents)), 0


def _grow(root: etree._Element, document: Document, pattern: str, depth: int, value: str) -> etree._Element:
    """Adds a leaf below an element of that depth; gives the element that the leaf stands in or is."""
    segments = pattern.split(".")
    element = document.nodes[".".join(segments[:depth])][0].element if depth else root
    kind = KNOWN.paths[pattern].kind
    for name in segments[depth : -1 if kind == "attribute" else None]:
        element = etree.SubElement(element, _tag(name))
    if kind == "attribute":
        element.set(_tag(segments[-1]), value)
    elif kind == "text":
        element.text = value
    return element


@pytest.mark.parametrize("part", range(4))
def test_a_leaf_that_is_added_is_seen(part: int) -> None:
    sources = {path: path.read_bytes() for path in DOMAINS if path.parent.name == "golden"}
    documents = {path: vocabulary.read(parse(data, path.name)) for path, data in sources.items()}
    before = {path: _outcome(document.root.element) for path, document in documents.items()}
    wrong = []
    for pattern in sorted(KNOWN.paths)[part::4]:
        path, depth = _home(pattern, documents)
        if KNOWN.paths[pattern].kind != "attribute" and pattern in documents[path].nodes.keys() - KNOWN.repeatable:
            continue
        for value in [*KNOWN.paths[pattern].values, "7"]:
            root = parse(sources[path], path.name)
            element = _grow(root, vocabulary.read(root), pattern, depth, value)
            after = _outcome(root)
            grown = next(
                leaf for leaf in after.document.leaves if leaf.node.element is element and leaf.pattern == pattern
            )
            entry = after.entries[grown.path]
            if entry.value != REDACTED and _unseen(before[path], after, grown.path):
                wrong.append(f"{pattern}={value!r} added to {path.stem}: {entry.rule}")
    assert not wrong


@pytest.mark.parametrize("path", DOMAINS, ids=lambda path: path.stem)
def test_a_device_that_is_taken_away_or_there_twice_is_seen(path: Path) -> None:
    root = parse(path.read_bytes(), path.name)
    before = _outcome(root)
    devices = [node for nodes in before.document.nodes.values() for node in nodes if len(node.trail) == 2]
    wrong = []
    for node in (node for node in devices if node.trail[0].tag == "devices"):
        below = [
            entry for name, entry in before.entries.items() if name == node.path or name.startswith(node.path + ".")
        ]
        if not any(entry.fate in ("write", "flag") for entry in below):
            continue
        parent, position = node.element.getparent(), node.element.getparent().index(node.element)
        if node.pattern in KNOWN.repeatable:
            parent.insert(position + 1, copy.deepcopy(node.element))
            # KubeVirt gives a guest four USB ports for redirection where it gives any.
            if _outcome(root).seen == before.seen and node.tag != "redirdev":
                wrong.append(f"{node.path} twice")
            parent.remove(parent[position + 1])
        parent.remove(node.element)
        if _outcome(root).seen == before.seen:
            wrong.append(f"{node.path} taken away")
        parent.insert(position, node.element)
    assert not wrong
