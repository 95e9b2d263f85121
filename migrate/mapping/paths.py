"""Domain XML as leaves: read safely, walked once, every leaf with one dotted path."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from lxml import etree

from migrate.data import MAX_BYTES
from migrate.model import REDACTED, Fate, Finding, Refused

# libxml2 keeps some 150 bytes an element and some 200 an attribute, and a plan some 5 KB each.
MAX_MARKUP = 100_000
# libvirt's largest number of anything is 4096 vCPUs; lxml takes the square of their number for an element's attributes.
MAX_BESIDE = 4096
# What libxml2 reads and in which markup is not written with the bytes of ASCII: one could not count it beforehand.
HIDDEN = re.compile(
    rb"(\xef\xbb\xbf)?<\?xml[^>]*encoding\s*=\s*[\"'](?!(utf-?8|utf-?16|us-ascii|iso-8859-\d+|windows-\d+)[\"'])",
    re.IGNORECASE,
)
REPEATED = "2nd"  # in front of patterns; names in XML do not begin with a digit

K = TypeVar("K")
V = TypeVar("V")

# librbd's options can stand behind an image's name, the key of a Ceph user among them.
CEPH_KEY = re.compile(r"(:key=)(?:\\.|[^:\\])+")
# Secrets inside of other texts: a URL's password, an argument that names itself one, QEMU's `json:` in place of a path;
# and of a kernel's arguments systemd's credentials (systemd(1)) and the login of an iSCSI root (dracut.cmdline(7)).
INSIDE = re.compile(
    r"(?P<url>://[^/@:\s]*:)[^/\s]+(?=@)|(?P<named>(?:passw(?:or)?d|passphrase|token|secret)=)\S+|(?P<json>^json:).*"
    r"|(?P<credential>set_credential(?:_binary)?=[^:\s]*:)\S+|(?P<root>root=iscsi:[^@:\s]*:)\S+(?=@)",
    re.IGNORECASE | re.DOTALL,
)
NAMED = (
    *(b":key=", b"json:", b"passwd=", b"password=", b"passphrase=", b"token=", b"secret="),
    *(b"set_credential", b"root=iscsi:"),
)

# Namespaces that libvirt and the tools above it write into domain XML, by URI, with the prefix that stands in paths.
PREFIXES = {
    "http://libvirt.org/schemas/domain/qemu/1.0": "qemu",
    "http://libvirt.org/schemas/domain/lxc/1.0": "lxc",
    "http://libvirt.org/schemas/domain/xen/1.0": "xen",
    "http://libvirt.org/schemas/domain/bhyve/1.0": "bhyve",
    "http://libvirt.org/schemas/domain/vmware/1.0": "vmware",
    "http://libvirt.org/schemas/domain/test/1.0": "test",
    "http://libvirt.org/schemas/domain/cloud-hypervisor/1.0": "ch",
    "http://libosinfo.org/xmlns/libvirt/domain/1.0": "libosinfo",
    "http://openstack.org/xmlns/libvirt/nova/1.0": "nova",
    "http://openstack.org/xmlns/libvirt/nova/1.1": "nova",
    "http://ovirt.org/vm/1.0": "ovirt-vm",
    "http://ovirt.org/vm/tune/1.0": "ovirt-tune",
}


class Found(dict[K, V]):
    """What a function finds by keys, looked for once each. A plain subscript, which is read faster than any call."""

    def __init__(self, find: Callable[[K], V]):
        self._find = find

    def __missing__(self, key: K) -> V:
        found = self[key] = self._find(key)
        return found


class Node:
    """One element of the document. `parents` are its ancestors from the domain down."""

    __slots__ = ("element", "index", "order", "parents", "path", "pattern", "prefix", "tag")

    def __init__(
        self,
        element: etree._Element,
        path: str,
        pattern: str,
        tag: str,
        index: int,
        order: int,
        parents: tuple[Node, ...],
    ):
        self.element = element
        self.path = path
        self.pattern = pattern
        self.prefix = path + "." if path else ""
        self.tag = tag
        self.index = index
        self.order = order
        self.parents = parents

    @property
    def trail(self) -> tuple[Node, ...]:
        """The ancestors, and the element itself last; nothing for the domain."""
        return (*self.parents[1:], self) if self.parents else ()


class Leaf:
    """An attribute (named by `attribute`), a text or a bare element, with its element: an entry of a ledger to be.

    `place` is the element for which its owner speaks of it, together with all others that it owns there.
    """

    __slots__ = (
        *("path", "value", "rule", "fate", "writes", "because", "findings", "implied"),
        *("attribute", "node", "pattern", "place"),
    )

    rule: str
    fate: Fate
    place: Node

    def __init__(
        self, path: str, pattern: str, value: str, node: Node, attribute: str | None = None, implied: bool = False
    ):
        self.path = path
        self.pattern = pattern
        self.value = value
        self.node = node
        self.attribute = attribute
        self.implied = implied
        self.writes: dict[str, Any] = {}
        self.because: str | None = None
        self.findings: list[Finding] = []

    @property
    def foreign(self) -> bool:
        """Whether the leaf is of a namespace that has no fixed prefix: nobody knows what it holds."""
        return ":" in self.pattern and self.pattern.rpartition(".")[2].startswith("other:")

    def __repr__(self) -> str:
        return f"Leaf({self.path}={self.value!r})"


@dataclass(slots=True)
class Document:
    """All leaves of one domain in document order, and its elements by pattern.

    The first leaves, `written` in number, stand in the document; those that libvirt implies follow.
    """

    root: Node
    leaves: list[Leaf] = field(default_factory=list)
    by_path: dict[str, Leaf] = field(default_factory=dict)
    by_pattern: dict[str, list[Leaf]] = field(default_factory=dict)
    nodes: dict[str, list[Node]] = field(default_factory=dict)
    written: int = 0

    def add(self, leaves: list[Leaf]) -> None:
        """Appends leaves that are known by path and pattern from now on.

        Of leaves with one path, as of attributes in namespaces that nobody knows, the first keeps it.
        """
        by_path, by_pattern = self.by_path, self.by_pattern
        self.leaves += leaves
        for leaf in leaves:
            by_path.setdefault(leaf.path, leaf)
            same = by_pattern.get(leaf.pattern)
            if same is None:
                by_pattern[leaf.pattern] = [leaf]
            else:
                same.append(leaf)

    def text(self, path: str, otherwise: str = "") -> str:
        """The value at an indexed path."""
        leaf = self.by_path.get(path)
        return leaf.value if leaf else otherwise


def parse(data: bytes, name: str) -> etree._Element:
    """The `<domain>` element of a document as `virsh dumpxml` prints it.

    Secrets inside of names are redacted in it. Raises Refused for documents over 16 MB, malformed or endlessly nested
    ones, document types and entities, and anything that is not a domain. Touches neither the network nor other files.
    """
    if len(data) > MAX_BYTES:
        raise Refused(f"{name}: larger than 16 MB; give the domain XML that `virsh dumpxml` prints")
    markup = data.count(b"<") + data.count(b"=") if len(data) > MAX_BESIDE else 0
    if markup > MAX_MARKUP:
        raise Refused(f"{name}: {TOO_MUCH}")
    if HIDDEN.match(data):
        raise Refused(f"{name}: in an encoding that virsh does not print; save it as UTF-8")
    try:
        root = etree.fromstring(data, _parser())
    except (etree.XMLSyntaxError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "empty document"
        # libxml2 quotes what stands between & and ;, which may be a part of a password.
        reason = re.sub("^Entity '.*' not defined", "an entity that is not defined", reason)
        reason = re.sub(r" \(<string>, line \d+\)$", "", reason)
        raise Refused(f"{name}: not well-formed XML: {reason}") from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise Refused(f"{name}: has a document type; remove the <!DOCTYPE ...> line")
    if root.tag != "domain":
        raise Refused(
            f"{name}: the root element is <{printable(str(root.tag))}>, not <domain>; give what `virsh dumpxml` prints"
        )
    if markup > MAX_BESIDE and any(max(len(each), len(each.attrib)) > MAX_BESIDE for each in root.iter()):
        raise Refused(f"{name}: {TOO_MUCH}")
    if _may_hold_secrets(data):
        for element in root.iter():
            protocol = element.get("protocol", "") if element.tag == "source" else ""
            for name, value in element.items():
                element.set(name, without_secret(value, protocol if name == "name" else ""))
            element.text = element.text and without_secret(element.text)
            element.tail = element.tail and without_secret(element.tail)
    return root


@cache
def _parser() -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        remove_blank_text=True,
    )


def _may_hold_secrets(data: bytes) -> bool:
    """Whether it is worth looking into every text; of UTF-16 and of character references the bytes do not tell."""
    if b"\0" in data or b"&#" in data or (b"://" in data and b"@" in data):
        return True
    lower = data.lower()
    return (b"?" in data and b"http" in lower) or any(map(lower.__contains__, NAMED))


TOO_MUCH = "more markup than any domain has; give the domain XML that `virsh dumpxml` prints"


def without_secret(name: str, protocol: str = "") -> str:
    """The name of a disk on the network, or another text, without the secrets that can stand inside of it."""
    path, mark, query = name.partition("?")
    if protocol in ("http", "https") and query:
        name = f"{path}{mark}{REDACTED}"
    return INSIDE.sub(lambda found: f"{found[found.lastgroup or 0]}{REDACTED}", CEPH_KEY.sub(rf"\1{REDACTED}", name))


def as_xml(tree: etree._Element) -> bytes:
    """An element as it stands in inventories and plans."""
    return etree.tostring(tree, encoding="utf-8", xml_declaration=False, pretty_print=True)


def printable(text: str, limit: int = 200) -> str:
    """Text from outside on one line of a message: control characters escaped, cut at `limit` characters."""
    if text.isprintable() and len(text) <= limit:
        return text
    escaped = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
    return escaped if len(escaped) <= limit else escaped[:limit] + "..."


class Shape:
    """What holds of every element at one place of the document: its names, and what was found below it so far.

    `indexed` elements have an index in their paths even where they stand alone. `attributes` has the path segment and
    the pattern of each attribute, `children` the shape of each child element, by their names in the document.
    """

    __slots__ = (
        "_shapes",
        "again",
        "attributes",
        "children",
        "indexed",
        "known",
        "name",
        "pattern",
        "repeats",
        "single",
    )

    def __init__(self, name: str, pattern: str, repeats: frozenset[str], single: frozenset[str], known: bool = True):
        self.name = name
        self.pattern = pattern
        self.repeats = repeats
        self.single = single
        self.known = known
        self.indexed = pattern in repeats
        # Of a second element where libvirt knows one.
        self.again = Shape(name, f"{REPEATED}.{pattern}", repeats, single, known) if pattern in single else None
        self.attributes = Found(self._attribute)
        self.children = Found(self._child)
        self._shapes: dict[str, Shape] = {}

    def _attribute(self, tag: str) -> tuple[str, str]:
        name = _name(tag)[0]
        return name, self._below(name)

    def _child(self, tag: str) -> Shape:
        name, known = _name(tag)
        return self._shapes.setdefault(name, Shape(name, self._below(name), self.repeats, self.single, known))

    def _below(self, name: str) -> str:
        return f"{self.pattern}.{name}" if self.pattern else name


def _name(tag: str) -> tuple[str, bool]:
    """The path segment of a tag or attribute name, and whether its namespace is known."""
    if tag[0] != "{":
        return tag, True
    uri, _, local = tag[1:].partition("}")
    # XML's own attributes (xml:space, xml:lang) belong to the element they stand on.
    prefix = "xml" if uri == "http://www.w3.org/XML/1998/namespace" else PREFIXES.get(uri)
    return (f"{prefix}:{local}", True) if prefix else (f"other:{local}", False)


def read(root: etree._Element, repeats: frozenset[str], single: frozenset[str] = frozenset()) -> Document:
    """The leaves below a `<domain>` element. `repeats` are the element patterns that carry an index.

    Of an element that is there several times and is of those that are `single` the first has the plain path; the
    patterns of the others begin with `REPEATED`. So do those of elements beside an attribute of their name.
    """
    document = Document(Node(root, "", "", "domain", 0, 0, ()))
    leaves: list[Leaf] = []
    _walk(document.root, _shape(repeats, single), leaves, document.nodes)
    document.add(leaves)
    document.written = len(leaves)
    return document


@cache
def _shape(repeats: frozenset[str], single: frozenset[str]) -> Shape:
    return Shape("", "", repeats, single)


def _walk(node: Node, shape: Shape, leaves: list[Leaf], nodes: dict[str, list[Node]]) -> None:
    """Adds the leaves and elements below an element."""
    element, prefix, attributes = node.element, node.prefix, shape.attributes
    text, children, items = element.text, element[:], element.items()
    for tag, value in items:
        name, pattern = attributes[tag]
        leaves.append(Leaf(prefix + name, pattern, value, node, tag))
    if children:
        tags = [child.tag for child in children]
        shapes = [shape.children[tag] for tag in tags]
        plain = [below for below in shapes if not below.indexed]
        times = Counter(plain) if len(set(plain)) < len(plain) else {}
        before: dict[Shape, int] = {}
        parents, beside = (*node.parents, node), dict(items)
        for child, tag, below in zip(children, tags, shapes, strict=True):
            path, index = prefix + below.name, 0
            if below.indexed or times.get(below, 1) > 1:
                index = before.get(below, 0)
                before[below] = index + 1
                if index or below.again is None:
                    path, below = f"{path}[{index}]", below.again or below
            pattern = below.pattern
            inner = Node(child, path, pattern, below.name, index, len(leaves) + 1, parents)
            nodes.setdefault(pattern, []).append(inner)
            if below.known:
                _walk(inner, below, leaves, nodes)
            else:
                whole = etree.tostring(child, encoding="unicode", with_tail=False)
                leaves.append(Leaf(path, pattern, whole, inner))
            if tag in beside and leaves[-1].path == path:
                _is_second(leaves[-1])
            tail = child.tail
            if tail and not tail.isspace():
                text = (text or "") + tail
    text = text.strip() if text else ""
    if text or not (children or items):
        leaves.append(Leaf(node.path or node.tag, node.pattern or node.tag, text, node))


def _is_second(leaf: Leaf) -> None:
    """Tells the text of an element from the attribute of its name beside it, which is the one that libvirt knows."""
    leaf.pattern = f"{REPEATED}.{leaf.pattern}"
    if leaf.path[-1] != "]":
        leaf.path += "[0]"


def redact(leaf: Leaf) -> None:
    """Puts `(redacted)` in place of a leaf in the element tree it was read from."""
    element = leaf.node.element
    if leaf.attribute:
        element.set(leaf.attribute, REDACTED)
        return
    tail = element.tail
    if leaf.foreign:
        element.clear()
    element.text, element.tail = REDACTED, tail
    for child in element:
        child.tail = None
