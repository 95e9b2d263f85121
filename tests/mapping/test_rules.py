"""The contract of every shipped rule: its examples hold, it keeps the laws, and what it writes exists in KubeVirt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.mapping import rules as all_rules
from migrate.model import Refused
from migrate.target.vocabulary import load, versions

RULES = all_rules.load()
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


GOOD = """
about: A file of a user.
rules:
  - id: mine
    owns: frobnicator.level
    flag: note
    because: The frobnicator is gone.
    remedy: Do without it.
"""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("flag: note", "flag: fatal"), "severity 'fatal'"),
        (("because:", "becuase:"), "did you mean because?"),
        (("    remedy: Do without it.\n", ""), "needs `because`"),
        (("flag: note", "copy: domain.cpu.model\n    flag: note"), "exactly one of"),
        (("flag: note", "call: os.system"), "cannot be loaded"),
        (("flag: note", "call: __builtins__.eval"), "cannot be loaded"),
        (("id: mine", "id: mine\n    id: yours"), "stands twice"),
        (("owns: frobnicator.level", "owns: memory.unit"), "replace that rule by its id"),
        (("id: mine", "id: unknown"), "so it owns just **"),
        (("about:", "about: [unclosed"), "line"),
    ],
)
def test_the_loader_refuses_and_says_what(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD.replace(*change))
    with pytest.raises(Refused) as refusal:
        all_rules.load(tmp_path)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_users_rule_owns_what_nobody_knew(tmp_path: Path, run: Callable) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    xml = "<frobnicator level='3'/>"
    owners = {entry.path: entry.rule for entry in run(xml, all_rules.load(tmp_path)).entries}
    assert owners["frobnicator.level"] == "mine"
    assert {entry.path: entry.rule for entry in run(xml, RULES).entries}["frobnicator.level"] == "unknown"
