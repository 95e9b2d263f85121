"""Interfaces: one network each, one pod network at most, order and addresses kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.mapping import nic_names
from migrate.mapping.rules import Rules
from migrate.target.manifests import assemble

NETWORKS = {
    "network:default": {"pod": "masquerade"},
    "bridge:br0": {"multus": "net/br0"},
    "direct:eth1": {"multus": "fast", "binding": "sriov"},
    "direct:eth2": {"multus": "net/eth2", "binding": {"plugin": "macvtap"}},
}
SOURCES = {
    "network:default": "<interface type='network'><source network='default'/></interface>",
    "bridge:br0": "<interface type='bridge'><source bridge='br0'/></interface>",
    "bridge:other": "<interface type='bridge'><source bridge='other'/></interface>",
    "direct:eth1": "<interface type='direct'><source dev='eth1' mode='bridge'/></interface>",
    "direct:eth2": "<interface type='direct'><source dev='eth2' mode='bridge'/></interface>",
    "user": "<interface type='user'/>",
}


def _blocked(book) -> list:
    """The findings that say why an interface has no network."""
    return [found for entry in book.entries for found in entry.findings if found.rule == "nic-gate"]


relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def _vm(book) -> dict:
    writes = sorted(book.writes.values(), key=lambda write: write.order)
    return assemble((write.path, write.value) for write in writes)["VirtualMachine"][0]["spec"]["template"]["spec"]


@relaxed
@given(kinds=st.lists(st.sampled_from(sorted(SOURCES)), min_size=1, max_size=6))
def test_each_interface_is_attached_or_blocked(kinds: list[str], run: Callable, rules: Rules) -> None:
    xml = "<devices>" + "".join(SOURCES[kind] for kind in kinds) + "</devices>"
    book = run(xml, rules, {"site": {"networks": NETWORKS}})
    spec = _vm(book)
    interfaces = spec["domain"]["devices"].get("interfaces", [])
    networks = spec.get("networks", [])
    blocked = _blocked(book)
    assert len(interfaces) + len(blocked) == len(kinds)
    assert [item["name"] for item in interfaces] == [item["name"] for item in networks]
    assert [item["name"] for item in interfaces] == sorted(item["name"] for item in interfaces)
    assert sum("pod" in item for item in networks) == (1 if {"user", "network:default"} & set(kinds) else 0)
    for item in interfaces:
        assert len({"masquerade", "bridge", "sriov", "binding"} & set(item)) == 1


PLUGIN = {"plugin": "any"}
BY_PLUGIN, POD_BY_PLUGIN = {"default": {"multus": "net", "binding": PLUGIN}}, {"default": {"pod": PLUGIN}}
FUNCTION = "<interface type='hostdev'><source><address type='pci' bus='0x06'/></source></interface>"
RESERVED = "<mac address='02:00:00:00:00:00'/>"
DRIVER = "<driver name='qemu' txmode='timer'><host csum='off'/></driver>"


@pytest.mark.parametrize(
    ("nic", "networks", "unknown", "known"),
    [
        (SOURCES["bridge:br0"], BY_PLUGIN, {"nic-network/plugin"}, set()),
        (FUNCTION, BY_PLUGIN, {"nic-network/plugin"}, {"nic-network/emulated"}),
        (
            "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>",
            BY_PLUGIN,
            {"nic-network/plugin", "nic-network/plugin-kind"},
            {"nic-network/plugin-kind"},
        ),
        (
            f"<interface type='bridge'>{RESERVED}<source bridge='a'/><boot order='1'/></interface>",
            POD_BY_PLUGIN,
            {"nic-network/plugin", "nic-network/pod-plugin"},
            {"nic-network/pod-plugin"},
        ),
        (
            "<interface type='direct'><source dev='a' mode='private'/></interface>",
            BY_PLUGIN,
            {"nic-network/plugin", "nic-direct-mode/plugin"},
            {"nic-direct-mode/plugin"},
        ),
        (
            f"<interface type='user'>{DRIVER}<rom bar='off'/></interface>",
            BY_PLUGIN,
            {"nic-network/plugin", "nic-tuning/plugin", "nic-offloads/plugin", "nic-rom/plugin"},
            {"nic-driver/qemu", "nic-tuning/lost", "nic-offloads/lost", "nic-rom/lost"},
        ),
        (
            "<interface type='user'><link state='down'/></interface>",
            BY_PLUGIN,
            {"nic-network/plugin"},
            set(),
        ),
    ],
)
def test_what_a_plugin_decides_is_said_unless_kubevirt_makes_the_interface(
    nic: str, networks: dict, unknown: set[str], known: set[str], run: Callable, rules: Rules
) -> None:
    xml = f"<devices>{nic}</devices>"
    for plugins, expected in (([], unknown), (["any/migration", "other/tap"], unknown), (["any/tap"], known)):
        book = run(xml, rules, {"site": {"networks": networks}, "plugins": plugins})
        found = {
            f.id
            for entry in book.entries
            for f in entry.findings
            if f.rule.startswith("nic-") and f.rule not in ("nic-address", "nic-mac")
        }
        assert found - {"nic-model/otherwise"} == expected
        assert _vm(book)["domain"]["devices"]["interfaces"][0]["binding"] == {"name": "any"}
        assert _vm(book)["domain"]["devices"]["interfaces"][0].get("state") == ("down" if "link" in nic else None)


def test_booting_from_the_network_is_the_plugins_matter(run: Callable, rules: Rules) -> None:
    xml = "<os><type arch='x86_64' machine='q35'>hvm</type><boot dev='network'/></os><devices>{}</devices>"
    for networks, lost in (({"default": {"pod": "bridge"}}, True), (POD_BY_PLUGIN, False)):
        book = run(xml.format(SOURCES["bridge:br0"]), rules, {"site": {"networks": networks}})
        found = {f.id for entry in book.entries for f in entry.findings}
        assert ("os-boot/pod" in found) is lost


@pytest.mark.parametrize(
    ("kubevirt", "gates", "blocked"),
    [
        ("1.3", "", True),
        ("1.4", "", True),
        ("1.4", "+NetworkBindingPlugins", False),
        ("1.5", "", False),
        ("1.9", "-NetworkBindingPlugins", False),
    ],
)
def test_a_plugin_without_its_gate_is_a_blocker_that_names_it(
    kubevirt: str, gates: str, blocked: bool, run: Callable, rules: Rules
) -> None:
    example = {"site": {"networks": BY_PLUGIN}, "kubevirt": kubevirt, "gates": gates}
    book = run(f"<devices>{SOURCES['bridge:br0']}</devices>", rules, example)
    found = [f for entry in book.entries for f in entry.findings if f.severity == "blocker"]
    assert [f.id for f in found] == ["nic-network/unsupported"] * blocked
    assert all("needs feature gate NetworkBindingPlugins" in f.because for f in found)


def test_the_site_files_choice_comes_before_a_guess_about_user_networking(run: Callable, rules: Rules) -> None:
    xml = f"<devices>{SOURCES['user']}{SOURCES['network:default']}</devices>"
    book = run(xml, rules, {"site": {"networks": NETWORKS}})
    assert "networks[interface-1].pod" in book.writes
    assert [found.id for found in _blocked(book)] == ["nic-gate/second-pod"]


@pytest.mark.parametrize(("kind", "line"), [("bridge:other", "bridge:other"), ("direct:eth1", "direct:eth1")])
def test_the_blocker_names_the_line_that_lifts_it(kind: str, line: str, run: Callable, rules: Rules) -> None:
    book = run(f"<devices>{SOURCES[kind]}</devices>", rules)
    (finding,) = _blocked(book)
    shown = re.search(r"\((networks: .*)\)\.$", finding.because)
    assert shown
    import yaml

    site = yaml.safe_load(shown[1].replace("NAMESPACE/NAME", "net/one"))
    assert list(site["networks"]) == [line]
    book = run(f"<devices>{SOURCES[kind]}</devices>", rules, {"site": site})
    assert book.writes["networks[interface-0].multus.networkName"].value == "net/one"


def test_a_name_from_outside_cannot_break_the_line(run: Callable, rules: Rules) -> None:
    xml = "<devices><interface type='bridge'><source bridge='b&quot;}&#10;x: {'/></interface></devices>"
    (finding,) = _blocked(run(xml, rules))
    assert json.dumps('bridge:b"}\nx: {') in finding.because


@relaxed
@given(octets=st.lists(st.integers(0, 255), min_size=6, max_size=6), short=st.booleans())
def test_a_mac_address_is_kept(octets: list[int], short: bool, run: Callable, rules: Rules) -> None:
    text = ":".join(f"{octet:X}" if short else f"{octet:02x}" for octet in octets)
    book = run(f"<devices><interface type='user'><mac address='{text}'/></interface></devices>", rules)
    wanted = ":".join(f"{octet:02x}" for octet in octets)
    written = book.writes.get("domain.devices.interfaces[interface-0].macAddress")
    assert (written.value if written else "reserved") == (wanted if wanted != "02:00:00:00:00:00" else "reserved")


Q35 = "<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><features><acpi/></features>"
I440FX = Q35.replace("pc-q35-7.2", "pc-i440fx-7.2")
ARM = Q35.replace("x86_64", "aarch64").replace("pc-q35-7.2", "virt-7.2")
S390X = Q35.replace("x86_64", "s390x").replace("pc-q35-7.2", "s390-ccw-virtio")


def _at(bus: int, slot: int, model: str = "virtio", more: str = "", rest: str = "") -> str:
    place = f"<address type='pci' bus='{bus:#04x}' slot='{slot:#04x}' function='0x0'{more}/>"
    return f"<interface type='user'><model type='{model}'/>{place}{rest}</interface>"


def _new(model: str = "virtio", rest: str = "") -> str:
    return f"<interface type='user'><model type='{model}'/>{rest}</interface>"


def _named(book, nic: int = 0) -> str:
    """What the ledger says of the names of an interface."""
    path = f"devices.interface[{nic}].address."
    (said,) = {entry.because for entry in book.entries if entry.path.startswith(path)}
    return re.search(r"[\w.]+ before(?: and|, (?:not to be foretold|[\w.]+)) after", said)[0]


def _port(index: int, slot: int, bus: int = 0, model: str = "pcie-root-port") -> str:
    return (
        f"<controller type='pci' index='{index}' model='{model}'>"
        f"<address type='pci' bus='{bus:#04x}' slot='{slot:#04x}' function='0x0'/></controller>"
    )


@pytest.mark.parametrize(
    ("machine", "devices", "named"),
    [
        (Q35, _at(1, 0), "enp1s0 before and after"),
        (Q35, _at(2, 1, "e1000"), "unknown before, not to be foretold after"),
        (Q35, _port(1, 2) + _port(2, 0, 1, "pcie-to-pci-bridge") + _at(2, 1), "unknown before, enp1s0 after"),
        (Q35, _at(0, 3), "enp0s3 before, enp1s0 after"),
        (Q35, _at(0, 3, more=" multifunction='on'"), "enp0s3f0 before, enp1s0 after"),
        (Q35, _at(2, 0, "virtio-transitional"), "enp2s0 before, not to be foretold after"),
        (Q35, _at(0, 3, rest="<acpi index='7'/>"), "eno7 before and after"),
        (ARM, _at(0, 3, rest="<acpi index='7'/>"), "unknown before, not to be foretold after"),
        (ARM, _at(3, 0), "enp3s0 before and after"),
        (I440FX, _at(0, 3), "ens3 before, enp1s0 after"),
        (I440FX.replace("<acpi/>", ""), _at(0, 3), "enp0s3 before, enp1s0 after"),
        (I440FX, _at(1, 3), "unknown before, enp1s0 after"),
        (I440FX, _at(0, 3, "vmxnet3"), "ens3 before, enp1s0 after"),
        (I440FX, _at(0, 3) + "<watchdog model='i6300esb'/>", "ens3 before, enp3s0 after"),
        (I440FX, _at(0, 3) + "<watchdog model='i6300esb' action='none'/>", "ens3 before, enp1s0 after"),
        (I440FX, _at(0, 3) + "<watchdog model='i6300esb' action='reset'/>", "ens3 before, enp3s0 after"),
        (Q35, _new(), "unknown before, enp1s0 after"),
        (
            Q35,
            "<interface type='user'><model type='virtio'/><address type='pci'/></interface>",
            "unknown before, enp1s0 after",
        ),
        (S390X, _new(), "unknown before, enc0 after"),
        (
            S390X,
            _new("virtio", "<address type='ccw' cssid='0xfe' ssid='0x0' devno='0x000a'/>"),
            "enca before, enc0 after",
        ),
        (
            S390X,
            _new("virtio", "<address type='ccw' cssid='0xfe' ssid='0x1' devno='0x000a'/>"),
            "enc1.000a before, enc0 after",
        ),
    ],
)
def test_the_guests_name_of_an_interface_is_said_before_and_after(
    machine: str, devices: str, named: str, run: Callable, rules: Rules
) -> None:
    assert _named(run(f"{machine}<devices>{devices}</devices>", rules)) == named


def test_the_bus_of_a_port_is_counted_as_firmware_does(run: Callable, rules: Rules) -> None:
    ports = _port(1, 2) + _port(2, 4) + _port(3, 0, 1, "pcie-to-pci-bridge")
    book = run(f"{Q35}<devices>{ports}{_at(2, 0)}</devices>", rules)
    assert book.writes["domain.devices.interfaces[interface-0].pciAddress"].value == "0000:02:00.0"
    assert _named(book) == "enp3s0 before, enp2s0 after"


def test_ports_in_a_ring_did_not_end(run: Callable, rules: Rules) -> None:
    ports = _port(1, 2) + _port(1, 3, 1) + _port(2, 3, 1) + _port(4, 1, 5) + _port(5, 1, 4)
    assert _named(run(f"{Q35}<devices>{ports}{_at(2, 0)}</devices>", rules)) == "enp2s0 before and after"
    assert _named(run(f"{Q35}<devices>{ports}{_at(4, 0)}</devices>", rules)) == "unknown before, enp4s0 after"


def test_each_interface_has_its_names_by_the_order_and_the_places_of_all(run: Callable, rules: Rules) -> None:
    site = {"site": {"networks": {**NETWORKS, "bridge:br0": {"multus": "net/br0"}}}}
    others = (
        SOURCES["direct:eth1"] + "<interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>"
    )
    book = run(f"{Q35}<devices>{_at(2, 0)}{others * 2}</devices>", rules, site)
    assert [_named(book, nic).split(", ")[-1] for nic in range(5)] == [
        "enp2s0 before and after",
        "not to be foretold after",
        "enp1s0 after",
        "not to be foretold after",
        "enp3s0 after",
    ]


@pytest.mark.parametrize(
    ("machine", "nics", "expected"),
    [
        (Q35, [_at(0, 3), _at(2, 0)], ["enp0s3 before, enp1s0 after", "enp2s0 before and after"]),
        (Q35, [_at(0, 3, rest="<acpi index='7'/>")], ["eno7 before and after"]),
        (S390X, [_new()], ["unknown before, enc0 after"]),
        (S390X, [_new(rest="<acpi index='7'/>")], ["unknown before, enc0 after"]),
    ],
)
def test_names_beside_an_interface_that_a_plugin_makes_are_not_foretold_but_by_index(
    machine: str, nics: list[str], expected: list[str], run: Callable, rules: Rules
) -> None:
    last = "<interface type='ethernet'><model type='virtio'/><acpi index='8'/></interface>"
    xml = f"{machine}<devices>{''.join(nics)}{last}</devices>"
    example = {"site": {"networks": {"user": {"multus": "net"}, **BY_PLUGIN}}}
    book = run(xml, rules, {**example, "plugins": ["any/tap"]})
    assert [_named(book, number) for number in range(len(nics))] == expected
    book = run(xml, rules, example)
    names = [_named(book, number) for number in range(len(nics) + 1)]
    known = [name if "eno" in name else f"{name.split()[0]} before, not to be foretold after" for name in expected]
    assert names[:-1] == known and names[-1].endswith("not to be foretold after")
    found = {f.id for entry in book.entries for f in entry.findings if f.rule == "nic-address"}
    assert "nic-address/name" not in found


def test_file_systems_come_before_the_interfaces(run: Callable, rules: Rules) -> None:
    folder = (
        "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/{0}'/><target dir='{0}'/></filesystem>"
    )
    site = {"site": {"filesystems": {"/srv/a": "a", "/srv/b": "b"}}, "gates": "+EnableVirtioFsStorageVolumes"}
    devices = "".join(folder.format(name) for name in "abc") + _new() + "<watchdog model='i6300esb' action='reset'/>"
    assert _named(run(f"{Q35}<devices>{devices}</devices>", rules, site)) == "unknown before, enp5s0 after"


def test_channel_devices_are_numbered_after_the_virtio_disks(run: Callable, rules: Rules) -> None:
    drive = "<disk type='file'{0}><source file='/d/{1}'/><target dev='{1}' bus='{2}'/></disk>"
    drives = drive.format("", "vda", "virtio") + drive.format("", "sda", "scsi") + drive.format("", "vdb", "virtio")
    drives += drive.format(" device='cdrom'", "sdb", "scsi") + drive.format(" device='floppy'", "fda", "virtio")
    book = run(
        f"{S390X}<devices>{drives}{_new() * 9}</devices>",
        rules,
        {"site": {"networks": {"user": {"multus": "net/one"}}}},
    )
    assert [_named(book, nic) for nic in (0, 8)] == ["unknown before, enc2 after", "unknown before, enca after"]


def test_models_that_become_pci_express_ones_are_those_that_the_table_makes_so(rules: Rules) -> None:
    rows = {name: row.write for name, row in rules.rules["nic-model"].rows.items()}
    express = {name for name, model in rows.items() if model in ("virtio", "e1000e", "igb")}
    assert set(nic_names.BECOME_EXPRESS) | {"virtio-transitional"} == express


def test_an_interface_that_does_not_come_along_leaves_none_behind(run: Callable, rules: Rules) -> None:
    """KubeVirt would put an interface of its own on the pod network, and an order alone is no interface."""
    nic = "<devices><interface type='bridge'><source bridge='br0'/></interface></devices>"
    devices = _vm(run(f"<os><boot dev='network'/></os>{nic}", rules))["domain"]["devices"]
    assert devices["autoattachPodInterface"] is False
    assert "interfaces" not in devices


def test_several_queues_are_written_once(run: Callable, rules: Rules) -> None:
    nic = "<interface type='user'><model type='virtio'/><driver queues='2'/></interface>"
    other = "<interface type='bridge'><source bridge='br0'/><model type='virtio'/><driver queues='4'/></interface>"
    book = run(f"<vcpu>2</vcpu><devices>{nic}{other}</devices>", rules, {"site": {"networks": NETWORKS}})
    assert book.writes["domain.devices.networkInterfaceMultiqueue"].value is True
    assert not book.internal


@pytest.mark.parametrize(
    ("vcpu", "nics", "said"),
    [
        ("<vcpu>4</vcpu>", ["4", "4"], None),
        ("<vcpu>4</vcpu>", ["1", None], None),
        ("<vcpu>4</vcpu>", ["4", "1"], "4 there, interface[1] had 1"),
        ("<vcpu>4</vcpu>", ["4", "4", "2"], "4 there, interface[2] had 2"),
        ("<vcpu>4</vcpu>", ["4", None], "4 there, interface[1] had 1"),
        ("<vcpu current='2'>8</vcpu>", ["8"], "2 there, interface[0] had 8"),
        ("<vcpu current='3'>8</vcpu><cpu><topology sockets='4' cores='2' threads='1'/></cpu>", ["4"], None),
        (
            "<vcpu>2</vcpu><vcpus><vcpu id='0' enabled='yes'/><vcpu id='1' enabled='no'/></vcpus>",
            ["2"],
            "1 there, interface[0] had 2",
        ),
        ("<vcpu>300</vcpu>", ["256"], None),
        ("<vcpu>none</vcpu>", ["4"], "unknown there, interface[0] had 4"),
    ],
)
def test_a_number_of_queues_that_changes_is_said(
    vcpu: str, nics: list[str | None], said: str | None, run: Callable, rules: Rules
) -> None:
    source = "<interface type='network'><source network='default'/><model type='virtio'/>{}</interface>"
    xml = "".join(source.format(f"<driver queues='{queues}'/>" if queues else "") for queues in nics)
    book = run(f"{vcpu}<devices>{xml}</devices>", rules, {"site": {"networks": {"default": {"multus": "net"}}}})
    entries = [entry for entry in book.entries if entry.rule == "nic-queues"]
    findings = [finding for entry in entries for finding in entry.findings]
    assert [finding.because.rpartition("(")[2] for finding in findings] == ([f"{said})."] if said else [])
    several = "domain.devices.networkInterfaceMultiqueue" in book.writes
    assert several == any(queues not in ("1", None) for queues in nics)
    assert all((entry.fate == "default") == (not several) for entry in entries)


@pytest.mark.parametrize("without", ["e1000", "virtio"])
def test_queues_of_an_interface_that_is_no_virtio_one_there_are_for_nothing(
    without: str, run: Callable, rules: Rules
) -> None:
    nic = f"<interface type='direct'><source dev='eth1'/><model type='{without}'/><driver queues='4'/></interface>"
    networks = {"direct:eth1": {"multus": "fast", "binding": "sriov" if without == "virtio" else "bridge"}}
    book = run(f"<devices>{nic}</devices>", rules, {"site": {"networks": networks}})
    assert "domain.devices.networkInterfaceMultiqueue" not in book.writes
    assert [entry.fate for entry in book.entries if entry.rule == "nic-queues"] == ["ignore"]


def test_no_interface_means_none(run: Callable, rules: Rules) -> None:
    assert _vm(run("<devices/>", rules))["domain"]["devices"]["autoattachPodInterface"] is False
    assert (
        "autoattachPodInterface"
        not in _vm(run("<devices><interface type='user'/></devices>", rules))["domain"]["devices"]
    )


@pytest.mark.parametrize(
    ("key", "tags", "said"),
    [
        ("bridge:br0/vlan:10", ["10"], []),
        ("bridge:br0/vlan:2,10", ["10", "2"], []),
        ("bridge:br0/vlan:*", ["10"], ["nic-vlan/lost"]),
        ("bridge:br0", ["10"], ["nic-vlan/lost"]),
        ("default", ["10"], ["nic-vlan/lost"]),
    ],
)
def test_a_network_chosen_for_the_vlan_was_warned_of_nevertheless(
    key: str, tags: list[str], said: list[str], run: Callable, rules: Rules
) -> None:
    vlan = "<vlan>" + "".join(f"<tag id='{tag}'/>" for tag in tags) + "</vlan>"
    nic = f"<devices><interface type='bridge'><source bridge='br0'/>{vlan}</interface></devices>"
    book = run(nic, rules, {"site": {"networks": {key: {"multus": "vms/office"}}}})
    assert [found.id for entry in book.entries for found in entry.findings if found.rule == "nic-vlan"] == said
    because = {entry.because for entry in book.entries if entry.rule == "nic-vlan"}
    assert said or all("vms/office" in text for text in because)
