"""The rules as YAML files, checked strictly: every scalar is text, no key is unknown, no rule has two forms."""

from __future__ import annotations

import fnmatch
import importlib
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from migrate.data import data_path, read_text
from migrate.mapping.rules import QUIET, GainRule, Implied, Row, Rule, Rules, matches
from migrate.model import SEVERITIES, Fate, Refused, Severity
from migrate.site import nearest

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


@cache
def _text_loader() -> Any:
    import yaml

    class TextLoader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]
        """Every scalar stays text, so that `no` and `1.10` are what was written."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
            keys = [key.value for key, _ in node.value]
            twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
            if twice is not None:
                raise yaml.constructor.ConstructorError(None, None, f"{twice} stands twice", node.start_mark)
            return super().construct_mapping(node, deep)

    return TextLoader


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
