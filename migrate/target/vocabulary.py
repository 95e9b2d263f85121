"""What a KubeVirt version with its feature gates can take: which paths, of which types, with which values.

A path is relative to the VM's template spec unless it starts with a kind. Items of lists, keys of maps and objects of
other kinds than VirtualMachine stand in brackets: `domain.devices.disks[vda].disk.bus`,
`PersistentVolumeClaim[vda].spec.accessModes[0]`. A pattern is a path without its brackets.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, NamedTuple

from migrate.data import data_path
from migrate.model import Refused

TEMPLATE = "VirtualMachine.spec.template.spec"
API_VERSIONS = {
    "VirtualMachine": "kubevirt.io/v1",
    "PersistentVolumeClaim": "v1",
    "Secret": "v1",
    "DataVolume": "cdi.kubevirt.io/v1beta1",
}
BETA_ON_BY_DEFAULT = "1.9"

BRACKETS = re.compile(r"\[[^\]]*\]")
QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(([KMGTPE]i|[numkMGTPE])?|[eE][+-]?\d+)")
WORDS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
RANGES: Final = {"int32": 2**31, "int64": 2**63}
SIMPLE: Final[dict[str, type]] = {"string": str, "boolean": bool}  # any value of the class is one of the type
SCALARS: Final = {"string", "boolean", *RANGES, "number", "quantity", "int-or-string", "any"}


class Field(NamedTuple):
    """What one pattern leads to: its type, the values allowed (none: any), and the positions of its keyed segments.

    `lists` has the segments that need a key in brackets, `maps` those of them whose key is that of a map.

    The types are string, boolean, int32, int64, number, quantity, int-or-string, any and object.
    """

    type: str
    lists: tuple[int, ...]
    values: tuple[str, ...] = ()
    maps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Vocabulary:
    """The fields of one minor version: type name -> field -> type expression, as the shipped file has them."""

    version: str
    types: dict[str, dict[str, str]] = field(repr=False, compare=False)
    required: dict[str, list[str]] = field(repr=False, compare=False)

    def field(self, pattern: str) -> Field | None:
        """The field at a pattern, None where this version has none."""
        return _field(self, pattern)

    def lists(self, pattern: str) -> tuple[int, ...]:
        """The positions of the pattern's segments that need a key in brackets; none for an unknown pattern."""
        found = self.field(pattern)
        return found.lists if found else ()

    def __hash__(self) -> int:
        return hash(self.version)


def versions() -> list[str]:
    """The minor versions that have a vocabulary, oldest first."""
    names = (
        path.stem.removeprefix("kubevirt-") for path in data_path("mappings", "vocabulary").glob("kubevirt-*.json")
    )
    return sorted(names, key=_numbers)


@cache
def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@cache
def load(version: str) -> Vocabulary:
    """The vocabulary of a KubeVirt version such as `1.9` or `v1.9.0`; Refused where there is none."""
    numbers = re.fullmatch(r"v?(\d+\.\d+)(\.\d+.*)?", version)
    path = data_path("mappings", "vocabulary", f"kubevirt-{numbers[1]}.json") if numbers else None
    if numbers is None or path is None or not path.is_file():
        raise Refused(f"KubeVirt {version} is not known here; use one of {', '.join(versions())}")
    if numbers[1] != version:
        return load(numbers[1])
    table = json.loads(path.read_text())
    types = {name: {key.rstrip("!"): kind for key, kind in fields.items()} for name, fields in table.items()}
    required = {name: [key[:-1] for key in fields if key.endswith("!")] for name, fields in table.items()}
    return Vocabulary(version, types, required)


@cache
def _field(vocabulary: Vocabulary, pattern: str) -> Field | None:
    types, segments = vocabulary.types, pattern.split(".")
    above = 0
    if segments[0] not in API_VERSIONS:
        prefix = TEMPLATE.split(".")
        above = len(prefix)
        segments = prefix + segments
    kind, lists, maps = segments[0], [] if segments[0] == "VirtualMachine" else [0], []
    position = 1
    while position < len(segments):
        kind = types.get(kind, {}).get(segments[position], "")
        if kind[:1] == "{" and position + 1 < len(segments):
            # The key of a map stands in brackets or, where it is a plain word, as a segment of its own.
            kind = kind[1:-1]
            position += 1
        elif kind[:1] in ("[", "{"):
            lists.append(position - above)
            maps += lists[-1:] if kind[0] == "{" else []
            kind = kind[1:-1]
        if not kind:
            return None
        position += 1
    values = tuple(kind[1:].split("|")) if kind[0] == "=" else ()
    return Field("string" if values else "object" if kind in types else kind, tuple(lists), values, tuple(maps))


