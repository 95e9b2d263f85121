"""The engine: leads each leaf to its owner, lets the owner speak, and keeps the four laws of the ledger."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from operator import attrgetter, itemgetter
from typing import Any, Final

from migrate.mapping.paths import Document, Leaf, Node, printable, redact
from migrate.mapping.rules import QUIET, UNKNOWN, GainRule, Implied, Owners, Row, Rule, Rules
from migrate.mapping.signs import Context, Sign, View
from migrate.model import REDACTED, Finding, Gain
from migrate.target.vocabulary import Target, cast, missing, needs_more

NO_KEY = re.compile("[^a-z0-9]+")
UNSIGNED: Final[Any] = ""  # of a leaf whose owner has not spoken yet
INTERNAL_REMEDY = "Report it with the domain XML and the rule's name; the other VMs are not touched by it."


Holds = dict[tuple[Rule, Node], bool]  # whether a rule's `where` holds of an element


class Broken(Exception):
    """A rule that does not keep the laws."""


class Write:
    """One value at one target path, by which rule, at which place of the source order, from which leaves."""

    __slots__ = ("leaves", "order", "path", "rule", "value")

    def __init__(self, path: str, value: Any, rule: str, order: int, leaves: Sequence[Leaf] = ()):
        self.path = path
        self.value = value
        self.rule = rule
        self.order = order
        self.leaves = leaves

    def __repr__(self) -> str:
        return f"Write({self.path}={self.value!r}, {self.rule}, {self.order}, {[*self.leaves]})"

    @property
    def leaf(self) -> str:
        """The path of the first leaf that the value comes from, nothing where it comes from none."""
        return self.leaves[0].path if self.leaves else ""

    @property
    def key(self) -> str:
        """The key of the item that the path leads into first, nothing where it leads into none."""
        return self.path.partition("[")[2].partition("]")[0]


class Writes(dict[str, Write]):
    """The writes by their target paths; `of` has them by the patterns of these, as they were made."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, list[Write]] = {}

    def add(self, write: Write, pattern: str) -> None:
        """Adds a write at a path of a pattern."""
        self[write.path] = write
        same = self.of.get(pattern)
        if same is None:
            self.of[pattern] = [write]
        else:
            same.append(write)

    def every(self, *patterns: str) -> list[Write]:
        """The writes at paths of the patterns, in source order."""
        found = [write for pattern in patterns for write in self.of.get(pattern, ())]
        return sorted(found, key=attrgetter("order")) if len(found) > 1 else found

    def take_back(self, kept: int) -> None:
        """Removes all but the first writes."""
        for path in list(self)[kept:]:
            write = self.pop(path)
            self.of[_pattern(path)].remove(write)


@dataclass(slots=True)
class Ledger:
    """Everything that became of one document: an entry for each leaf, the writes, and what no leaf caused.

    `rows` are those that spoke, `gates` the rules that shut out elements, `secrets` the leaves whose value is shown
    nowhere.
    """

    entries: Sequence[Leaf] = ()
    findings: list[Finding] = field(default_factory=list)
    gains: list[Gain] = field(default_factory=list)
    writes: Writes = field(default_factory=Writes)
    internal: bool = False
    rows: list[Row] = field(default_factory=list)
    gates: set[str] = field(default_factory=set)
    secrets: list[Leaf] = field(default_factory=list, repr=False)

    def ordered(self) -> list[tuple[str, Any]]:
        """The paths and values in source order: an item of a list stands where the element of its name stands."""
        homes = {path[: -len("].name")]: write.order for path, write in self.writes.items() if path.endswith("].name")}
        placed = [(homes.get(path.rpartition("]")[0], write.order), path, write) for path, write in self.writes.items()]
        placed.sort(key=itemgetter(0))
        return [(path, write.value) for _, path, write in placed]

    def writer(self, path: str) -> str | None:
        """The rule that wrote a target path, or something below or above it."""
        exact = self.writes.get(path)
        if exact:
            return exact.rule
        near = (write for name, write in self.writes.items() if name.startswith(path) or path.startswith(name + "."))
        return next((write.rule for write in near), None)


def imply(document: Document, rules: Rules) -> None:
    """Adds what libvirt takes for granted: the leaves that the document leaves out, marked implied."""
    by_path, nodes = document.by_path, document.nodes
    for each, rows in rules.implied.items():
        for node in nodes.get(each, ()) if each else (document.root,):
            prefix = node.prefix
            for row in rows:
                path = prefix + row.leaf
                if path not in by_path and (not row.where or _fits(row, prefix, by_path)):
                    document.add([Leaf(path, row.pattern, row.value, node, None, True)])


