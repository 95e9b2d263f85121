"""The contract of every shipped rule: its examples hold, it keeps the laws, and what it writes exists in KubeVirt."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from migrate.mapping import rule_files
from migrate.mapping import rules as all_rules
from migrate.target.vocabulary import load, versions

RULES = rule_files.load()
EXAMPLES = [
    pytest.param(rule, example, id=f"{rule.id}-{number}")
    for rule in RULES.rules.values()
    for number, example in enumerate(rule.examples)
]


@pytest.mark.parametrize("rule", RULES.rules.values(), ids=lambda rule: rule.id)
def test_a_rule_has_an_example_and_says_why(rule: all_rules.Rule) -> None:
    assert rule.examples
    assert rule.why or rule.form in ("flag", "ignore", "default", "gate")


@pytest.mark.parametrize(("rule", "example"), EXAMPLES)
def test_an_example_comes_out_as_it_says(rule: all_rules.Rule, example: dict, run: Callable) -> None:
    book = run(example["xml"], RULES, example)
    findings = [finding for entry in book.entries for finding in entry.findings] + book.findings
    assert not [finding.because for finding in findings if finding.id == "internal"]
    assert any(entry.rule == rule.id for entry in book.entries), "the example has no leaf of the rule"
    mine = {finding.id for finding in findings if finding.rule == rule.id}
    assert mine == set(example.get("findings") or [])
    written = {path: write.value for path, write in book.writes.items() if write.rule == rule.id}
    for path, value in (example.get("writes") or {}).items():
        assert path in written, f"wrote {sorted(written)}"
        assert (json.dumps(written[path]) if isinstance(written[path], bool) else str(written[path])) == value


@pytest.mark.parametrize(("rule", "example"), EXAMPLES)
def test_an_inventory_keeps_all_that_the_rules_need(rule: all_rules.Rule, example: dict, run: Callable) -> None:
    there, collected = (run(example["xml"], RULES, example, kept) for kept in (False, True))
    assert str(there) == str(collected)


@pytest.mark.parametrize("rule", RULES.rules.values(), ids=lambda rule: rule.id)
def test_what_a_rule_writes_exists_in_a_kubevirt_version(rule: all_rules.Rule) -> None:
    known = [load(version) for version in versions()]
    assert not [path for path in rule.writes if not any(version.field(path) for version in known)]