def cast(type: str, text: str) -> Any:
    """The value that a text stands for in a field of the type; ValueError says what is wrong with it."""
    if type == "boolean":
        if text.lower() not in WORDS:
            raise ValueError(f"{text!r} is neither yes nor no")
        return WORDS[text.lower()]
    if type in RANGES:
        return _integer(type, text)
    if type == "number":
        return float(text)
    if type == "int-or-string":
        return int(text) if re.fullmatch(r"-?\d+", text) else text
    if type == "quantity" and not QUANTITY.fullmatch(text):
        raise ValueError(f"{text!r} is no quantity")
    if type not in ("string", "quantity"):
        raise ValueError(f"a text cannot be of type {type}")
    return text


def _integer(type: str, text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,20}", text.strip()):
        raise ValueError(f"{text!r} is no whole number")
    number = int(text)
    if not -RANGES[type] <= number < RANGES[type]:
        raise ValueError(f"{text} is beyond the range of {type}")
    return number


@cache
def since(pattern: str) -> str | None:
    """The first version that has the pattern, None where none has."""
    return next((version for version in versions() if load(version).field(pattern)), None)


@cache
def gate_states() -> dict[str, dict[str, str]]:
    """The state of every feature gate by version, as KubeVirt's sources have it."""
    return json.loads(data_path("mappings", "vocabulary", "feature-gates.json").read_text())


class Need(NamedTuple):
    """What a path (and all below it) or one of its values needs: a feature gate, a first version, or both.

    `accepted` is whether KubeVirt takes a VM with it all the same, and never starts it.
    """

    path: str
    value: str | None
    gate: str | None
    since: str | None
    until: str | None
    accepted: bool | None


def table(name: str) -> list[dict[str, Any]]:
    """The rows of a hand-kept table among the vocabularies."""
    import yaml

    return yaml.load(
        data_path("mappings", "vocabulary", name).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )


@cache
def needs() -> list[Need]:
    """What paths and values need beyond being in the vocabulary."""
    return [Need(row["path"], *(row.get(key) for key in Need._fields[1:])) for row in table("gates.yaml")]


@dataclass(frozen=True)
class Target:
    """A KubeVirt minor version and the feature gates switched by hand, as `+Name` and `-Name`.

    `machines` are the machine types that an administrator allows instead of KubeVirt's own: `ARCHITECTURE/GLOB`.
    `obsolete` are the CPU models that he keeps from the nodes instead of KubeVirt's own; an empty set is no choice.
    `vga_for_efi` is whether the KubeVirt object has the annotation that gives EFI guests on x86 a vga adapter.
    `plugins` are what that object says of network binding plugins: `NAME/tap` where KubeVirt makes the guest's
    interface by itself, `NAME/migration` where a running guest can move with the plugin on the pod network.
    """

    kubevirt: str
    gates: frozenset[str] = frozenset()
    machines: frozenset[str] = frozenset()
    vga_for_efi: bool = False
    plugins: frozenset[str] = frozenset()
    obsolete: frozenset[str] = frozenset()

    def __hash__(self) -> int:
        # Caches ask for it at every write; text and frozenset keep theirs.
        return hash(self.kubevirt) ^ hash(self.gates)

    @property
    def vocabulary(self) -> Vocabulary:
        """The fields of the target's version."""
        return load(self.kubevirt)

    def at_least(self, version: str) -> bool:
        """Whether the target is of this minor version or a later one."""
        return _numbers(self.kubevirt) >= _numbers(version)

    def enabled(self, gate: str) -> bool:
        """Whether a feature gate is on, in KubeVirt's order: always on, switched on, switched off, on by default."""
        state = gate_states().get(gate, {}).get(self.kubevirt)
        if state in (None, "Discontinued"):
            return False
        if state == "GA" or "+" + gate in self.gates:
            return True
        return state == "Beta" and "-" + gate not in self.gates and self.at_least(BETA_ON_BY_DEFAULT)


def target(kubevirt: str, feature_gates: str = "") -> Target:
    """The target that `--kubevirt 1.9 --feature-gates +A,-B` names; Refused for an unknown version or gate."""
    switches = [part.strip() for part in feature_gates.split(",") if part.strip()]
    for switch in switches:
        if switch[0] not in "+-":
            raise Refused(f"feature gate {switch}: write +{switch} to switch it on or -{switch} to switch it off")
        if switch[1:] not in gate_states():
            near = difflib.get_close_matches(switch[1:], gate_states(), n=1, cutoff=0)
            raise Refused(f"feature gate {switch[1:]} is not known; the nearest name is {near[0]}")
    return Target(load(kubevirt).version, frozenset(switches))


def missing(path: str, value: Any, target: Target) -> str | None:
    """Why the target lacks the path or the value, in one clause: `needs KubeVirt 1.6`; None where it has them."""
    lack, rows = _reach(BRACKETS.sub("", path), target)
    if lack or not rows:
        return lack
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return next((why for wanted, why in rows if wanted is None or wanted == text), None)


def needs_more(pattern: str, target: Target) -> bool:
    """Whether the target lacks a pattern, or some of its values."""
    lack, rows = _reach(pattern, target)
    return bool(lack or rows)


