"""Every leaf path of libvirt's schema has exactly one owner, whatever the leaves hold that rules are told apart by."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from migrate.mapping import rule_files, vocabulary
from migrate.mapping import rules as all_rules

RULES = rule_files.load()
# Stand for any value that no `where` names, and for a leaf that is not there.
ELSE, ABSENT = "something else", None


def _absolute(rule: all_rules.Rule, name: str) -> str:
    return name[1:] if name[0] == "/" else f"{rule.each}.{name}".strip(".")


def _holds(rule: all_rules.Rule, values: dict[str, str | None]) -> bool:
    return all(values[_absolute(rule, name)] in allowed for name, allowed in rule.where)


def _situations(pattern: str) -> Iterator[dict[str, str | None]]:
    """Every combination of values, under the leaves that the pattern's rules are told apart by."""
    told: dict[str, set[str]] = {}
    for rule in RULES.owners(pattern).rules:
        for name, allowed in rule.where:
            told.setdefault(_absolute(rule, name), set()).update(allowed)
    choices = [[*sorted(values), ELSE, *([] if name == pattern else [ABSENT])] for name, values in told.items()]
    for combination in product(*choices):
        yield dict(zip(told, combination, strict=True))


def _owners(pattern: str, values: dict[str, str | None]) -> list[str]:
    """The rules of the highest rank whose `where` holds."""
    holding = [rule for rule in RULES.owners(pattern).rules if _holds(rule, values)]
    ties = {name for pair in RULES.ties(pattern) for name in pair}
    return [rule.id for rule in holding if rule is holding[0] or {rule.id, holding[0].id} <= ties]


def test_every_leaf_has_one_owner_under_every_value_that_rules_are_told_apart_by() -> None:
    wrong = [
        f"{pattern} with {values}: {owners}"
        for pattern in vocabulary.load().paths
        for values in _situations(pattern)
        if len(owners := _owners(pattern, values)) != 1 or owners == [all_rules.UNKNOWN]
    ]
    assert not wrong


def test_the_rules_are_told_apart_by_leaves_that_exist() -> None:
    paths = vocabulary.load().paths
    names = {_absolute(rule, name) for rule in RULES.rules.values() for name, _ in rule.where}
    assert not names - paths.keys()
