"""Data of tools above libvirt: known names are kept, all else is shown nowhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from migrate.mapping.rules import Rules

OVIRT = "xmlns:o='http://ovirt.org/vm/1.0'"


@pytest.mark.parametrize(
    "xml",
    [
        "<a:b xmlns:a='http://example.com/a' c='hunter2'/>",
        "<a:b xmlns:a='http://example.com/a'><a:c>hunter2</a:c></a:b>",
        "<b><c>hunter2</c></b>",
        "<b>hunter2</b>",
        f"<o:vm {OVIRT}><o:custom><o:password>hunter2</o:password></o:custom></o:vm>",
    ],
)
def test_data_of_unknown_meaning_is_one_finding_without_its_text(run: Callable, rules: Rules, xml: str) -> None:
    book = run(f"<metadata>{xml}</metadata>", rules)
    findings = [f for entry in book.entries for f in entry.findings if entry.path.startswith("metadata")]
    assert [finding.severity for finding in findings] == ["note"]
    assert "hunter2" not in repr(book.entries)


def test_a_second_operating_system_does_not_replace_the_first(run: Callable, rules: Rules) -> None:
    book = run(
        "<metadata><l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'>"
        "<l:os id='http://debian.org/debian/12'/><l:os id='http://debian.org/debian/13'/></l:libosinfo></metadata>",
        rules,
    )
    annotation = "VirtualMachine.metadata.annotations[kubevirt-migrate/os]"
    assert book.writes[annotation].value == "http://debian.org/debian/12"
