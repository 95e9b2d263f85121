"""Path/value pairs as Kubernetes objects, and objects as YAML that no name from a source can change the shape of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from migrate.target.vocabulary import API_VERSIONS, BRACKETS, TEMPLATE, load, since

SEGMENT = re.compile(r"([^.\[\]]+)(?:\[([^\]]*)\])?(?:\.|$)")
PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
# YAML 1.1 readers take these for booleans and null, in any case.
KEYWORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
# What cannot stand as itself in double quotes, and what turns the direction of text or is invisible.
UNSAFE = re.compile(
    r'["\\\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\uffff]'
)
ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
FIRST = ("apiVersion", "kind", "metadata", "spec")


class Step(NamedTuple):
    """One step down into an object, a field, a map's key or the item of a list, and whether a list's item is next."""

    name: str
    before_item: bool


@lru_cache(maxsize=20_000)
def _steps(path: str) -> tuple[str, str, tuple[Step, ...], str, str]:
    """Kind and key of the object, the steps inside it, the last name, and the path of what has that.

    ValueError for a path that no version has.
    """
    pattern = BRACKETS.sub("", path)
    version = since(pattern)
    if version is None:
        raise ValueError(f"no KubeVirt version has {pattern}")
    field = load(version).field(pattern)
    assert field
    segments = SEGMENT.findall(path)
    names = [
        (part, index == 1 and position not in field.maps)
        for position, segment in enumerate(segments)
        for index, part in enumerate(segment)
        if part
    ]
    kind, key = segments[0]
    if kind in API_VERSIONS:
        names = names[1 + bool(key) :]
    else:
        kind, key = "VirtualMachine", ""
        names = [*((name, False) for name in TEMPLATE.split(".")[1:]), *names]
    steps = tuple(Step(name, below[1]) for (name, _), below in pairwise(names))
    last = names[-1][0]
    return kind, key, steps, last, path[: path.rindex(last)]


def assemble(writes: Iterable[tuple[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The objects that the values at the paths make, by kind; items and objects stand in order of first appearance.

    Keys in brackets tell items of lists apart and are not written themselves; those of maps are.
    """
    objects: dict[str, dict[str, dict[str, Any]]] = {}
    lists: list[tuple[dict[str, Any], str]] = []  # what will be lists: maps by the keys of their items until then
    known: dict[str, dict[str, Any]] = {}
    for path, value in writes:
        kind, key, steps, last, parent = _steps(path)
        node = known.get(parent)
        if node is None:
            node = objects.setdefault(kind, {}).get(key)
            if node is None:
                node = objects[kind][key] = {"apiVersion": API_VERSIONS[kind], "kind": kind}
            for name, before_item in steps:
                inner = node.get(name)
                if inner is None:
                    inner = node[name] = {}
                    if before_item:
                        lists.append((node, name))
                node = inner
            known[parent] = node
        if isinstance(value, dict):
            node.setdefault(last, {}).update(value)
        else:
            node[last] = value
    for node, name in lists:
        node[name] = list(node[name].values())
    return {kind: list(by_key.values()) for kind, by_key in objects.items()}


def changes(there: Any, wanted: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The paths at which two objects differ, with both values."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        for name in [*there, *(name for name in wanted if name not in there)]:
            yield from changes(there.get(name), wanted.get(name), f"{path}.{name}" if path else name)
    elif isinstance(there, list) and isinstance(wanted, list) and len(there) == len(wanted):
        for index, pair in enumerate(zip(there, wanted, strict=True)):
            yield from changes(*pair, f"{path}[{index}]")
    elif there != wanted:
        yield path, there, wanted


def dump(objects: Iterable[dict[str, Any]]) -> str:
    """The objects as YAML documents; every string that is not a plain word is quoted."""
    documents = []
    for each in objects:
        lines: list[str] = []
        _lines(_ordered(each), "", lines)
        documents.append("\n".join([*lines, ""]))
    return "---\n".join(documents)


def _ordered(manifest: dict[str, Any]) -> dict[str, Any]:
    return {key: manifest[key] for key in FIRST if key in manifest} | manifest


def _lines(value: dict[str, Any] | list[Any], indent: str, lines: list[str]) -> None:
    """Adds the lines of a mapping or list that is not empty."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if inner and isinstance(inner, dict | list):
                lines.append(f"{indent}{_scalar(key)}:")
                _lines(inner, indent + "  " if isinstance(inner, dict) else indent, lines)
            else:
                lines.append(f"{indent}{_scalar(key)}: {_scalar(inner)}")
    else:
        for item in value:
            if item and isinstance(item, dict | list):
                first = len(lines)
                _lines(item, indent + "  ", lines)
                lines[first] = f"{indent}- {lines[first][len(indent) + 2 :]}"
            else:
                lines.append(f"{indent}- {_scalar(item)}")


@lru_cache(maxsize=10_000)
def _text(text: str) -> str:
    if PLAIN.fullmatch(text) and text.lower() not in KEYWORDS:
        return text
    return '"' + UNSAFE.sub(_escape, text) + '"'


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return ESCAPES.get(character) or (f"\\x{ord(character):02x}" if character < "\x80" else f"\\u{ord(character):04x}")


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict | list) and not value:
        return "{}" if isinstance(value, dict) else "[]"
    raise TypeError(f"{value!r} has no place in a manifest")


def kustomization(resources: Iterable[str]) -> str:
    """The kustomization.yaml that makes a folder with these files a kustomize base."""
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    return dump([head | {"resources": list(resources)}])