def _fits(row: Implied, prefix: str, by_path: dict[str, Leaf]) -> bool:
    """Whether the leaves that a row looks at fit one of its globs each; one that is not there fits only ""."""
    for name, values, fits in row.where:
        leaf = by_path.get(name[1:] if name[0] == "/" else prefix + name)
        value = leaf.value if leaf else None
        if value not in values and not (fits and value is not None and fits(value)):
            return False
    return True


def redact_secrets(document: Document, rules: Rules) -> None:
    """Puts `(redacted)` in place of every secret in the tree that the document was read from."""
    imply(document, rules)
    holds: Holds = {}
    for leaf in document.leaves[: document.written]:
        owners = rules.owners(leaf.pattern)
        if owners.wary and owners.hides(_owner(leaf, owners, document, holds), leaf.value):
            redact(leaf)


def run(document: Document, rules: Rules, context: Context) -> Ledger:
    """The ledger of a document: every leaf signed once by its owner, every write kept to law three.

    A rule that breaks a law is our bug: its VM gets the finding `internal`, its writes are taken back.
    """
    return _Run(document, rules, context).all()


def _owner(leaf: Leaf, owners: Owners, document: Document, holds: Holds) -> Rule:
    """The rule that owns a leaf of those that can."""
    for rule in owners.rules:
        node = _element(rule, leaf.node)
        if node and (not rule.where or _holds(rule, node, document, holds)):
            return rule
    raise LookupError(f"no rule owns {leaf.pattern}: the rule `{UNKNOWN}` is missing")


def _element(rule: Rule, node: Node) -> Node | None:
    """The element of a rule's depth that is or holds a node; None where the node is not so deep."""
    depth, above = rule.depth, len(node.parents)
    return node.parents[depth] if depth < above else node if depth == above else None


def _holds(rule: Rule, node: Node, document: Document, known: Holds) -> bool:
    key = (rule, node)
    found = known.get(key)
    if found is None:
        by_path = document.by_path
        found = True
        for name, values in rule.where:
            leaf = by_path.get(name[1:] if name[0] == "/" else node.prefix + name)
            if leaf is None or leaf.value not in values:
                found = False
                break
        known[key] = found
    return found


@lru_cache(maxsize=10_000)
def item_key(text: str) -> str:
    """A name from a source as a key of list items: a-z, 0-9 and -, at most 40 characters, never empty."""
    key = NO_KEY.sub("-", text.lower()).strip("-")[:40].strip("-")
    return key or "item"


def _inside(node: Node, gated: Mapping[Node, Any]) -> Node | None:
    """The outermost element around a node, or itself, whose gate is shut."""
    for above in node.parents:
        if above in gated:
            return above
    return node if node in gated else None


