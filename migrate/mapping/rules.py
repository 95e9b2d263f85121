"""The rules: read from YAML, checked strictly, each leaf pattern led to its one owner.

Every scalar of a rule file is text. A rule owns leaf patterns and says one of four words of each leaf, in exactly one
form: `copy`, `values` (with `otherwise`), `default`, `ignore`, `flag` or `call`.
"""

from __future__ import annotations

import fnmatch
import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrate.data import data_path, read_text
from migrate.model import SEVERITIES, Fate, Refused, Severity
from migrate.site import nearest

QUIET = ("default", "ignore")
FORMS = ("copy", "values", "default", "ignore", "flag", "call")
HEADER_KEYS = ("about", "each", "where", "key", "identity", "gate", "rules")
RULE_KEYS = (
    "id",
    "owns",
    "where",
    "reads",
    "writes",
    "why",
    "examples",
    "because",
    "remedy",
    "source",
    "otherwise",
    "flags",
    "secret",
    "shown",
    "unsupported",
    *FORMS,
)
GATE_KEYS = ("id", "where", "reads", "why", "examples", "because", "remedy", "on", "values", "flag", "call", "flags")
TEXT_KEYS = (
    *("id", "each", "key", "identity", "why", "because", "remedy", "source"),
    *("default", "ignore", "flag", "call", "shown", "on", "write"),
)
ROW_KEYS = ("write", "flag", "because", "remedy", "default", "ignore", "source")
WORDS: tuple[Fate, ...] = ("write", "default", "ignore")
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


def load(*folders: Path) -> Rules:
    """Reads the shipped rules, then the files of each folder a user gives. Raises Refused naming file and rule."""
    rules: dict[str, Rule] = {}
    gates: dict[str, list[Rule]] = {}
    for path in sorted(data_path("mappings").glob("*.yaml")):
        if path.stem not in ("implied", "gains"):
            for rule in _file(path):
                if rule.id in rules:
                    raise Refused(f"{path}: rule {rule.id} is there already, in {rules[rule.id].file}")
                rules[rule.id] = rule
    shipped = dict(rules)
    for folder in folders:
        _add_folder(folder, rules, shipped)
    for order, rule in enumerate(rules.values()):
        rule.order = order
        if rule.form == "gate":
            gates.setdefault(rule.each, []).append(rule)
    result = Rules(
        rules, gates, _implied(data_path("mappings", "implied.yaml")), _gains(data_path("mappings", "gains.yaml"))
    )
    for rule in rules.values():
        for pattern in rule.patterns:
            segments = pattern.split(".")
            literals = sum(segment not in ("*", "**") for segment in segments)
            _insert(result._trie, pattern, rule, (len(rule.where), literals, int("**" not in segments)))
    if folders:
        _check_ties(result)
    return result


def _add_folder(folder: Path, rules: dict[str, Rule], shipped: dict[str, Rule]) -> None:
    if not folder.is_dir():
        raise Refused(f"{folder}: no folder of rule files; give one with --rules")
    for path in sorted(folder.glob("*.yaml")):
        for rule in _file(path):
            known = shipped.get(rule.id)
            if known and (known.patterns != rule.patterns or known.where != rule.where):
                raise Refused(
                    f"{path}: rule {rule.id} replaces a shipped rule, so it owns just {', '.join(known.patterns)}"
                )
            _writes_what_is_there(rule, path)
            if not known and rule.id in rules:
                raise Refused(f"{path}: rule {rule.id} is there already, in {rules[rule.id].file}")
            if not known:
                _owns_only_unclaimed(rule, shipped, path)
            rules[rule.id] = rule


def _writes_what_is_there(rule: Rule, path: Path) -> None:
    from migrate.target.vocabulary import BRACKETS, since

    for target in rule.writes:
        if since(BRACKETS.sub("", target)) is None:
            raise Refused(f"{path}: rule {rule.id} writes {target}, which no KubeVirt version has")


