"""What guests drive by themselves: versions, systems that are not known, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from migrate.mapping.guests import Driver, drives
from migrate.mapping.ledger import Ledger
from migrate.mapping.rules import Rules
from migrate.model import Finding

OSINFO = """
<metadata><l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'><l:os id='{}'/></l:libosinfo></metadata>
"""
I440FX = "<os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os>"


@pytest.mark.parametrize(
    ("system", "driver", "known"),
    [
        ("redhat.com/rhel/4.9", "ahci", False),
        ("redhat.com/rhel/5.11", "ahci", True),
        ("redhat.com/rhel/6.3", "virtio_scsi", False),
        ("redhat.com/rhel/6.10", "virtio_scsi", True),
        ("redhat.com/rhel/7.1", "virtio_1", False),
        ("redhat.com/rhel/7-unknown", "virtio_1", True),
        ("redhat.com/rhel/6-unknown", "virtio_1", False),
        ("redhat.com/rhel/10.0", "virtio_1", True),
        ("redhat.com/rhel/unknown", "virtio_1", None),
        ("centos.org/centos/7.0", "virtio_1", True),
        ("debian.org/debian/3.1", "ahci", False),
        ("debian.org/debian/8", "virtio_1", False),
        ("debian.org/debian/testing", "virtio_1", True),
        ("ubuntu.com/ubuntu/14.04", "virtio_1", False),
        ("ubuntu.com/ubuntu/16.04", "virtio_1", True),
        ("ubuntu.com/ubuntu/6.06", "ahci", False),
        ("suse.com/sles/11.4", "virtio_1", False),
        ("suse.com/sle/15.1", "virtio_1", True),
        ("opensuse.org/opensuse/42.1", "virtio_1", True),
        ("opensuse.org/opensuse/tumbleweed", "virtio_1", True),
        ("archlinux.org/archlinux/rolling", "virtio_scsi", True),
        ("freebsd.org/freebsd/9.3", "virtio_scsi", False),
        ("oracle.com/solaris/11", "virtio_scsi", False),
        ("microsoft.com/win/xp", "ahci", False),
        ("microsoft.com/win/2k3r2", "virtio_1", False),
        ("microsoft.com/win/vista", "ahci", True),
        ("microsoft.com/win/2k25", "ahci", True),
        ("microsoft.com/win/10", "virtio_scsi", False),
        ("microsoft.com/win/10", "virtio_1", None),
        ("microsoft.com/winnt/4.0", "ahci", False),
        ("libosinfo.org/unknown", "ahci", None),
        ("example.com/system/1", "ahci", None),
    ],
)
def test_drivers_in_the_box(system: str, driver: Driver, known: bool | None) -> None:
    assert drives(f"http://{system}", driver) is known


def test_a_guest_without_a_libosinfo_id_is_not_known() -> None:
    assert drives("", "ahci") is None


@pytest.mark.parametrize(
    ("osinfo", "says"),
    [
        ("http://microsoft.com/win/xp", "microsoft.com/win/xp has no driver storahci or msahci in the box"),
        ("http://redhat.com/rhel/9.2", "redhat.com/rhel/9.2 has the driver ahci"),
        ("http://example.com/system/1", "whether example.com/system/1 has the driver ahci is not known"),
        ("", "which system the guest has is not known"),
    ],
)
def test_a_disk_that_changes_its_bus_is_judged_with_the_guest(
    osinfo: str, says: str, run: Callable, rules: Rules
) -> None:
    disk = "<devices><disk type='file'><source file='/a'/><target dev='hda' bus='ide'/></disk></devices>"
    (finding,) = _findings(run((OSINFO.format(osinfo) if osinfo else "") + disk, rules), "disk-bus/ide")
    assert says in finding.because
    assert finding.severity == "warning"
    assert "dracut" in finding.remedy


def test_a_scsi_controller_is_judged_with_the_guest(run: Callable, rules: Rules) -> None:
    devices = "<disk type='file'><source file='/a'/><target dev='sda' bus='scsi'/></disk>"
    devices += "<controller type='scsi' index='0' model='lsisas1068'/>"
    book = run(f"{OSINFO.format('http://microsoft.com/win/2k12r2')}<devices>{devices}</devices>", rules)
    (finding,) = _findings(book, "scsi-model/driver")
    assert "lsisas1068 before; microsoft.com/win/2k12r2 has no driver vioscsi in the box" in finding.because


@pytest.mark.parametrize(
    ("osinfo", "says"),
    [
        ("http://microsoft.com/win/10", "asks for activation; virtio devices speak virtio 0.9 beside 1.0"),
        (
            "http://redhat.com/rhel/9.2",
            "virtio devices speak virtio 1.0 only; redhat.com/rhel/9.2 has the driver virtio_pci of virtio 1.0",
        ),
    ],
)
def test_a_machine_that_changes_its_family_is_judged_with_the_guest(
    osinfo: str, says: str, run: Callable, rules: Rules
) -> None:
    disk = "<devices><disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk></devices>"
    (finding,) = _findings(run(OSINFO.format(osinfo) + I440FX + disk, rules), "machine-type/i440fx")
    assert says in finding.because


def _findings(book: Ledger, name: str) -> list[Finding]:
    return [finding for entry in book.entries for finding in entry.findings if finding.id == name]