class _Run:
    """The state of one document's run."""

    def __init__(self, document: Document, rules: Rules, context: Context):
        self.document = document
        self.rules = rules
        self.context = context
        self.target = context.target
        self.places = _places(context.target)
        self.ledger = Ledger(document.leaves)
        self.vm = (context.vm.source, context.vm.uuid)
        self.holds: Holds = {}
        self.said: dict[Node, str] = {}
        self.keys: dict[tuple[str | None, Node], str] = {}
        self.used_keys: dict[tuple[str | None, str], set[str]] = {}

    def all(self) -> Ledger:
        gated = self._gates()
        shut: dict[Node, list[Leaf]] = {}
        groups: dict[tuple[Rule, Node], list[Leaf]] = {}
        document, rules, known, spoken = self.document, self.rules, self.rules.known, self.ledger.rows
        last, inside = None, None  # the leaves of an element stand together
        for leaf in document.leaves:
            node = leaf.node
            owners = known.get(leaf.pattern) or rules.owners(leaf.pattern)
            row, owner = owners.row, owners.sole
            if row is None or leaf.implied:
                if owner is None or leaf.implied:
                    owner = _owner(leaf, owners, document, self.holds)
                if owners.wary and not leaf.implied and owners.hides(owner, leaf.value):
                    leaf.value = REDACTED
                    self.ledger.secrets.append(leaf)
                row = owner.settled.get(leaf.value, owner.settles)
            if gated and node is not last:
                last, inside = node, _inside(node, gated)
            if inside:
                leaf.rule, leaf.place, leaf.fate = gated[inside][0].id, inside, UNSIGNED
                shut.setdefault(inside, []).append(leaf)
            elif row is not None:
                leaf.rule, leaf.fate, leaf.because = row.rule, row.word, row.said
                spoken.append(row)
            else:
                assert owner  # there is one where no row speaks
                depth, parents = owner.depth, node.parents
                place = parents[depth] if depth < len(parents) else node
                leaf.rule, leaf.place, leaf.fate = owner.id, place, UNSIGNED
                groups.setdefault((owner, place), []).append(leaf)
        for node, closed in shut.items():
            rule, gate_row, detail = gated[node]
            self.ledger.gates.add(rule.id)
            self._flag(rule, gate_row, node, closed, detail)
        for (rule, place), leaves in groups.items():
            self._apply(rule, place, leaves)
        self._gains()
        return self.ledger

    def _gates(self) -> dict[Node, tuple[Rule, Row, str | None]]:
        gated: dict[Node, tuple[Rule, Row, str | None]] = {}
        for each, gates in self.rules.gates.items():
            for node in self.document.nodes.get(each, ()):
                for gate in gates:
                    if node not in gated and _holds(gate, node, self.document, self.holds):
                        try:
                            shut = self._gate(gate, node)
                        except Exception as error:
                            self._break(gate, node, [], error)
                            continue
                        if shut:
                            gated[node] = (gate, *shut)
        return gated

    def _gate(self, gate: Rule, node: Node) -> tuple[Row, str | None] | None:
        """The row that shuts the gate for an element, with a detail, or None where the element passes."""
        if gate.function:
            answer = gate.function(View(node, [], self.document, gate, self.key), self.context)
            if answer is None:
                return None
            row, detail = answer if isinstance(answer, tuple) else (answer, None)
            return gate.rows[row], detail
        if gate.on:
            row = gate.rows.get(self.document.text(f"{node.path}.{gate.on}"))
            return (row, None) if row else None
        return gate.rows["always"], None

    def _apply(self, rule: Rule, node: Node, leaves: list[Leaf]) -> None:
        before = len(self.ledger.writes)
        try:
            if rule.function:
                self._call(rule, node, leaves)
            else:
                for leaf in leaves:
                    self._sign(rule, node, leaf, rule.row(leaf.value))
        except Exception as error:
            self.ledger.writes.take_back(before)
            self._break(rule, node, leaves, error)

    def _call(self, rule: Rule, node: Node, leaves: list[Leaf]) -> None:
        assert rule.function
        signs: Iterable[Sign] = rule.function(View(node, leaves, self.document, rule, self.key), self.context)
        for sign in signs:
            for leaf in sign.leaves:
                if leaf.rule != rule.id or leaf.place is not node:
                    raise Broken(f"signs {leaf.path}, which it does not own")
                if leaf.fate and (leaf.fate in QUIET or sign.word in QUIET):
                    raise Broken(f"says two things of {leaf.path}")
            if sign.word == "write":
                self._write(rule, node, sign.path, sign.value, sign.leaves, sign.because)
            elif sign.word == "flag":
                row = rule.rows.get(sign.row)
                if row is None:
                    raise Broken(f"flags {sign.row!r}, which its `flags` do not have")
                self._flag(rule, row, node, sign.leaves, sign.because)
            else:
                for leaf in sign.leaves:
                    leaf.fate, leaf.because = sign.word, sign.because
        for leaf in leaves:
            if not leaf.fate:
                raise Broken(f"says nothing of {leaf.path}")

    def _sign(self, rule: Rule, node: Node, leaf: Leaf, row: Row) -> None:
        self.ledger.rows.append(row)
        if row.word == "write" or row.write is not None:
            text = leaf.value if rule.form == "copy" else row.write
            for pattern in rule.writes:
                try:
                    value = _cast(self.target, pattern, text)
                except ValueError as error:
                    if rule.form != "copy":
                        raise
                    cast = Row(rule.id, "cast", "flag", severity="blocker", because=CAST, remedy=CAST_REMEDY)
                    self._flag(rule, cast, node, (leaf,), str(error))
                    return
                self._write(rule, node, pattern, value, (leaf,), row.because)
        if row.word == "flag":
            self._flag(rule, row, node, (leaf,), None)

    def _write(
        self, rule: Rule, node: Node, path: str, value: Any, leaves: Sequence[Leaf], because: str | None
    ) -> None:
        place = self.places.get(path) or self._place(path)
        pattern = place.pattern
        if pattern not in rule.writes:
            raise Broken(f"writes {pattern}, which its `writes` do not have")
        if rule.secret:
            raise Broken(f"writes the secret {leaves[0].path if leaves else ''}")
        full = self._full(rule, node, place)
        if place.needs and (lack := missing(pattern, value, self.target)):
            lost = {"because": UNSUPPORTED, "remedy": UNSUPPORTED_REMEDY}
            row = Row(rule.id, "unsupported", "flag", severity=rule.unsupported, **lost)
            self._flag(rule, row, node, leaves, f"{pattern}: {lack}")
            return
        writes = self.ledger.writes
        if full in writes:
            raise Broken(f"writes {full}, which rule {writes[full].rule} wrote")
        writes.add(Write(full, value, rule.id, node.order, leaves), pattern)
        for leaf in leaves:
            leaf.writes[full] = value
            leaf.fate = leaf.fate or "write"
            leaf.because = leaf.because or because

    def _flag(self, rule: Rule, row: Row, node: Node, leaves: Sequence[Leaf], detail: str | None) -> None:
        self.ledger.rows.append(row)
        because = f"{row.sentence[:-1]} ({printable(detail, 500)})." if detail else row.sentence
        for leaf in leaves:
            leaf.fate, leaf.because = "flag", because
        if not leaves:
            raise Broken(f"flags {row.id} of no leaf")
        leaves[0].findings.append(self._finding(rule, row, node, leaves, because))

    def _finding(self, rule: Rule, row: Row, node: Node, leaves: Sequence[Leaf], because: str) -> Finding:
        first = leaves[0]
        target = next(iter(first.writes)) if first.writes else self._meant(rule, node)
        parts = (*self.vm, row.name, self._device(rule, node, first))
        assert row.severity  # the row of a flag has one
        said = _values(node, leaves)
        return Finding(row.name, parts, rule.id, row.severity, first.path, said, target, because, row.remedy)

    def _meant(self, rule: Rule, node: Node) -> str | None:
        """Where the rule writes when it writes; None where that depends on more than the element."""
        try:
            return self._full(rule, node, self._place(rule.writes[0])) if len(rule.writes) == 1 else None
        except Broken:
            return None

    def _place(self, path: str) -> Place:
        found = _place(path, self.target)
        if "[" not in path:  # names from sources stand in brackets, and these are without number
            self.places[path] = found
        return found

    def _device(self, rule: Rule, node: Node, leaf: Leaf) -> str:
        """What names the element on the source whatever its position: its identity leaf, else all that it says."""
        pattern = _pattern(leaf.path)
        if not node.path:
            return f"{pattern}={leaf.value}"
        identity = self.document.text(f"{node.path}.{rule.identity}") if rule.identity else ""
        if not identity:
            identity = self.said.get(node) or self.said.setdefault(node, "\n".join(sorted(self._said(node))))
        return f"{pattern}@{identity}"

    def _said(self, node: Node) -> Iterator[str]:
        """What an element says."""
        leaves, written = self.document.leaves, self.document.written
        # The leaves of an element stand together, those that are implied stand at the end.
        below = itertools.takewhile(lambda leaf: leaf.path.startswith(node.prefix), leaves[node.order - 1 : written])
        for leaf in (*below, *(leaf for leaf in leaves[written:] if leaf.path.startswith(node.prefix))):
            yield f"{leaf.pattern}={leaf.value}"

    def _full(self, rule: Rule, node: Node, place: Place) -> str:
        after = place.after
        return place.before if after is None else f"{place.before}[{self.key(rule.key, node)}]{after}"

    def key(self, name: str | None, node: Node) -> str:
        """The key of an element's list items: the leaf `name` made plain, else tag and position; unique."""
        known = self.keys.get((name, node))
        if known is None:
            text = self.document.text(f"{node.path}.{name}") if name else ""
            known = item_key(text or f"{node.tag}-{node.index}")
            used = self.used_keys.setdefault((name, node.pattern), set())
            first, count = known, node.index
            while known in used:
                known = item_key(f"{first[:28]}-{node.tag[:6]}-{count}")
                count += 1
            used.add(known)
            self.keys[name, node] = known
        return known

    def _broken(self, name: str, pattern: str, error: Exception) -> Finding:
        """The finding `internal`: a rule of ours broke a law here."""
        self.ledger.internal = True
        finding = Finding(
            id="internal",
            parts=(*self.vm, "internal", name, pattern),
            rule=name,
            severity="blocker",
            path=None,
            value=None,
            target=None,
            because=f"The rule {name} failed here: {type(error).__name__}: {error}",
            remedy=INTERNAL_REMEDY,
        )
        self.ledger.findings.append(finding)
        return finding

    def _break(self, rule: Rule, node: Node, leaves: Iterable[Leaf], error: Exception) -> None:
        finding = self._broken(rule.id, node.pattern, error)
        for leaf in leaves:
            leaf.writes, leaf.findings = {}, []
            leaf.fate, leaf.because = "flag", finding.because
            if finding.path is None:
                finding.path, finding.value = leaf.path, leaf.value
                leaf.findings = [finding]
                self.ledger.findings.remove(finding)

    def _gains(self) -> None:
        """What KubeVirt adds: said, and written where the manifest needs it."""
        nodes = self.document.nodes.keys()
        for gain in self.rules.gains:
            if (gain.unless and not nodes.isdisjoint(gain.unless)) or (gain.where and not self._applies(gain)):
                continue
            value: Any = gain.value
            if gain.function:
                value = self._gained(gain)
                if value is None:
                    continue
            elif gain.write:
                value = _cast(self.target, _pattern(gain.path), gain.value)
            if gain.write:
                place = self.places.get(gain.path) or self._place(gain.path)
                if gain.path in self.ledger.writes or (place.needs and missing(gain.path, value, self.target)):
                    continue
                self.ledger.writes.add(Write(gain.path, value, gain.id, 0), place.pattern)
            self.ledger.gains.append(Gain(gain.path, value, gain.because))

    def _applies(self, gain: GainRule) -> bool:
        return all(self.document.text(name) in values for name, values in gain.where)

    def _gained(self, gain: GainRule) -> Any:
        assert gain.function
        try:
            return gain.function(self.context, self.ledger.writes)
        except Exception as error:
            self._broken(gain.id, "", error)
            return None


