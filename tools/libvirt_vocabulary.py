"""Writes mappings/vocabulary/libvirt.txt: every leaf path that libvirt's schemas allow in a domain XML.

Usage: python tools/libvirt_vocabulary.py [FOLDER...], folders with domain.rng (default /usr/share/libvirt/schemas).
Several folders, of several libvirt releases, are united.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from migrate.data import data_path
from migrate.mapping.paths import PREFIXES
from migrate.mapping.vocabulary import FILE, Leaf, dump, parse_lines

RNG = "{http://relaxng.org/ns/structure/1.0}"
INSTALLED = "/usr/share/libvirt/schemas"
MANY = 2

# What virt-manager, Nova and VDSM write below <metadata>, which the schemas leave open.
KEPT = """
metadata.libosinfo:libosinfo.libosinfo:os.id
metadata.nova:instance.nova:creationTime text
metadata.nova:instance.nova:flavor.id
metadata.nova:instance.nova:flavor.name
metadata.nova:instance.nova:flavor.nova:disk text
metadata.nova:instance.nova:flavor.nova:ephemeral text
metadata.nova:instance.nova:flavor.nova:extraSpecs element
metadata.nova:instance.nova:flavor.nova:extraSpecs.nova:extraSpec[] text
metadata.nova:instance.nova:flavor.nova:extraSpecs.nova:extraSpec[].name
metadata.nova:instance.nova:flavor.nova:memory text
metadata.nova:instance.nova:flavor.nova:swap text
metadata.nova:instance.nova:flavor.nova:vcpus text
metadata.nova:instance.nova:image.nova:containerFormat text
metadata.nova:instance.nova:image.nova:diskFormat text
metadata.nova:instance.nova:image.nova:minDisk text
metadata.nova:instance.nova:image.nova:minRam text
metadata.nova:instance.nova:image.nova:properties element
metadata.nova:instance.nova:image.nova:properties.nova:property[] text
metadata.nova:instance.nova:image.nova:properties.nova:property[].name
metadata.nova:instance.nova:image.uuid
metadata.nova:instance.nova:name text
metadata.nova:instance.nova:owner.nova:project text
metadata.nova:instance.nova:owner.nova:project.uuid
metadata.nova:instance.nova:owner.nova:user text
metadata.nova:instance.nova:owner.nova:user.uuid
metadata.nova:instance.nova:package.version
metadata.nova:instance.nova:ports element
metadata.nova:instance.nova:ports.nova:port[].nova:ip[].address
metadata.nova:instance.nova:ports.nova:port[].nova:ip[].ipVersion
metadata.nova:instance.nova:ports.nova:port[].nova:ip[].type
metadata.nova:instance.nova:ports.nova:port[].uuid
metadata.nova:instance.nova:root.type
metadata.nova:instance.nova:root.uuid
metadata.ovirt-tune:qos element
metadata.ovirt-vm:vm.ovirt-vm:balloonTarget text
metadata.ovirt-vm:vm.ovirt-vm:balloonTarget.type
metadata.ovirt-vm:vm.ovirt-vm:clusterVersion text
metadata.ovirt-vm:vm.ovirt-vm:custom element
metadata.ovirt-vm:vm.ovirt-vm:destroy_on_reboot text
metadata.ovirt-vm:vm.ovirt-vm:destroy_on_reboot.type
metadata.ovirt-vm:vm.ovirt-vm:device[].alias
metadata.ovirt-vm:vm.ovirt-vm:device[].devtype
metadata.ovirt-vm:vm.ovirt-vm:device[].mac_address
metadata.ovirt-vm:vm.ovirt-vm:device[].name
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:custom element
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:deviceId text
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:domainID text
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:imageID text
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:managed text
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:managed.type
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:network text
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:poolID text
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:specParams element
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:volumeChain element
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:volumeChain.ovirt-vm:volumeChainNode[].ovirt-vm:domainID text
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:volumeChain.ovirt-vm:volumeChainNode[].ovirt-vm:imageID text
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:volumeChain.ovirt-vm:volumeChainNode[].ovirt-vm:leaseOffset text
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:volumeChain.ovirt-vm:volumeChainNode[].ovirt-vm:leaseOffset.type
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:volumeChain.ovirt-vm:volumeChainNode[].ovirt-vm:leasePath text
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:volumeChain.ovirt-vm:volumeChainNode[].ovirt-vm:path text
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:volumeChain.ovirt-vm:volumeChainNode[].ovirt-vm:volumeID text
metadata.ovirt-vm:vm.ovirt-vm:device[].ovirt-vm:volumeID text
metadata.ovirt-vm:vm.ovirt-vm:device[].path
metadata.ovirt-vm:vm.ovirt-vm:guestAgentAPIVersion text
metadata.ovirt-vm:vm.ovirt-vm:guestAgentAPIVersion.type
metadata.ovirt-vm:vm.ovirt-vm:jobs text
metadata.ovirt-vm:vm.ovirt-vm:launchPaused text
metadata.ovirt-vm:vm.ovirt-vm:launchPaused.type
metadata.ovirt-vm:vm.ovirt-vm:memGuaranteedSize text
metadata.ovirt-vm:vm.ovirt-vm:memGuaranteedSize.type
metadata.ovirt-vm:vm.ovirt-vm:minGuaranteedMemoryMb text
metadata.ovirt-vm:vm.ovirt-vm:minGuaranteedMemoryMb.type
metadata.ovirt-vm:vm.ovirt-vm:resumeBehavior text
metadata.ovirt-vm:vm.ovirt-vm:snapshot_job text
metadata.ovirt-vm:vm.ovirt-vm:startTime text
metadata.ovirt-vm:vm.ovirt-vm:startTime.type
"""


@dataclass
class Content:
    """What one element may hold: attributes and text with their constants (None: any text), and child elements."""

    attributes: dict[str, frozenset[str] | None] = field(default_factory=dict)
    text: list[frozenset[str] | None] = field(default_factory=list)
    children: dict[str, list[ElementTree.Element]] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)


class Grammar:
    """A RelaxNG grammar read from one folder, its includes followed and elements' prefixes worked out."""

    def __init__(self, folder: Path) -> None:
        self.defines: dict[str, list[ElementTree.Element]] = {}
        self.prefix: dict[ElementTree.Element, str] = {}
        self._read(folder, "domain.rng", set())

    def _read(self, folder: Path, name: str, seen: set[str]) -> None:
        if name in seen:
            return
        seen.add(name)
        root = ElementTree.parse(folder / name).getroot()
        self._name(root, "")
        for node in root.iter(RNG + "include"):
            self._read(folder, node.get("href", ""), seen)
        for node in root.iter(RNG + "define"):
            self.defines.setdefault(node.get("name", ""), []).append(node)

    def _name(self, node: ElementTree.Element, namespace: str) -> None:
        """Works out the prefix of every element: `ns` is inherited from the enclosing markup, not through refs."""
        namespace = node.get("ns", namespace)
        self.prefix[node] = PREFIXES[namespace] + ":" if namespace else ""
        for child in node:
            self._name(child, namespace)

    def parts(self, node: ElementTree.Element) -> list[ElementTree.Element]:
        """The patterns below a pattern; those of a ref are its definitions."""
        return self.defines.get(node.get("name", ""), []) if node.tag == RNG + "ref" else list(node)

    def nullable(self, node: ElementTree.Element) -> bool:
        """Whether the pattern matches nothing at all, so that its element can be bare."""
        tag = node.tag.removeprefix(RNG) if isinstance(node.tag, str) else "empty"
        if tag in ("optional", "zeroOrMore", "text", "empty", "param"):
            return True
        if tag in ("element", "attribute", "value", "data", "notAllowed"):
            return False
        parts = [self.nullable(part) for part in self.parts(node)]
        return any(parts) if tag in ("choice", "ref") else all(parts)

    def bare(self, element: ElementTree.Element) -> bool:
        """Whether the element can stand without attributes, text and children."""
        return all(self.nullable(part) for part in element)

    def constants(self, node: ElementTree.Element) -> frozenset[str] | None:
        """The constants a text is restricted to, None where it is not."""
        tag = node.tag.removeprefix(RNG)
        if tag == "value":
            return frozenset([node.text or ""])
        if tag == "data":
            # A pattern that only lists words is a set of constants written another way.
            pattern = next((param.text or "" for param in node if param.get("name") == "pattern"), "")
            listed = re.fullmatch(r"\(?([\w-]+(?:\|[\w-]+)+)\)?", pattern)
            return frozenset(listed[1].split("|")) if listed else None
        if tag in ("choice", "ref", "define", "group", "attribute"):
            return unite(self.constants(part) for part in self.parts(node))
        return None

    def content(self, element: ElementTree.Element) -> Content:
        """What the element may hold, gathered from its patterns."""
        content = Content()
        content.most = self._gather(element, list(element), content)
        return content

    def _gather(self, node: ElementTree.Element, parts: list[ElementTree.Element], content: Content) -> dict[str, int]:
        """Adds what the patterns hold to `content`; returns how often each child can occur in them (2: or more)."""
        most: dict[str, int] = {}
        for part in parts:
            counts = self._one(part, content)
            for tag, count in counts.items():
                known = most.get(tag, 0)
                one_of = node.tag == RNG + "choice" or (node.tag == RNG + "ref" and len(parts) > 1)
                most[tag] = max(known, count) if one_of else min(known + count, MANY)
        return most

    def _one(self, node: ElementTree.Element, content: Content) -> dict[str, int]:
        tag = node.tag.removeprefix(RNG) if isinstance(node.tag, str) else "empty"
        name = node.get("name")
        if tag == "element":
            if name is None:
                return {}
            name = self.prefix[node] + name
            content.children.setdefault(name, []).append(node)
            return {name: 1}
        if tag == "attribute":
            if name is not None:
                values = self.constants(node)
                content.attributes[name] = unite([values, content.attributes.get(name, values)])
            return {}
        if tag in ("text", "data", "value"):
            content.text.append(self.constants(node))
            return {}
        counts = self._gather(node, self.parts(node), content)
        return dict.fromkeys(counts, MANY) if tag in ("zeroOrMore", "oneOrMore") else counts