def _owns_only_unclaimed(rule: Rule, shipped: dict[str, Rule], path: Path) -> None:
    for pattern in rule.patterns:
        for other in shipped.values():
            catch_all = [owned for owned in other.patterns if "**" in owned.split(".")]
            if any(owned not in catch_all and matches(owned, pattern) for owned in other.patterns):
                raise Refused(
                    f"{path}: rule {rule.id} owns {pattern}, which is rule {other.id}'s; replace that rule by its id"
                )


def _check_ties(rules: Rules) -> None:
    from migrate.mapping import vocabulary

    for pattern in vocabulary.load().paths:
        for first, other in rules.ties(pattern):
            raise Refused(f"rules {first} and {other} both own {pattern}; make one of them more specific")


def _file(path: Path) -> Iterator[Rule]:
    data = read_yaml(path)
    _strict(data, HEADER_KEYS, f"{path}")
    each = data.get("each", "")
    header = {
        "file": path.name,
        "each": each,
        "key": data.get("key"),
        "identity": data.get("identity", data.get("key")),
        "depth": len(each.split(".")) if each else 0,
    }
    where = _where(data.get("where"), f"{path}: where")
    if "gate" in data:
        gates = data["gate"] if isinstance(data["gate"], list) else [data["gate"]]
        for gate in gates:
            yield _gate(gate, header, where, path)
    for item in _list(data.get("rules", []), f"{path}: rules"):
        yield _rule(item, header, where, path)


def _rule(item: Any, header: dict[str, Any], where: Any, path: Path) -> Rule:
    name = item.get("id", "?") if isinstance(item, dict) else "?"
    place = f"{path}: rule {name}"
    _strict(item, RULE_KEYS, place)
    forms = [form for form in FORMS if form in item]
    if len(forms) != 1:
        raise Refused(f"{place}: give exactly one of {', '.join(FORMS)}")
    if "id" not in item or "owns" not in item:
        raise Refused(f"{place}: `id` and `owns` are needed")
    form = forms[0]
    each = header["each"]
    rule = Rule(
        id=name,
        where=_merge(where, _where(item.get("where"), place)),
        form=form,
        patterns=tuple(f"{each}.{owned}" if each else owned for owned in _texts(item["owns"], place)),
        reads=_texts(item.get("reads", []), place),
        writes=_texts(item.get("writes", item["copy"] if form == "copy" else []), place),
        why=item.get("why", ""),
        examples=_list(item.get("examples", []), place),
        secret=_boolean(item.get("secret", "false"), place),
        shown=_function(item["shown"], place) if "shown" in item else None,
        unsupported=_severity(item.get("unsupported", "warning"), place),
        **header,
    )
    _fill(rule, item, place)
    if form in QUIET:
        rule.settles = rule.rows[form]
    elif form == "values":
        rule.settled = {value: _if_quiet(row) for value, row in rule.rows.items()}
        rule.settles = _if_quiet(rule.otherwise)
    return rule


def _if_quiet(row: Row | None) -> Row | None:
    return row if row and row.word in QUIET else None


def _fill(rule: Rule, item: dict[str, Any], place: str) -> None:
    remedy = item.get("remedy", "")
    if rule.form == "values":
        if len(rule.writes) > 1:
            raise Refused(f"{place}: `values` writes one target path; write more with `call`")
        rows = _strict_mapping(item["values"], place)
        rule.rows = {value: _row(rule, value, row, remedy, f"{place}: values {value}") for value, row in rows.items()}
        if "otherwise" not in item:
            raise Refused(f"{place}: `values` needs `otherwise` for values that the table lacks")
        rule.otherwise = _row(rule, "otherwise", item["otherwise"], remedy, f"{place}: otherwise")
        if not rule.writes and any(row.write is not None for row in (*rule.rows.values(), rule.otherwise)):
            raise Refused(f"{place}: a row writes, so `writes` names the target path")
    elif rule.form == "copy":
        rule.rows = {"copy": Row(rule.id, "copy", "write", because=item.get("because"))}
    elif rule.form == "flag":
        rule.rows = {"always": _flag_row(rule, "always", {**item, "remedy": remedy}, remedy, place)}
    elif rule.form == "default":
        if not item.get("source"):
            raise Refused(f"{place}: `default` cites its `source`")
        rule.rows = {"default": Row(rule.id, "default", "default", because=item["default"], source=item["source"])}
    elif rule.form == "ignore":
        rule.rows = {"ignore": Row(rule.id, "ignore", "ignore", because=item["ignore"])}
    else:
        rule.call = item["call"]
        rows = _strict_mapping(item.get("flags", {}), place)
        rule.rows = {name: _flag_row(rule, name, row, remedy, f"{place}: flags {name}") for name, row in rows.items()}
        rule.function = _function(rule.call, place)
    if rule.shown and not rule.secret:
        raise Refused(f"{place}: `shown` goes with `secret`")
    if rule.form != "call" and "flags" in item:
        raise Refused(f"{place}: `flags` goes with `call`")


