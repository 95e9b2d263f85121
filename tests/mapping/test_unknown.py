"""What libvirt does not know: the first of several elements counts, and what stands in the others is never shown."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
from lxml import etree

from migrate.mapping import vocabulary
from migrate.mapping.rules import Rules

GOLDEN = sorted((Path(__file__).parent.parent / "golden").glob("*.xml"))


@pytest.mark.parametrize("domain", GOLDEN, ids=lambda path: path.stem)
def test_two_elements_where_libvirt_knows_one_were_our_own_bug(domain: Path, run: Callable, rules: Rules) -> None:
    root = etree.fromstring(domain.read_bytes())
    single = vocabulary.load().single
    plain = run(domain.read_text(), rules)
    for pattern, nodes in vocabulary.read(root).nodes.items():
        if pattern in single:
            element = nodes[0].element
            again = deepcopy(element)
            element.addnext(again)
            book = run(etree.tostring(root).decode(), rules)
            element.getparent().remove(again)
            copies = [entry for entry in book.entries if entry.path.startswith(f"{nodes[0].path}[1]")]
            assert {entry.rule == "repeated" or rules.rules[entry.rule].form == "gate" for entry in copies} == {True}
            assert not book.internal
            assert {path: write.value for path, write in book.writes.items()} == {
                path: write.value for path, write in plain.writes.items()
            }


def test_a_secret_in_a_further_element_is_not_shown(run: Callable, rules: Rules) -> None:
    sev = "<launchSecurity type='sev'><policy>1</policy><session>hunter2</session></launchSecurity>"
    book = run(sev * 2, rules)
    assert "hunter2" not in str(book.entries)


@pytest.mark.parametrize(
    ("xml", "path"),
    [
        ("<domain>loose<name>vm</name></domain>", "domain"),
        ("<a.>x</a.>", "a."),
        ("<memory unit.='x'>1</memory>", "memory.unit."),
    ],
)
def test_loose_text_and_names_that_end_in_a_dot_were_our_own_bug(
    xml: str, path: str, run: Callable, rules: Rules
) -> None:
    book = run(xml, rules)
    [entry] = [entry for entry in book.entries if entry.path == path]
    assert (entry.rule, entry.fate, book.internal) == ("unknown", "flag", False)


def test_an_element_called_repeated_was_our_own_bug(run: Callable, rules: Rules) -> None:
    assert not run("<repeated a='1'/>", rules).internal
