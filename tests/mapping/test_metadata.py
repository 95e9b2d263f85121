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


NOVA = "xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'"


@pytest.mark.parametrize(
    ("name", "asks"),
    [
        ("trait:HW_CPU_X86_AVX2", True),
        ("trait1:CUSTOM_SSD", True),
        ("traits_required", True),
        ("resources:CUSTOM_LICENCE", True),
        ("resources_NET:VF", True),
        ("aggregate_instance_extra_specs:ssd", True),
        ("capabilities:cpu_info:features", True),
        ("hw:cpu_policy", False),
        ("hw_disk_bus", False),
        ("quota:disk_read_iops_sec", False),
    ],
)
@pytest.mark.parametrize("place", ["flavor", "image"])
def test_what_nova_chose_hosts_by_is_said(name: str, asks: bool, place: str, run: Callable, rules: Rules) -> None:
    element, child = {"flavor": ("extraSpecs", "extraSpec"), "image": ("properties", "property")}[place]
    asked = "".join(f"<n:{child} name='{each}'>{value}</n:{child}>" for each, value in ((name, 1), ("a", 2)))
    asked = f"<n:{element}>{asked}</n:{element}>"
    book = run(f"<metadata><n:instance {NOVA}><n:{place}>{asked}</n:{place}></n:instance></metadata>", rules)
    entries = [entry for entry in book.entries if entry.rule == "nova-constraints"]
    assert {entry.value for entry in entries if entry.fate == "flag"} == ({name, "1"} if asks else set())