def _gate(item: Any, header: dict[str, Any], where: Any, path: Path) -> Rule:
    name = item.get("id", "?") if isinstance(item, dict) else "?"
    place = f"{path}: gate {name}"
    _strict(item, GATE_KEYS, place)
    forms = [form for form in ("values", "flag", "call") if form in item]
    if len(forms) != 1 or "id" not in item:
        raise Refused(f"{place}: give an `id` and exactly one of values, flag, call")
    always = forms[0] == "flag"
    rule = Rule(
        id=name,
        where=_merge(where, _where(item.get("where"), place)),
        form="gate",
        patterns=(f"{header['each']}.**",) if always else (),
        reads=(*_texts(item.get("reads", []), place), *([item["on"]] if "on" in item else [])),
        why=item.get("why", ""),
        examples=_list(item.get("examples", []), place),
        **header,
    )
    remedy = item.get("remedy", "")
    if forms[0] == "values":
        if "on" not in item:
            raise Refused(f"{place}: `values` of a gate needs `on`, the leaf whose value it tells apart")
        rule.on = item["on"]
        rows = _strict_mapping(item["values"], place)
        rule.rows = {
            value: _flag_row(rule, value, row, remedy, f"{place}: values {value}") for value, row in rows.items()
        }
    elif always:
        rule.rows = {"always": _flag_row(rule, "always", item, remedy, place)}
    else:
        rule.call = item["call"]
        rows = _strict_mapping(item.get("flags", {}), place)
        rule.rows = {key: _flag_row(rule, key, row, remedy, f"{place}: flags {key}") for key, row in rows.items()}
        rule.function = _function(rule.call, place)
    return rule


def _row(rule: Rule, name: str, row: Any, remedy: str, place: str) -> Row:
    if isinstance(row, str):
        return Row(rule.id, name, "write", write=row)
    _strict(row, ROW_KEYS, place)
    if "flag" in row:
        return _flag_row(rule, name, row, remedy, place)
    words = [word for word in WORDS if word in row]
    if len(words) != 1:
        raise Refused(f"{place}: give one of write, default, ignore, flag")
    if words[0] == "default" and not row.get("source"):
        raise Refused(f"{place}: `default` cites its `source`")
    because = row.get("because") if words[0] == "write" else row[words[0]]
    return Row(rule.id, name, words[0], write=row.get("write"), because=because, source=row.get("source", ""))


def _flag_row(rule: Rule, name: str, row: Any, remedy: str, place: str) -> Row:
    severity = _severity(row.get("flag"), place)
    remedy = row.get("remedy") or remedy
    if not row.get("because") or not remedy:
        raise Refused(f"{place}: a flag needs `because` (what happens to the guest) and `remedy` (what to do)")
    return Row(rule.id, name, "flag", write=row.get("write"), severity=severity, because=row["because"], remedy=remedy)


def _function(name: str, place: str) -> Callable[..., Any]:
    module, _, function = name.partition(".")
    if not module.isidentifier() or not function.isidentifier() or function.startswith("_"):
        raise Refused(f"{place}: call {name!r} is no MODULE.FUNCTION of the shipped computed rules")
    try:
        return getattr(importlib.import_module(f"migrate.mapping.{module}"), function)
    except (ImportError, AttributeError) as error:
        raise Refused(f"{place}: call {name} cannot be loaded: {error}") from None


