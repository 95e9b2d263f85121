"""What KubeVirt adds to a VM as a whole: above all what keeps a running guest on its node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from migrate.mapping.rules import Rules

DISK = "<disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk>"
SHARED = DISK.replace("</disk>", "<shareable/></disk>")
TRANSIENT = DISK.replace("</disk>", "<transient/></disk>")
LUN = (
    "<disk type='block' device='lun'><source dev='/dev/sdx'><reservations managed='yes'/></source>"
    "<target dev='vda' bus='scsi'/><shareable/></disk>"
)
NIC = "<interface type='network'><source network='default'/><model type='virtio'/></interface>"
PCI = "<hostdev mode='subsystem' type='pci'><source><address bus='0x06'/></source></hostdev>"
SCREEN = (
    "<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'>"
    "<source><address uuid='53764d0e-85a0-42b4-af5c-2046b460b1dc'/></source></hostdev>"
)
FOR_ALL = {"default": {"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}}
DEVICES = {"pci:*": "a.b/c", "mdev:*": "a.b/d"}
POD, BRIDGE = {"default": {"pod": "masquerade"}}, {"default": {"pod": "bridge"}}
PASST = {"default": {"pod": {"plugin": "passt"}}}
SHOWN = "<os><type arch='x86_64' machine='q35'>hvm</type><smbios mode='sysinfo'/></os>"

ARM = "<os><type arch='aarch64' machine='virt'>hvm</type></os>"


def smbios(**entries: str) -> str:
    system = "".join(f"<entry name='{name}'>{value}</entry>" for name, value in entries.items())
    return f"<sysinfo type='smbios'><system>{system}</system></sysinfo>"


def bound(run: Callable, rules: Rules, xml: str, site: dict[str, Any], **example: Any) -> str | None:
    book = run(xml, rules, {"site": site, "disks": {"vda": {}}, **example})
    return {gain.path: gain.value for gain in book.gains}.get("evictionStrategy")


@pytest.mark.parametrize(
    ("devices", "site", "example", "reason"),
    [
        (DISK, {}, {}, "claims without ReadWriteMany: vda"),
        (DISK, {"storage": FOR_ALL}, {}, None),
        (TRANSIENT, {}, {}, "claims without ReadWriteMany: vda"),
        (SHARED, {}, {}, None),
        (NIC, {"networks": POD}, {}, None),
        (NIC, {"networks": BRIDGE}, {}, "a bridge on the pod network"),
        (NIC, {"networks": {"default": {"multus": "vms/office"}}}, {}, None),
        (
            NIC,
            {"networks": PASST},
            {},
            "the plugin passt on the pod network, unless the KubeVirt object gives it `migration`",
        ),
        (NIC, {"networks": PASST}, {"plugins": ["passt/migration"]}, None),
        (NIC, {"networks": {"default": {"multus": "net", "binding": {"plugin": "macvtap"}}}}, {}, None),
        (PCI, {"hostDevices": DEVICES}, {"gates": "+HostDevices"}, "host devices"),
        (PCI, {"hostDevices": DEVICES}, {}, None),
        (SCREEN, {"hostDevices": DEVICES}, {}, "GPUs"),
        (SCREEN, {"hostDevices": DEVICES}, {"gates": "+VGPULiveMigration"}, None),
        (LUN, {}, {"kubevirt": "1.8", "gates": "+PersistentReservation"}, "SCSI reservations before KubeVirt 1.9"),
        (LUN, {}, {}, None),
        (SCREEN * 2, {"hostDevices": DEVICES}, {"gates": "+VGPULiveMigration"}, "GPUs"),
        (
            DISK + PCI,
            {"hostDevices": DEVICES},
            {"gates": "+HostDevices"},
            "claims without ReadWriteMany: vda; host devices",
        ),
    ],
)
def test_what_keeps_a_running_guest_on_its_node(
    devices: str, site: dict[str, Any], example: dict[str, Any], reason: str | None, run: Callable, rules: Rules
) -> None:
    assert bound(run, rules, f"<devices>{devices}</devices>", site, **example) == reason


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        ("<launchSecurity type='sev'><policy>0x0001</policy></launchSecurity>", "encrypted memory"),
        ("<features><hyperv mode='passthrough'/></features>", "hypervPassthrough"),
        ("<devices/>", None),
    ],
)
def test_settings_that_keep_a_running_guest_on_its_node(
    xml: str, reason: str | None, run: Callable, rules: Rules
) -> None:
    assert bound(run, rules, xml, {}) == reason


@pytest.mark.parametrize(
    ("arch", "devices", "kubevirt", "added"),
    [
        ("aarch64' machine='virt", "<graphics type='vnc'/>", "1.9", "keyboard on usb, tablet on usb"),
        (
            "aarch64' machine='virt",
            "<graphics type='vnc'/><input type='tablet' bus='virtio'/>",
            "1.9",
            "keyboard on usb",
        ),
        ("aarch64' machine='virt", "<graphics type='vnc'/><video><model type='none'/></video>", "1.9", None),
        ("aarch64' machine='virt", "", "1.9", None),
        ("s390x' machine='s390-ccw-virtio", "<video/>", "1.9", "keyboard on virtio"),
        ("s390x' machine='s390-ccw-virtio", "<video/>", "1.4", "keyboard on virtio"),
        ("s390x' machine='s390-ccw-virtio", "<video/>", "1.3", None),
        ("x86_64' machine='q35", "<graphics type='vnc'/>", "1.9", None),
    ],
)
def test_input_devices_that_come_with_a_screen_are_gains(
    arch: str, devices: str, kubevirt: str, added: str | None, run: Callable, rules: Rules
) -> None:
    book = run(f"<os><type arch='{arch}'>hvm</type></os><devices>{devices}</devices>", rules, {"kubevirt": kubevirt})
    assert {gain.path: gain.value for gain in book.gains}.get("domain.devices.inputs") == added


@pytest.mark.parametrize(
    ("xml", "example", "maker", "number"),
    [
        ("", {}, "KubeVirt", "a random UUID"),
        ("", {"kubevirt": "1.4"}, "KubeVirt", None),
        ("<os><type arch='s390x' machine='s390-ccw-virtio'>hvm</type></os>", {}, None, None),
        (ARM, {}, "KubeVirt", "a random UUID"),
        (ARM, {"kubevirt": "1.6"}, "KubeVirt", "a random UUID"),
        (ARM, {"kubevirt": "1.5"}, None, None),
        (SHOWN + smbios(serial="A"), {}, "KubeVirt", None),
        (SHOWN + "<sysinfo type='fwcfg'><entry name='opt/a'>b</entry></sysinfo>", {}, "KubeVirt", "a random UUID"),
        (SHOWN + smbios(serial="A") + smbios(manufacturer="B"), {}, "KubeVirt", None),
        (SHOWN + smbios(serial="A", manufacturer=""), {}, "KubeVirt", None),
        (SHOWN + smbios(serial="A", manufacturer="B"), {}, None, None),
        (SHOWN + smbios(sku="B") + smbios(serial="A"), {}, None, "a random UUID"),
        (SHOWN.replace("sysinfo", "emulate") + smbios(manufacturer="B"), {}, "KubeVirt", "a random UUID"),
    ],
)
def test_what_kubevirt_says_of_the_machine_in_smbios_is_a_gain(
    xml: str, example: dict[str, str], maker: str | None, number: str | None, run: Callable, rules: Rules
) -> None:
    gains = {gain.path: gain.value for gain in run(xml, rules, example).gains}
    assert (gains.get("domain.firmware"), gains.get("domain.firmware.serial")) == (maker, number)


@pytest.mark.parametrize(
    ("cpu", "gained"),
    [
        ("<cpu mode='custom'><model>Skylake-Server-IBRS</model></cpu>", "mpx disable"),
        ("<cpu mode='custom'><model>Cascadelake-Server-noTSX</model></cpu>", "mpx disable"),
        ("<cpu><model>Icelake-Server</model><feature policy='disable' name='mpx'/></cpu>", None),
        ("<cpu mode='custom'><model>Haswell-noTSX</model></cpu>", None),
        ("<cpu mode='host-model'/>", None),
    ],
)
def test_mpx_was_taken_from_named_models_without_a_word(
    cpu: str, gained: str | None, run: Callable, rules: Rules
) -> None:
    book = run(f"<os><type arch='x86_64' machine='q35'>hvm</type></os>{cpu}", rules)
    assert {gain.path: gain.value for gain in book.gains}.get("domain.cpu.features") == gained


@pytest.mark.parametrize(
    ("features", "kubevirt", "gained"),
    [("", "1.9", "vmport off"), ("", "1.5", "vmport off"), ("", "1.4", None), ("<vmport state='on'/>", "1.9", None)],
)
def test_vmwares_port_is_closed_since_1_5(
    features: str, kubevirt: str, gained: str | None, run: Callable, rules: Rules
) -> None:
    book = run(f"<features>{features}</features>", rules, {"kubevirt": kubevirt})
    assert {gain.path: gain.value for gain in book.gains}.get("domain.features") == gained


@pytest.mark.parametrize(
    ("machine", "clock", "gained"),
    [
        ("q35", "", "hpet off"),
        ("q35", "<timer name='rtc' tickpolicy='catchup'/>", "hpet off"),
        ("pc-q35-rhel9.2.0", "", None),
        ("q35", "<timer name='hpet' present='no'/>", None),
        ("q35", "<timer name='hpet' present='yes'/>", None),
    ],
)
def test_an_hpet_of_which_the_domain_says_nothing_went_without_a_word(
    machine: str, clock: str, gained: str | None, run: Callable, rules: Rules
) -> None:
    book = run(f"<os><type arch='x86_64' machine='{machine}'>hvm</type></os><clock>{clock}</clock>", rules)
    assert {gain.path: gain.value for gain in book.gains}.get("domain.clock.timer.hpet") == gained
