"""Single values that are refused: rows of mappings/vocabulary/admission.yaml and what the target lacks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from migrate.target.admission.spec import Manifest, Refusal
from migrate.target.vocabulary import API_VERSIONS, TEMPLATE, Target, Trail, lacks, needs, shown, table


def refused(vm: Manifest, target: Target, arch: str) -> list[Refusal]:
    """The values of a VM of that architecture that stand against a row, and the fields that the target lacks."""
    found: list[Refusal] = []
    _walk(_trie(target, arch), vm, ["VirtualMachine"], found)
    return found


def allows(path: str, value: Any, target: Target) -> bool:
    """Whether a value can stand at a path of a VM of any architecture."""
    return not any(check.bad(value) for check in _at(_trie(target, ""), path).checks)


@dataclass(slots=True)
class Check:
    """What values a row refuses: numbers outside of a range, texts that do not match, one value, or with none any.

    `because` goes on with the value that was found where it `shows` it.
    """

    id: str
    because: str
    remedy: str
    least: int | None = None
    most: int = 2**63
    text: re.Pattern[str] | None = None
    value: str | None = None
    shows: bool = True

    def bad(self, value: Any) -> bool:
        """Whether a value is refused."""
        if self.text is not None:
            return isinstance(value, str) and self.text.fullmatch(value) is None
        if self.least is not None:
            return isinstance(value, int) and not self.least <= value <= self.most
        if self.value is not None:
            return (str(value).lower() if isinstance(value, bool) else str(value)) == self.value
        return True


@dataclass(slots=True)
class Trie:
    """What to look at on the way down: checks of the value here, and what lies below, by field."""

    checks: list[Check] = field(default_factory=list)
    below: dict[str, Trie] = field(default_factory=dict)


@lru_cache(maxsize=64)
def _trie(target: Target, arch: str) -> Trie:
    """The rows for an architecture and what the target lacks, by path."""
    root = Trie()
    for row in table("admission.yaml"):
        if row.get("arch", arch) == arch and _in_force(row, target):
            text = re.compile(row["text"]) if "text" in row else None
            kept = {name: row[name] for name in ("least", "most") if name in row}
            _at(root, row["path"]).checks.append(Check(row["id"], row["because"], row["remedy"], text=text, **kept))
    for need in needs():
        lack = lacks(need, target)
        if lack:
            does = "never starts a VM with" if need.accepted else "refuses"
            what = need.path.rpartition(".")[2] + (f": {need.value}" if need.value else "")
            because = f"KubeVirt {target.kubevirt} {does} {what} ({lack})"
            remedy = "Switch the feature gate on in the cluster and name it in --feature-gates, or leave the field out."
            _at(root, need.path).checks.append(Check("feature-gate", because, remedy, value=need.value, shows=False))
    return root


def _in_force(row: dict[str, Any], target: Target) -> bool:
    """Whether the target's version is one of those that a row is for."""
    return target.at_least(row.get("since", target.kubevirt)) and Target(row.get("until", target.kubevirt)).at_least(
        target.kubevirt
    )


def _at(root: Trie, path: str) -> Trie:
    full = path if path.split(".")[0] in API_VERSIONS else f"{TEMPLATE}.{path}"
    node = root
    for name in full.split(".")[1:]:
        node = node.below.setdefault(name, Trie())
    return node


def _walk(trie: Trie, value: Any, trail: Trail, found: list[Refusal]) -> None:
    for check in trie.checks:
        if check.bad(value):
            text = f": {value:.80}" if isinstance(value, str) else f": {value}" if isinstance(value, int) else ""
            said = text if check.shows else ""
            path = shown(trail).removeprefix(f"{TEMPLATE}.")
            found.append(Refusal(path, check.id, f"{check.because}{said}.", check.remedy))
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        below = trie.below.get(name)
        if below is None or inner is None:
            continue
        trail.append(name)
        if isinstance(inner, list):
            for position, item in enumerate(inner):
                trail.append((item.get("name", position) if isinstance(item, dict) else position,))
                _walk(below, item, trail, found)
                trail.pop()
        else:
            _walk(below, inner, trail, found)
        trail.pop()
