"""A user's rule files: what the loader refuses, and what a rule of theirs owns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.mapping import rule_files
from migrate.model import Refused

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
        rule_files.load(tmp_path)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_users_rule_owns_what_nobody_knew(tmp_path: Path, run: Callable) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    xml = "<frobnicator level='3'/>"
    owners = {entry.path: entry.rule for entry in run(xml, rule_files.load(tmp_path)).entries}
    assert owners["frobnicator.level"] == "mine"
    assert {entry.path: entry.rule for entry in run(xml, rule_files.load()).entries}["frobnicator.level"] == "unknown"
