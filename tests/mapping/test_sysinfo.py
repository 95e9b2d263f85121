"""SMBIOS entries that the guest sees are kept or said."""

from __future__ import annotations

from collections.abc import Callable

from migrate.mapping.rules import Rules

OS = "<os><type arch='x86_64' machine='q35'>hvm</type><smbios mode='sysinfo'/></os>"
UUID = "8F2A6A3E-6A0A-4C4B-9D1E-2F2A6C1B7D10"


def run_system(run: Callable, rules: Rules, entries: str, mode: str = OS) -> tuple[dict, set[str]]:
    book = run(f"{mode}<sysinfo type='smbios'><system>{entries}</system></sysinfo>", rules)
    found = {f.id for entry in book.entries for f in entry.findings if f.rule == "smbios-system"}
    return {path: write.value for path, write in book.writes.items()}, found


def test_the_first_entry_of_a_name_counts(run: Callable, rules: Rules) -> None:
    writes, found = run_system(run, rules, "<entry name='serial'>A</entry><entry name='serial'>B</entry>")
    assert writes["domain.firmware.serial"] == "A"
    assert not found


def test_a_uuid_is_equal_in_any_case(run: Callable, rules: Rules) -> None:
    assert not run_system(run, rules, f"<entry name='uuid'>{UUID}</entry>")[1]


def test_an_empty_serial_is_none(run: Callable, rules: Rules) -> None:
    writes, found = run_system(run, rules, "<entry name='serial'/>")
    assert "domain.firmware.serial" not in writes
    assert not found


def test_what_the_guest_does_not_see_is_not_given_to_it(run: Callable, rules: Rules) -> None:
    mode = OS.replace("sysinfo", "emulate")
    writes, found = run_system(run, rules, "<entry name='serial'>A</entry><entry name='sku'>B</entry>", mode)
    assert "domain.firmware.serial" not in writes
    assert not found


def test_an_entry_without_a_value_is_no_loss(run: Callable, rules: Rules) -> None:
    assert not run_system(run, rules, "<entry name='manufacturer'/><entry name='sku'></entry>")[1]
    book = run(f"{OS}<sysinfo type='smbios'><bios/><baseBoard><entry name='serial'/></baseBoard></sysinfo>", rules)
    assert not [found.id for entry in book.entries for found in entry.findings if found.rule == "smbios-boards"]
