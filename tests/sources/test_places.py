"""Where libvirt places the interfaces of a VM as KubeVirt's launcher defines it is what is foretold."""

from __future__ import annotations

import pytest
from sources.daemon import Daemon

from migrate import site as sites
from migrate.mapping import ledger, nic_names, rule_files, vocabulary
from migrate.mapping.paths import parse
from migrate.mapping.signs import Context
from migrate.model import VM
from migrate.target.vocabulary import target

# What converter.go has in each VM on x86, before and behind the interfaces.
LAUNCHED = """<domain type='qemu'><name>launched</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><devices>
<controller type='usb' index='0' model='none'/><controller type='scsi' index='0' model='virtio-non-transitional'/>
<controller type='virtio-serial' index='0' model='virtio-non-transitional'/><video><model type='vga'/></video>
<memballoon model='virtio-non-transitional'/><rng model='virtio-non-transitional'><backend model='random'>/dev/urandom
</backend></rng>{}</devices></domain>"""
WATCHDOG = "<watchdog model='i6300esb' action='reset'/>"
SOUND = "<sound model='{}'/>"


def _nic(model: str = "virtio-non-transitional", bus: int | None = None) -> str:
    place = f"<address type='pci' bus='{bus}'/>" if bus else ""
    return f"<interface type='ethernet'><model type='{model}'/>{place}</interface>"


def _context(xml: str) -> Context:
    """What rules see of a domain."""
    vm = VM("launched", "", "libvirt", "", "", "", "launched", xml=xml.encode())
    document = vocabulary.read(parse(vm.xml, vm.name))
    ledger.imply(document, rule_files.load())
    return Context(vm, document, sites.checked({}, "none"), target("1.9"), {})


@pytest.mark.parametrize(
    "devices",
    [
        _nic(),
        _nic() * 3,
        _nic() + _nic("e1000e") + _nic("igb"),
        _nic() + _nic("e1000") + _nic(),
        _nic() * 2 + WATCHDOG,
        _nic() + SOUND.format("ich9"),
        _nic(bus=3) + _nic() * 3,
        _nic(bus=1) + _nic() + _nic(bus=2) + WATCHDOG,
        _nic(bus=5) + _nic() + _nic("rtl8139"),
    ],
)
def test_libvirt_places_interfaces_as_foretold(devices: str, daemon: Daemon) -> None:
    xml = LAUNCHED.format(devices)
    asked, placed = _context(xml), _context(daemon.connection.defineXML(xml).XMLDesc())
    nodes = asked.document.nodes["devices.interface"]
    text = asked.document.text
    buses = {node.path: text(f"{node.path}.address.bus") for node in nodes}
    places = {path: f"0000:{int(bus):02x}:00.0" if bus else "" for path, bus in buses.items()}
    for node, there in zip(nodes, placed.document.nodes["devices.interface"], strict=True):
        express = text(f"{node.path}.model.type") in nic_names.EXPRESS
        assert nic_names.after(node, asked, places) == nic_names.before(there, placed)
        assert (nic_names.before(there, placed) is not None) == express
