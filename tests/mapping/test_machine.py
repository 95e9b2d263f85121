"""Machine types and boot orders."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.mapping.rules import Rules

DEVICES = """
<devices>
  <disk type='file' device='cdrom'><source file='/c.iso'/><target dev='sda' bus='sata'/></disk>
  <disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk>
  <disk type='file'><source file='/b'/><target dev='vdb' bus='virtio'/></disk>
  <interface type='user'><mac address='52:54:00:00:00:01'/></interface>
  <interface type='user'><mac address='52:54:00:00:00:02'/></interface>
</devices>
"""
ITEMS = {
    "hd": "domain.devices.disks[vda].bootOrder",
    "cdrom": "domain.devices.disks[sda].bootOrder",
    "network": "domain.devices.interfaces[interface-0].bootOrder",
}


def os_element(machine: str = "q35", arch: str = "x86_64", boot: list[str] | None = None) -> str:
    devices = "".join(f"<boot dev='{dev}'/>" for dev in boot or [])
    return f"<os><type arch='{arch}' machine='{machine}'>hvm</type>{devices}</os>"


@given(st.lists(st.sampled_from([*ITEMS, "fd"]), max_size=6))
def test_the_first_device_of_each_kind_boots_at_its_last_place(run: Callable, rules: Rules, boot: list[str]) -> None:
    writes = run(os_element(boot=boot) + DEVICES, rules).writes
    orders = {path: write.value for path, write in writes.items() if path.endswith("bootOrder")}
    wanted = boot or ["hd"]
    assert orders == {ITEMS[dev]: place for place, dev in enumerate(wanted, start=1) if dev in ITEMS}


def test_the_first_disk_to_boot_from_is_the_first_of_libvirts_order(run: Callable, rules: Rules) -> None:
    names = ("vdaa", "vdb", "hdb", "hda", "vdc")
    disks = "".join(f"<disk type='file'><source file='/{name}'/><target dev='{name}'/></disk>" for name in names)
    book = run(f"{os_element(boot=['hd'])}<devices>{disks}</devices>", rules)
    assert [path for path in book.writes if path.endswith("bootOrder")] == ["domain.devices.disks[vdb].bootOrder"]
    moved = {finding.value for entry in book.entries for finding in entry.findings if finding.id == "disk-name/order"}
    assert moved == {"vdaa", "vdb", "vdc"}


def test_a_disk_without_a_name_boots_as_the_item_that_it_is(run: Callable, rules: Rules) -> None:
    disks = "<disk type='file'><source file='/a'/></disk><disk type='file'><source file='/b'/></disk>"
    book = run(f"<os><boot dev='hd'/></os><devices>{disks}</devices>", rules)
    assert [path for path in book.writes if path.endswith("bootOrder")] == ["domain.devices.disks[disk-0].bootOrder"]
    assert "domain.devices.disks[disk-0].name" in book.writes


def test_boot_devices_keep_the_order_of_the_devices(run: Callable, rules: Rules) -> None:
    writes = run(os_element(boot=["hd", "cdrom"]) + DEVICES, rules).writes
    assert [path for path in writes if path.endswith("bootOrder")] == [ITEMS["cdrom"], ITEMS["hd"]]


def test_an_order_on_a_device_decides_alone(run: Callable, rules: Rules) -> None:
    devices = DEVICES.replace("bus='virtio'/></disk>", "bus='virtio'/><boot order='7'/></disk>", 1)
    writes = run(os_element(boot=["cdrom"]) + devices, rules).writes
    assert not [path for path, write in writes.items() if write.rule == "os-boot"]


@pytest.mark.parametrize(
    ("arch", "machine", "family"),
    [
        ("x86_64", "pc-q35-rhel9.4.0", "q35"),
        ("x86_64", "pc-0.12", "q35"),
        ("x86_64", "rhel6.6.0", "q35"),
        ("i686", "pc", "q35"),
        ("aarch64", "virt-rhel9.2.0", "virt"),
        ("s390x", "s390-ccw-virtio", "s390-ccw-virtio"),
        ("x86_64", "spcq35", None),
        ("aarch64", "virtual", None),
        ("x86_64", "pcq35", None),
    ],
)
def test_a_machine_becomes_its_family(run: Callable, rules: Rules, arch: str, machine: str, family: str | None) -> None:
    book = run(os_element(machine, arch), rules)
    found = book.writes.get("domain.machine.type")
    assert (found.value if found else None) == family
    blockers = {f.id for entry in book.entries for f in entry.findings if f.severity == "blocker"}
    assert ("machine-type/board" in blockers) == (family is None)


def test_bug_the_boot_order_of_a_disk_went_to_another_of_a_like_name(run: Callable, rules: Rules) -> None:
    disks = "".join(
        f"<disk type='file' device='{device}'><source file='/{device}'/><target dev='{name}' bus='sata'/></disk>"
        for device, name in (("disk", "?"), ("cdrom", "!"))
    )
    writes = run(os_element(boot=["cdrom", "hd"]) + f"<devices>{disks}</devices>", rules).writes
    values = {path: write.value for path, write in writes.items()}
    assert values["domain.devices.disks[item].bootOrder"] == 2 and "domain.devices.disks[item].disk.bus" in values
    (second,) = {path.removesuffix(".cdrom.bus") for path in values if path.endswith(".cdrom.bus")}
    assert values[f"{second}.bootOrder"] == 1