UNSUPPORTED = "The chosen KubeVirt has no place for this, so the guest goes without it"
UNSUPPORTED_REMEDY = "Choose a KubeVirt version or feature gate that has it, or remove the setting from the guest."
CAST = "The value is not of the kind that KubeVirt's field holds"
CAST_REMEDY = "Correct the value in the source domain."


def _values(node: Node, leaves: Sequence[Leaf]) -> str:
    """What the source says of a finding: the leaf's value, or of several leaves `name=value` each."""
    said = leaves if len(leaves) == 1 else [leaf for leaf in leaves if not leaf.implied] or leaves
    if len(said) == 1:
        return said[0].value
    return ", ".join(f"{leaf.path.removeprefix(node.prefix)}={leaf.value}" for leaf in said)


@lru_cache(maxsize=20_000)
def _pattern(path: str) -> str:
    """A target path without its bracketed keys."""
    return re.sub(r"\[[^\]]*\]", "", path)


def _cast(target: Target, pattern: str, text: Any) -> Any:
    known = target.vocabulary.field(pattern)
    return cast(known.type, text) if known else text


@dataclass(slots=True)
class Place:
    """A target path without its keys, cut where the key of the element's item goes (`after` is None where it needs
    none), and whether it or some of its values need more than the target's version.

    Lists and maps whose key stands in the path already (`annotations[x]`) need no other.
    """

    pattern: str
    before: str
    after: str | None
    needs: bool


@cache
def _places(target: Target) -> dict[str, Place]:
    """The places that were found for a target, by path."""
    return {}


@lru_cache(maxsize=20_000)
def _place(path: str, target: Target) -> Place:
    pattern = _pattern(path)
    segments = path.split(".") if "[" not in path else re.split(r"\.(?![^\[]*\])", path)
    bare = [index for index in target.vocabulary.lists(pattern) if "[" not in segments[index]]
    if len(bare) > 1:
        raise Broken(f"{path} passes through {len(bare)} lists; give the keys of all but one in brackets")
    before, after = path, None
    if bare:
        before = ".".join(segments[: bare[0] + 1])
        after = "".join("." + segment for segment in segments[bare[0] + 1 :])
    return Place(pattern, before, after, needs_more(pattern, target))