def unite(sets: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    """The union of sets of constants, None (any text) where one of them is None or there are none."""
    found = list(sets)
    return frozenset().union(*found) if found and None not in found else None


def walk(
    grammar: Grammar, path: str, elements: list[ElementTree.Element], above: frozenset[ElementTree.Element]
) -> Iterator[tuple[str, Leaf]]:
    """Every leaf at and below the elements that share `path`; an element inside itself is cut to a bare one."""
    if path and any(grammar.bare(element) for element in elements):
        yield path, Leaf("element", ())
    contents = [grammar.content(element) for element in elements if element not in above]
    above = above.union(elements)
    children: dict[str, list[ElementTree.Element]] = {}
    for content in contents:
        if content.text:
            yield path, Leaf("text", sort(unite(content.text)))
        for name, values in content.attributes.items():
            yield join(path, name), Leaf("attribute", sort(values))
        for tag, found in content.children.items():
            children.setdefault(tag, []).extend(found)
    for tag, found in children.items():
        many = any(content.most.get(tag, 0) >= MANY for content in contents)
        unique = list(dict.fromkeys(found))
        yield from walk(grammar, join(path, tag) + ("[]" if many else ""), unique, above)


def join(path: str, name: str) -> str:
    """The path of what lies in an element under a name."""
    return f"{path}.{name}" if path else name


def sort(values: frozenset[str] | None) -> tuple[str, ...]:
    """Constants in order; none for any text, and none where one of them could not stand in a line of words."""
    return tuple(sorted(values)) if values and all(re.fullmatch(r"\S+", value) for value in values) else ()


def merge(found: Iterable[tuple[str, Leaf]]) -> dict[str, Leaf]:
    """One leaf a path: text before bare element, constants united, and `[]` wherever one of the paths has it."""
    found = list(found)
    many = {marked.replace("[]", "") for path, _ in found for marked in prefixes(path) if marked.endswith("[]")}
    leaves: dict[str, Leaf] = {}
    for path, leaf in found:
        path = mark(path.replace("[]", ""), many)
        known = leaves.get(path, leaf)
        if known.kind != leaf.kind:
            leaves[path] = known if leaf.kind == "element" else leaf
        else:
            free = not known.values or not leaf.values
            leaves[path] = Leaf(leaf.kind, () if free else tuple(sorted({*known.values, *leaf.values})))
    return leaves


def prefixes(path: str) -> Iterator[str]:
    """The path of every element on the way, the last included."""
    segments = path.split(".")
    return (".".join(segments[:end]) for end in range(1, len(segments) + 1))


def mark(path: str, many: set[str]) -> str:
    """The path with `[]` after every element that is in `many`."""
    return ".".join(step.rpartition(".")[2] + ("[]" if step in many else "") for step in prefixes(path))


def vocabulary(folders: list[Path]) -> dict[str, Leaf]:
    """Every leaf of the schemas in the folders, with the hand-kept ones."""
    found = list(parse_lines(KEPT))
    for folder in folders:
        grammar = Grammar(folder)
        (domain,) = (node for define in grammar.defines["domain"] for node in define.findall(RNG + "element"))
        found += walk(grammar, "", [domain], frozenset())
    return merge(found)


if __name__ == "__main__":
    leaves = vocabulary([Path(name) for name in sys.argv[1:] or [INSTALLED]])
    data_path(*FILE).write_text(dump(leaves))
    print(f"{len(leaves)} leaves in {data_path(*FILE)}")
