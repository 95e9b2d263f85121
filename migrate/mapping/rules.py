"""The rules, and how each leaf pattern is led to its one owner.

A rule owns leaf patterns and says one of four words of each leaf, in exactly one form: `copy`, `values` (with
`otherwise`), `default`, `ignore`, `flag` or `call`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from migrate.model import Fate, Severity

QUIET: Final = ("default", "ignore")
UNKNOWN = "unknown"
OWNED = "."  # where a trie has the rules of a pattern: no segment is that, and some are empty
SECRET_NAMES = ("passwd", "password", "passphrase", "adminpass", "token", "ticket")


@dataclass(frozen=True, slots=True)
class Row:
    """What the rule `rule` says of one value: `write` is the target's value, `severity` that of a finding.

    `id` is its name in the rule, `name` that in a ledger, `said` the reason with its source, `sentence` the reason as a
    finding gives it.
    """

    rule: str
    id: str
    word: Fate
    write: str | None = None
    severity: Severity | None = None
    because: str | None = None
    remedy: str = ""
    source: str = ""
    name: str = field(init=False, compare=False, repr=False)
    said: str | None = field(init=False, compare=False, repr=False)
    sentence: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.rule}/{self.id}")
        object.__setattr__(self, "said", f"{self.because} ({self.source})" if self.source else self.because)
        object.__setattr__(self, "sentence", (self.because or "").rstrip(".") + ".")


@dataclass(slots=True, eq=False)
class Rule:
    """One rule of a family of elements (`each`, empty for the domain itself) under its `where`.

    `patterns` are full leaf patterns. `rows` holds the table of `values`, the `flags` of a `call`, and the single
    row of the other forms under the name of the form. A `secret` rule's values are shown nowhere but for those that
    `shown` says true of. `settled` are the rows that settle a leaf of a value with a word
    alone, None where there is more to do, `settles` that of the values that it lacks.
    """

    id: str
    file: str
    each: str
    where: tuple[tuple[str, frozenset[str]], ...]
    key: str | None
    identity: str | None
    form: str
    patterns: tuple[str, ...]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    why: str = ""
    examples: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)
    otherwise: Row | None = None
    call: str | None = None
    on: str | None = None
    secret: bool = False
    shown: Callable[[str], bool] | None = None
    unsupported: Severity = "warning"
    depth: int = 0
    order: int = 0
    function: Callable[..., Any] | None = None
    seen: dict[str, bool] = field(default_factory=dict)
    settled: dict[str, Row | None] = field(default_factory=dict)
    settles: Row | None = None

    @property
    def accounts_for(self) -> list[str]:
        """The leaf patterns that the rule can own: a gate owns its whole element when it shuts."""
        return list(self.patterns) or [f"{self.each}.**"]

    @property
    def every_row(self) -> list[Row]:
        """The rows with the one for other values."""
        return [*self.rows.values(), *([self.otherwise] if self.otherwise else [])]

    @property
    def findings(self) -> dict[str, Severity]:
        """The severities of its findings by their ids, those that the engine makes by itself among them."""
        found: dict[str, Severity] = {row.name: row.severity for row in self.every_row if row.severity}
        # A value that the field cannot hold, and what the chosen KubeVirt lacks.
        found[f"{self.id}/cast"], found[f"{self.id}/unsupported"] = "blocker", self.unsupported
        return found

    def row(self, value: str) -> Row:
        """What a rule that is no `call` says of a value."""
        found = self.rows.get(value, self.otherwise) if self.form == "values" else next(iter(self.rows.values()))
        assert found is not None
        return found

    def allowed(self, pattern: str) -> bool:
        """Whether the rule may see leaves of a pattern: those it owns, reads, or is told apart by."""
        known = self.seen.get(pattern)
        if known is None:
            prefix = self.each + "." if self.each else ""
            wheres = (prefix + name for name, _ in self.where)
            reads = (_absolute(read, self.each) for read in self.reads)
            known = self.seen[pattern] = any(
                matches(_bare(candidate), pattern) for candidate in (*self.patterns, *reads, *wheres)
            )
        return known


@dataclass(slots=True)
class Owners:
    """The rules that match a leaf pattern, most specific first; the first whose `where` holds owns the leaf.

    `sole` is the one that owns every leaf of the pattern which stands in the document, `row` what it says of each of
    them where that does not depend on anything. `secret` says that the leaf's
    name is that of a secret, `wary` that this or one of the rules makes it one.
    """

    rules: tuple[Rule, ...]
    sole: Rule | None
    row: Row | None
    secret: bool
    wary: bool

    def hides(self, rule: Rule, value: str) -> bool:
        """Whether a value that stands in the document and that one of the rules owns is shown nowhere."""
        return self.secret or (rule.secret and not (rule.shown and rule.shown(value)))


@dataclass(slots=True)
class Rules:
    """All rules of a run, ordered by file name and position; `known` has the owners of each pattern once found."""

    rules: dict[str, Rule]
    gates: dict[str, list[Rule]]
    implied: dict[str, list[Implied]]
    gains: list[GainRule]
    known: dict[str, Owners] = field(default_factory=dict)
    _trie: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rule in self.rules.values():
            for pattern in rule.patterns:
                segments = pattern.split(".")
                literals = sum(segment not in ("*", "**") for segment in segments)
                _insert(self._trie, pattern, rule, (len(rule.where), literals, int("**" not in segments)))

    def owners(self, pattern: str) -> Owners:
        """The rules that can own a leaf of a pattern."""
        found = self.known.get(pattern)
        if found is None:
            best: dict[str, tuple[tuple[int, int, int], Rule]] = {}
            segments = pattern.split(".")
            for rule, rank in _search(self._trie, segments, 0):
                if rule.id not in best or best[rule.id][0] < rank:
                    best[rule.id] = (rank, rule)
            ranked = [rule for _, rule in sorted(best.values(), key=lambda item: item[0], reverse=True)]
            first = ranked[0] if ranked else None
            # A rule that is as deep as the leaf owns an element's text and no attribute of the name.
            sole = first if first and not first.where and first.depth < len(segments) else None
            secret = _names_secret(segments[-1])
            wary = secret or any(rule.secret for rule in ranked)
            row = sole.settles if sole and not sole.settled and not wary else None
            found = self.known[pattern] = Owners(tuple(ranked), sole, row, secret, wary)
        return found

    def ties(self, pattern: str) -> list[tuple[str, str]]:
        """Pairs of rules that could both own a leaf of this pattern, which no rule may share."""
        ranked: dict[tuple[int, int, int], dict[str, Rule]] = {}
        for rule, rank in _search(self._trie, pattern.split("."), 0):
            ranked.setdefault(rank, {})[rule.id] = rule
        pairs = []
        for group in ranked.values():
            rules = sorted(group.values(), key=lambda rule: rule.order)
            for index, first in enumerate(rules):
                pairs += [(first.id, other.id) for other in rules[index + 1 :] if not exclusive(first, other)]
        return pairs


@dataclass(frozen=True, slots=True)
class Implied:
    """One row of libvirt's effective defaults: below each `each`, the leaf `leaf` has `value` where it is left out.

    `where` tells apart by leaves of the element, or with a leading `/` of the domain: their names, the values that fit
    (None where the leaf may be left out), and what tells of others whether they fit a shell glob, None without globs.
    """

    each: str
    leaf: str
    pattern: str
    value: str
    where: tuple[tuple[str, frozenset[str | None], Callable[[str], Any] | None], ...]


@dataclass(frozen=True, slots=True)
class GainRule:
    """Something KubeVirt adds: a value that stands at `path`, written to the manifest or only said.

    `unless` are element patterns: a source that has one gains nothing. `function` computes the value, None for none.
    """

    id: str
    path: str
    value: str | None
    write: bool
    because: str
    where: tuple[tuple[str, frozenset[str]], ...]
    unless: tuple[str, ...]
    function: Callable[..., Any] | None


def _names_secret(segment: str) -> bool:
    """Whether a name says that it holds a secret, in whatever element, or is of a namespace that nobody knows."""
    prefix, _, name = segment.rpartition(":")
    return prefix == "other" or name.lower() in SECRET_NAMES


def matches(owned: str, pattern: str) -> bool:
    """Whether a leaf pattern with `*` (one segment) and `**` (any number, also none) matches a path without indices."""
    trie: dict[str, Any] = {}
    _insert(trie, owned, True, (0, 0, 0))
    return any(True for _ in _search(trie, pattern.split("."), 0))


def exclusive(first: Rule, other: Rule) -> bool:
    """Whether no element satisfies the `where` of both rules: one key with values that do not overlap."""
    if first.each != other.each:
        return False
    theirs = dict(other.where)
    return any(name in theirs and not (values & theirs[name]) for name, values in first.where)


def _absolute(path: str, each: str) -> str:
    return path[1:] if path.startswith("/") else (f"{each}.{path}" if each else path)


def _bare(path: str) -> str:
    return re.sub(r"\[\d+\]", "", path)


def _insert(trie: dict[str, Any], pattern: str, rule: Any, rank: tuple[int, int, int]) -> None:
    node = trie
    for segment in pattern.split("."):
        node = node.setdefault(segment, {})
    node.setdefault(OWNED, []).append((rule, rank))


def _search(node: dict[str, Any], segments: list[str], at: int) -> Iterator[tuple[Any, tuple[int, int, int]]]:
    if at == len(segments):
        yield from node.get(OWNED, ())
    else:
        for child in (node.get(segments[at]), node.get("*")):
            if child is not None:
                yield from _search(child, segments, at + 1)
    rest = node.get("**")
    if rest is not None:
        for end in range(at, len(segments) + 1):
            yield from _search(rest, segments, end)
