"""libvirt's side of the mapping: which leaf paths a domain XML can have, and which elements can occur several times.

The file has a line a leaf: its path with `[]` after every repeatable element, its kind unless it is an attribute, and
after `=` the constants its value is restricted to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Literal, NamedTuple

from lxml import etree

from migrate.data import data_path
from migrate.mapping import paths
from migrate.mapping.paths import Document

FILE = ("mappings", "vocabulary", "libvirt.txt")
NIC_MODEL = "devices.interface.model.type"
# The models of network cards that libvirt knows in any case of letters (domain_conf.c virDomainNetSetModelString).
NIC_MODELS = {
    name.lower(): name
    for name in (
        *("netfront", "rtl8139", "virtio", "e1000", "e1000e", "igb", "virtio-transitional", "virtio-non-transitional"),
        *("usb-net", "spapr-vlan", "lan9118", "scm91c111", "vlance", "vmxnet", "vmxnet2", "vmxnet3"),
        *("Am79C970A", "Am79C973", "82540EM", "82545EM", "82543GC"),
    )
}


class Leaf(NamedTuple):
    """One leaf of the schema; `values` are the constants allowed, none where any text is."""

    kind: Literal["attribute", "text", "element"]
    values: tuple[str, ...]


class LibvirtVocabulary(NamedTuple):
    """Leaves by pattern (dotted, without brackets), and the patterns of elements: which repeat, which are single."""

    paths: dict[str, Leaf]
    repeatable: frozenset[str]
    single: frozenset[str]


def parse_lines(text: str) -> Iterator[tuple[str, Leaf]]:
    """The leaves of a vocabulary file, each with its path as written there."""
    for line in text.splitlines():
        if not line or line[0] == "#":
            continue
        head, _, values = line.partition(" = ")
        path, _, kind = head.partition(" ")
        yield path, Leaf(kind or "attribute", tuple(values.split()))  # type: ignore[arg-type]


def dump(leaves: Mapping[str, Leaf]) -> str:
    """The leaves as the text of a vocabulary file, sorted by path."""
    lines = ["# Written by tools/libvirt_vocabulary.py; `[]` follows an element that can occur several times."]
    for path, leaf in sorted(leaves.items()):
        kind = "" if leaf.kind == "attribute" else " " + leaf.kind
        values = " = " + " ".join(leaf.values) if leaf.values else ""
        lines.append(path + kind + values)
    return "\n".join(lines) + "\n"


@cache
def load() -> LibvirtVocabulary:
    """The shipped vocabulary."""
    leaves: dict[str, Leaf] = {}
    repeatable: set[str] = set()
    for path, leaf in parse_lines(data_path(*FILE).read_text()):
        leaves[path.replace("[]", "")] = leaf
        end = path.find("[]")
        while end != -1:
            repeatable.add(path[:end].replace("[]", ""))
            end = path.find("[]", end + 2)
    elements = {path for path, leaf in leaves.items() if leaf.kind != "attribute"}
    for path in leaves:
        while path := path.rpartition(".")[0]:
            elements.add(path)
    return LibvirtVocabulary(leaves, frozenset(repeatable), frozenset(elements - repeatable))


def read(root: etree._Element) -> Document:
    """The leaves below a `<domain>` element, told apart and spelled as libvirt does."""
    document = paths.read(root, load().repeatable, load().single)
    for leaf in document.by_pattern.get(NIC_MODEL, ()):
        leaf.value = NIC_MODELS.get(leaf.value.lower(), leaf.value)
    return document
