"""The rules' pages: what they say, and that the ones in the repository say it too."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate import pages
from migrate.mapping import rule_files
from migrate.model import Refused

RULES = rule_files.load()
FOLDER = Path(__file__).parent.parent / "mappings" / "pages"


def test_the_pages_are_those_of_the_rules() -> None:
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    made = pages.pages(RULES)
    stale = sorted(name for name in there.keys() | made.keys() if there.get(name) != made.get(name))
    assert not stale, "run make pages"


def test_a_page_says_what_why_what_to_do_and_since_when() -> None:
    page = pages.page(RULES, "disk-bus")
    rule = RULES.rules["disk-bus"]
    assert rule.why in page
    for row in rule.rows.values():
        assert not row.because or row.because in page
        assert row.remedy in page
    assert "`devices.disk.target.bus`" in page
    assert "- `VirtualMachine.spec.template.spec.domain.devices.disks.disk.bus`: 1.3 and later" in page
    assert all(example["xml"].strip() in page for example in rule.examples)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("disk-reservation", "`true` needs the feature gate PersistentReservation"),
        ("panic-device", "since 1."),
        ("efi", "It is computed by `migrate.mapping.firmware.efi`."),
        ("graphics-password", "The value is secret"),
    ],
)
def test_a_page_names_gates_versions_functions_and_secrets(rule: str, says: str) -> None:
    assert says in pages.page(RULES, rule)


def test_the_index_leads_to_every_rule() -> None:
    index = pages.index(RULES)
    assert all(f"]({name}.md)" in index for name in RULES.rules)


def test_pages_of_rules_that_are_gone_go_too(tmp_path: Path) -> None:
    (tmp_path / "gone.md").write_text("# gone\n")
    pages.write(tmp_path, RULES)
    assert {path.name for path in tmp_path.iterdir()} == {"index.md", *(f"{name}.md" for name in RULES.rules)}


def test_a_rule_that_is_not_there_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(Refused, match="did you mean disk-bus"):
        pages.page(RULES, "disk-buss")