@cache
def _reach(pattern: str, target: Target) -> tuple[str | None, tuple[tuple[str | None, str], ...]]:
    """Why the target lacks a pattern, else why it lacks some of its values: (value or None for all, why)."""
    if target.vocabulary.field(pattern) is None:
        first = since(pattern)
        if first is None:
            return "no KubeVirt version known here has this field", ()
        gone = target.at_least(first)
        return f"KubeVirt {target.kubevirt} no longer has this field" if gone else f"needs KubeVirt {first}", ()
    rows = []
    for need in needs():
        if pattern == need.path or (need.value is None and pattern.startswith(need.path + ".")):
            lack = lacks(need, target)
            rows += [(need.value, lack)] if lack else []
    return None, tuple(rows)


def lacks(need: Need, target: Target) -> str | None:
    """Why the target does not meet a need, None where it does or where its version does not know the gate."""
    if need.since and not target.at_least(need.since):
        return f"needs KubeVirt {need.since}"
    over = need.until is not None and _numbers(target.kubevirt) > _numbers(need.until)
    if not need.gate or over or target.enabled(need.gate):
        return None
    state = gate_states()[need.gate].get(target.kubevirt)
    if state == "Discontinued":
        return f"its feature gate {need.gate} is discontinued"
    return f"needs feature gate {need.gate}" if state else None


# The way into a manifest: names as text, the key of a list's item or of a map in a tuple.
Trail = list[str | tuple[Any]]


def strict(manifest: dict[str, Any], target: Target) -> list[str]:
    """What is wrong with the fields of a manifest: unknown, of the wrong type, missing, or no value allowed there."""
    kind = manifest.get("kind")
    if kind not in API_VERSIONS:
        return [f"kind: {kind!r} is not one of {', '.join(API_VERSIONS)}"]
    problems = []
    if manifest.get("apiVersion") != API_VERSIONS[kind]:
        problems.append(f"{kind}.apiVersion: is not {API_VERSIONS[kind]}")
    _check(target.vocabulary, kind, manifest, [kind], problems)
    return problems


def _check(vocabulary: Vocabulary, kind: str, value: Any, trail: Trail, problems: list[str]) -> None:
    """Adds what is wrong with a value of a kind."""
    fields = vocabulary.types.get(kind)
    if fields is not None:
        if not isinstance(value, dict):
            problems.append(f"{shown(trail)}: is not an object")
            return
        for name, inner in value.items():
            below = fields.get(name)
            if below and SIMPLE.get(below) is inner.__class__:
                continue
            if below is None:
                path = shown([*trail, name])
                first = since(BRACKETS.sub("", path))
                problems.append(f"{path}: unknown field" + (f", KubeVirt has it since {first}" if first else ""))
            elif below not in SCALARS or not _fits(below, inner):
                trail.append(name)
                _check(vocabulary, below, inner, trail, problems)
                trail.pop()
        for name in vocabulary.required[kind]:
            if name not in value:
                problems.append(f"{shown(trail)}.{name}: missing")
    elif kind[0] == "[":
        if not isinstance(value, list):
            problems.append(f"{shown(trail)}: is not a list")
            return
        for position, item in enumerate(value):
            key = item.get("name", position) if isinstance(item, dict) else position
            trail.append((key,))
            _check(vocabulary, kind[1:-1], item, trail, problems)
            trail.pop()
    elif kind[0] == "{":
        if not isinstance(value, dict):
            problems.append(f"{shown(trail)}: is not an object")
            return
        for key, item in value.items():
            trail.append((key,))
            _check(vocabulary, kind[1:-1], item, trail, problems)
            trail.pop()
    elif kind[0] == "=":
        if value not in kind[1:].split("|"):
            problems.append(f"{shown(trail)}: {value!r} is not one of {', '.join(kind[1:].split('|'))}")
    elif not _fits(kind, value):
        problems.append(f"{shown(trail)}: {value!r:.80} is no {kind}")


def shown(trail: Trail) -> str:
    """A trail as a path, `VirtualMachine.spec.volumes[vda]`."""
    steps = (f"[{step[0]}]" if isinstance(step, tuple) else f".{step}" for step in trail)
    return "".join(steps).removeprefix(".")


def _fits(kind: str, value: Any) -> bool:
    """Whether a value is of a scalar type."""
    if kind == "string":
        return isinstance(value, str)
    if kind == "any":
        return True
    if kind == "boolean" or isinstance(value, bool):
        return kind == "boolean" and isinstance(value, bool)
    if kind in RANGES:
        return isinstance(value, int) and -RANGES[kind] <= value < RANGES[kind]
    if kind == "quantity":
        return isinstance(value, int | float) or (isinstance(value, str) and QUANTITY.fullmatch(value) is not None)
    if kind == "int-or-string":
        return isinstance(value, int | str)
    return isinstance(value, int | float)
