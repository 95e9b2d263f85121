"""Controllers: a SCSI model matters where a disk hangs on it, and gains say what KubeVirt adds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from migrate.mapping import ledger
from migrate.mapping.rules import Rules

DISK = "<disk type='file'><source file='/a'/><target dev='sda' bus='{bus}'/>{address}</disk>"
AT = "<address type='drive' controller='{}' bus='0' target='0' unit='0'/>"
LSI = "<controller type='scsi' index='0' model='virtio-scsi'/><controller type='scsi' index='1' model='lsisas1068'/>"


def findings(book: ledger.Ledger) -> set[str]:
    return {finding.id for entry in book.entries for finding in entry.findings if finding.id.startswith("scsi-model")}


@pytest.mark.parametrize(
    ("device", "flagged"),
    [
        (DISK.format(bus="scsi", address=AT.format(1)), "scsi-model/driver"),
        (DISK.format(bus="scsi", address=AT.format(0)), "scsi-model/unused"),
        (DISK.format(bus="scsi", address=""), "scsi-model/driver"),
        (DISK.format(bus="sata", address=AT.format(1)), "scsi-model/unused"),
        (f"<hostdev mode='subsystem' type='scsi'>{AT.format(1)}</hostdev>", "scsi-model/driver"),
        (f"<hostdev mode='subsystem' type='scsi'>{AT.format(0)}</hostdev>", "scsi-model/unused"),
    ],
)
def test_a_scsi_model_is_a_warning_where_something_hangs_on_it(
    run: Callable, rules: Rules, device: str, flagged: str
) -> None:
    assert findings(run(f"<devices>{device}{LSI}</devices>", rules)) == {flagged}


def gains(book: ledger.Ledger) -> dict[str, str]:
    return {gain.path: gain.value for gain in book.gains}


def test_gains_name_the_disks_whose_discards_arrive_now(run: Callable, rules: Rules) -> None:
    kept = "<disk type='file'><driver discard='unmap'/><source file='/b'/><target dev='sdb' bus='sata'/></disk>"
    floppy = "<disk type='file' device='floppy'><source file='/c'/><target dev='fda'/></disk>"
    book = run(f"<devices>{DISK.format(bus='sata', address='')}{kept}{floppy}</devices>", rules)
    assert gains(book)["domain.devices.disks"] == "sda"


def test_the_scsi_controller_is_a_gain_where_there_was_none(run: Callable, rules: Rules) -> None:
    assert "domain.devices.disableHotplug" in gains(run("<devices/>", rules))
    assert "domain.devices.disableHotplug" not in gains(run(f"<devices>{LSI}</devices>", rules))


@pytest.mark.parametrize("device", ["disk", "controller"])
def test_one_transitional_device_makes_all_so(run: Callable, rules: Rules, device: str) -> None:
    old = {
        "disk": "<disk model='virtio-transitional'><source file='/a'/><target dev='vda' bus='virtio'/></disk>",
        "controller": "<controller type='scsi' model='virtio-transitional'/>",
    }[device]
    path = "domain.devices.useVirtioTransitional"
    assert run(f"<devices>{old}</devices>", rules).writes[path].value is True
    assert path not in run(f"<devices>{LSI}</devices>", rules).writes


@pytest.mark.parametrize(
    ("osinfo", "devices", "model", "says"),
    [
        ("microsoft.com/win/xp", "<input type='tablet' bus='usb'/>", "piix3-uhci", "usb-model/driver"),
        ("microsoft.com/win/2k8r2", "<input type='tablet' bus='usb'/>", "ich9-ehci1", "usb-model/driver"),
        ("microsoft.com/win/10", "<input type='tablet' bus='usb'/>", "ich9-ehci1", "usb-model/xhci"),
        ("redhat.com/rhel/5.11", "<redirdev bus='usb' type='spicevmc'/>", "ich9-ehci1", "usb-model/driver"),
        ("redhat.com/rhel/6.10", "<redirdev bus='usb' type='spicevmc'/>", "ich9-ehci1", "usb-model/xhci"),
        ("microsoft.com/win/xp", "<input type='mouse' bus='usb'/>", "piix3-uhci", "usb-model/gone"),
        ("microsoft.com/win/10", "<input type='mouse' bus='ps2'/>", "qemu-xhci", "usb-model/gone"),
        (
            "microsoft.com/win/10",
            "<disk device='cdrom'><target dev='sda' bus='usb'/></disk>",
            "qemu-xhci",
            "usb-model/gone",
        ),
        ("microsoft.com/win/10", "<disk device='disk'><target dev='sda' bus='usb'/></disk>", "qemu-xhci", None),
    ],
)
def test_a_usb_controller_is_judged_with_the_guest_and_its_usb_devices(
    osinfo: str, devices: str, model: str, says: str | None, run: Callable, rules: Rules
) -> None:
    libosinfo = "xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'"
    book = run(
        f"<metadata><l:libosinfo {libosinfo}><l:os id='http://{osinfo}'/></l:libosinfo></metadata>"
        f"<devices>{devices}<controller type='usb' index='0' model='{model}'/></devices>",
        rules,
    )
    found = {item.id for entry in book.entries for item in entry.findings if item.rule == "usb-model"}
    assert found == ({says} if says else set())


@pytest.mark.parametrize(
    "kind",
    [
        "type='scsi' model='virtio-scsi'",
        "type='usb' model='qemu-xhci'",
        "type='virtio-serial' model='virtio'",
        "type='virtio-serial' model='virtio-transitional'",
    ],
)
def test_nothing_says_that_kubevirt_has_a_further_controller(run: Callable, rules: Rules, kind: str) -> None:
    nodes = "".join(f"<controller index='{index}' {kind}/>" for index in (0, 1))
    book = run(f"<devices>{nodes}<input type='tablet' bus='usb'/></devices>", rules)
    fates = {entry.path: entry.fate for entry in book.entries}
    assert fates["devices.controller[0].model"] == "default"
    assert fates["devices.controller[1].model"] == "ignore"
    assert fates["devices.controller[1].type"] == "flag"


SCSI, UHCI = "<controller type='scsi' model='{}'/>", "<controller type='usb' {} model='ich9-uhci{}'>"
COMPANIONS = "".join(UHCI.format("{0}", number) + "<master startport='0'/></controller>" for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("controllers", "further"),
    [
        ("<controller type='usb' index='1' model='ich9-ehci1'/>" + COMPANIONS.format("index='1'"), {0}),
        ("<controller type='usb' model='ich9-ehci1'/>" + COMPANIONS.format(""), set()),
        (SCSI.format("virtio-scsi") * 3, {1, 2}),
        (SCSI.format("virtio-scsi") + "<controller type='scsi' index='0' model='lsilogic'/>", {0}),
        ("<controller type='scsi' index='0'/><controller type='virtio-serial'/><controller type='usb'/>", set()),
        ("<controller type='virtio-serial'/><controller type='virtio-serial'/>", {1}),
    ],
)
def test_a_controller_is_a_further_one_by_the_index_that_libvirt_gives_it(
    run: Callable, rules: Rules, controllers: str, further: set[int]
) -> None:
    book = run(f"<devices>{controllers}</devices>", rules)
    flagged = {entry.path for entry in book.entries for item in entry.findings if item.rule == "controller-further"}
    assert flagged == {f"devices.controller[{index}].type" for index in further}


def test_a_disk_hangs_on_a_controller_without_an_index(run: Callable, rules: Rules) -> None:
    controllers = SCSI.format("virtio-scsi") + SCSI.format("lsilogic")
    for at, flagged in (("0", "scsi-model/unused"), ("1", "scsi-model/driver")):
        disk = DISK.format(bus="scsi", address=AT.format(at))
        assert findings(run(f"<devices>{disk}{controllers}</devices>", rules)) == {flagged}
