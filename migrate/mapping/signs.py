"""What a computed rule says of its leaves: one of four words each, and what it sees while it decides."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from migrate.mapping.paths import Document, Leaf, Node
from migrate.mapping.rules import Rule
from migrate.model import VM, Disk, Fate
from migrate.site import Named, Site
from migrate.target.vocabulary import Target

T = TypeVar("T")
OSINFO = "metadata.libosinfo:libosinfo.libosinfo:os"
# File names of EFI builds: OVMF, AAVMF, edk2-x86_64-code.fd, QEMU_EFI.fd, BHYVE_UEFI.fd.
EFI_IMAGE = re.compile(r"ovmf|aavmf|edk2|efi", re.IGNORECASE)


class Sign:
    """One word about some leaves. `row` names the flag's text in the rule; `path` and `value` are a write's."""

    __slots__ = ("because", "leaves", "path", "row", "value", "word")

    def __init__(self, word: Fate, leaves: tuple[Leaf, ...], path: str, value: Any, row: str, because: str | None):
        self.word = word
        self.leaves = leaves
        self.path = path
        self.value = value
        self.row = row
        self.because = because


def _leaves(leaves: Leaf | Iterable[Leaf]) -> tuple[Leaf, ...]:
    return (leaves,) if isinstance(leaves, Leaf) else tuple(leaves)


def write(leaves: Leaf | Iterable[Leaf], path: str, value: Any, because: str | None = None) -> Sign:
    """The target path gets the value, and comes from these leaves. A path without brackets gets the item's key."""
    return Sign("write", _leaves(leaves), path, value, "", because)


def flag(leaves: Leaf | Iterable[Leaf], row: str, detail: str | None = None) -> Sign:
    """The leaves change or are lost: the rule's `flags` row has severity, reason and remedy; `detail` is appended."""
    return Sign("flag", _leaves(leaves), "", None, row, detail)


def default(leaves: Leaf | Iterable[Leaf], because: str) -> Sign:
    """The target does this already."""
    return Sign("default", _leaves(leaves), "", None, "", because)


def ignore(leaves: Leaf | Iterable[Leaf], because: str) -> Sign:
    """The leaves mean nothing off the source host."""
    return Sign("ignore", _leaves(leaves), "", None, "", because)


@dataclass(slots=True, frozen=True)
class Context:
    """What is true of the whole VM while its rules run. `disks` are the source's facts by target dev.

    `arch` is the guest's architecture as libvirt writes it, `x86_64` for one, `osinfo` its operating system as a
    libosinfo id (a URL) or nothing. `instancetype` gives the guest its CPUs and memory, `preference` fills in what the
    VM leaves out, where the site file asks for them.
    """

    vm: VM
    document: Document
    site: Site
    target: Target
    disks: dict[str, Disk]
    arch: str = field(init=False)
    osinfo: str = field(init=False)
    instancetype: Named | None = field(init=False)
    preference: Named | None = field(init=False)
    known: dict[Callable[[Context], Any], Any] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        text, site = self.document.text, self.site
        osinfo = text(f"{OSINFO}[0].id") or text(f"{OSINFO}.id")
        object.__setattr__(self, "arch", text("os.type.arch"))
        object.__setattr__(self, "osinfo", osinfo)
        object.__setattr__(self, "instancetype", site.instancetype(osinfo))
        object.__setattr__(self, "preference", site.preference(osinfo))

    def once(self, find: Callable[[Context], T]) -> T:
        """What a function finds in the whole domain, looked for once."""
        if find not in self.known:
            self.known[find] = find(self)
        return self.known[find]

    @property
    def machine(self) -> str:
        """The machine type as libvirt writes it, `pc-q35-7.2` for one."""
        return self.document.text("os.type.machine")

    @property
    def firmware(self) -> Literal["bios", "efi"]:
        """What the guest boots with: EFI by choice, by flash or a store of variables, or by its image's name."""
        text = self.document.text
        efi = text("os.firmware") == "efi" or text("os.loader.type") == "pflash" or "os.varstore" in self.document.nodes
        return "efi" if efi or EFI_IMAGE.search(text("os.loader").rpartition("/")[2]) else "bios"


class View:
    """What a rule sees of one element: the leaves it owns and those it may read. Paths are relative to the element.

    A path that begins with `/` is relative to the domain. Seeing anything else is an error of the rule; where there is
    none, everything is seen.
    """

    __slots__ = ("_document", "_key", "_prefix", "_rule", "_seen", "node", "owned")

    def __init__(
        self,
        node: Node,
        owned: list[Leaf],
        document: Document,
        rule: Rule | None = None,
        key: Callable[[str | None, Node], str] = lambda name, node: "",
    ):
        self.node = node
        self.owned = owned
        self._document = document
        self._prefix = node.prefix
        self._rule = rule
        self._seen = rule.seen if rule else {}
        self._key = key

    @property
    def key(self) -> str:
        """What names the element's item in the lists that the rule writes to."""
        return self._key(self._rule.key if self._rule else None, self.node)

    def key_of(self, node: Node, name: str | None) -> str:
        """What names another element's item in the lists that rules with the key `name` write to."""
        return self._key(name, node)

    def leaf(self, path: str) -> Leaf | None:
        """The leaf at an indexed path, or None."""
        leaf = self._document.by_path.get(path[1:] if path[:1] == "/" else self._prefix + path)
        return leaf and (leaf if self._seen.get(leaf.pattern) else self._checked(leaf))

    def text(self, path: str, otherwise: str = "") -> str:
        """The value at an indexed path."""
        leaf = self._document.by_path.get(path[1:] if path[:1] == "/" else self._prefix + path)
        if leaf is None:
            return otherwise
        return leaf.value if self._seen.get(leaf.pattern) else self._checked(leaf).value

    def _checked(self, leaf: Leaf) -> Leaf:
        if self._rule and not self._rule.allowed(leaf.pattern):
            raise LookupError(f"reads {leaf.pattern}, which it neither owns nor declares in `reads`")
        return leaf

    def every(self, pattern: str) -> Sequence[Leaf]:
        """All leaves of a pattern (no indices) in document order: below this element, or with `/` in the domain."""
        absolute = pattern.startswith("/")
        full = pattern[1:] if absolute else (f"{self.node.pattern}.{pattern}" if self.node.pattern else pattern)
        if not self._seen.get(full) and self._rule and not self._rule.allowed(full):
            raise LookupError(f"reads {full}, which it neither owns nor declares in `reads`")
        found = self._document.by_pattern.get(full, ())
        return found if absolute or not found else [leaf for leaf in found if leaf.path.startswith(self._prefix)]

    def others(self, leaf: Leaf, name: str) -> str:
        """The value of a sibling: attribute or child text `name` of the same element as `leaf`."""
        found = self._document.by_path.get(leaf.node.prefix + name)
        return self._checked(found).value if found else ""