def _implied(path: Path) -> dict[str, list[Implied]]:
    rows = _list(read_yaml(path)["implied"], f"{path}")
    result: dict[str, list[Implied]] = {}
    for row in rows:
        _strict(row, ("each", "leaf", "value", "where"), f"{path}: {row.get('leaf')}")
        where = _strict_mapping(row.get("where", {}), f"{path}")
        each, leaf = row.get("each", ""), row["leaf"]
        known = tuple((name, *_globs(_texts(values, f"{path}"))) for name, values in where.items())
        implied = Implied(each, leaf, f"{each}.{leaf}" if each else leaf, row["value"], known)
        result.setdefault(each, []).append(implied)
    return result


def _globs(globs: tuple[str, ...]) -> tuple[frozenset[str | None], Callable[[str], Any] | None]:
    """The values that fit shell globs as they are, and what matches the others."""
    wild = [fnmatch.translate(glob) for glob in globs if any(character in glob for character in "*?[")]
    plain = {glob or None for glob in globs}
    return frozenset(plain), re.compile("|".join(wild)).match if wild else None


def _gains(path: Path) -> list[GainRule]:
    result = []
    for row in _list(read_yaml(path)["gains"], f"{path}"):
        place = f"{path}: gain {row.get('id')}"
        _strict(row, ("id", "path", "value", "write", "because", "where", "unless", "call"), place)
        result.append(
            GainRule(
                id=row["id"],
                path=row["path"],
                value=row.get("value"),
                write=_boolean(row.get("write", "false"), place),
                because=row["because"],
                where=_where(row.get("where"), place),
                unless=_texts(row.get("unless", []), place),
                function=_function(row["call"], place) if "call" in row else None,
            )
        )
    return result


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file in which every scalar is text and no key stands twice. Raises Refused with file and line."""
    import yaml

    text = read_text(path, "give readable rule files")
    try:
        return yaml.load(text, Loader=_text_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise Refused(f"{path}, line {mark.line + 1 if mark else '?'}: {getattr(error, 'problem', error)}") from None


_loader: Any = None


def _text_loader() -> Any:
    global _loader
    if _loader is None:
        import yaml

        class TextLoader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]
            """Every scalar stays text, so that `no` and `1.10` are what was written."""

            def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
                keys = [key.value for key, _ in node.value]
                twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
                if twice is not None:
                    raise yaml.constructor.ConstructorError(None, None, f"{twice} stands twice", node.start_mark)
                return super().construct_mapping(node, deep)

        _loader = TextLoader
    return _loader


def _where(value: Any, place: str) -> tuple[tuple[str, frozenset[str]], ...]:
    items = _strict_mapping(value or {}, place).items()
    return tuple((name, frozenset(_texts(values, place))) for name, values in items)


def _merge(first: Any, other: Any) -> tuple[tuple[str, frozenset[str]], ...]:
    return tuple({**dict(first), **dict(other)}.items())


def _texts(value: Any, place: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise Refused(f"{place}: give text or a list of texts")
    return tuple(values)


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise Refused(f"{place}: give a list, one `- item` each")
    return value


def _strict_mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(f"{place}: give `name: value` pairs")
    return value


def _strict(value: Any, known: tuple[str, ...], place: str) -> None:
    for key in _strict_mapping(value, place):
        if key not in known:
            raise Refused(f"{place}: there is no key {key!r}{nearest(key, known)}")
        if key in TEXT_KEYS and not isinstance(value[key], str):
            raise Refused(f"{place}: {key}: give text")


def _severity(value: Any, place: str) -> Severity:
    if value not in SEVERITIES:
        raise Refused(f"{place}: severity {value!r} is none of {', '.join(SEVERITIES)}")
    return value


def _boolean(value: Any, place: str) -> bool:
    if value not in ("true", "false"):
        raise Refused(f"{place}: {value!r} is neither true nor false")
    return value == "true"
