"""Interfaces: one network each, one pod network at most, order and addresses kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.mapping.rules import Rules
from migrate.target.manifests import assemble

NETWORKS = {
    "network:default": {"pod": "masquerade"},
    "bridge:br0": {"multus": "net/br0"},
    "direct:eth1": {"multus": "fast", "binding": "sriov"},
}
SOURCES = {
    "network:default": "<interface type='network'><source network='default'/></interface>",
    "bridge:br0": "<interface type='bridge'><source bridge='br0'/></interface>",
    "bridge:other": "<interface type='bridge'><source bridge='other'/></interface>",
    "direct:eth1": "<interface type='direct'><source dev='eth1' mode='bridge'/></interface>",
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
        assert len({"masquerade", "bridge", "sriov"} & set(item)) == 1


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


@pytest.mark.parametrize(
    ("machine", "model", "bus", "slot", "kept", "name"),
    [
        ("pc-q35-7.2", "virtio", 1, 0, "0000:01:00.0", ""),
        ("pc-q35-7.2", "e1000", 2, 1, None, "enp2s1"),
        ("pc-q35-7.2", "virtio", 0, 3, None, "enp0s3"),
        ("pc-q35-7.2", "virtio-transitional", 2, 0, None, "enp2s0"),
        ("pc-i440fx-7.2", "virtio", 0, 3, None, "ens3"),
        ("pc-i440fx-7.2", "virtio", 1, 0, None, "enp1s0"),
    ],
)
def test_the_guests_name_of_an_interface_is_kept_or_said(
    machine: str, model: str, bus: int, slot: int, kept: str | None, name: str, run: Callable, rules: Rules
) -> None:
    book = run(
        f"<os><type arch='x86_64' machine='{machine}'>hvm</type></os><devices><interface type='user'>"
        f"<model type='{model}'/><address type='pci' bus='{bus:#04x}' slot='{slot:#04x}' function='0x0'/>"
        "</interface></devices>",
        rules,
    )
    written = book.writes.get("domain.devices.interfaces[interface-0].pciAddress")
    assert (written.value if written else None) == kept
    said = [found.because for entry in book.entries for found in entry.findings if found.id == "nic-address/name"]
    assert [name in because for because in said] == ([] if kept else [True])


def test_several_queues_are_written_once(run: Callable, rules: Rules) -> None:
    nic = "<interface type='user'><model type='virtio'/><driver queues='2'/></interface>"
    other = "<interface type='bridge'><source bridge='br0'/><model type='virtio'/><driver queues='4'/></interface>"
    book = run(f"<vcpu>2</vcpu><devices>{nic}{other}</devices>", rules, {"site": {"networks": NETWORKS}})
    assert book.writes["domain.devices.networkInterfaceMultiqueue"].value is True
    assert not book.internal


def test_no_interface_means_none(run: Callable, rules: Rules) -> None:
    assert _vm(run("<devices/>", rules))["domain"]["devices"]["autoattachPodInterface"] is False
    assert (
        "autoattachPodInterface"
        not in _vm(run("<devices><interface type='user'/></devices>", rules))["domain"]["devices"]
    )
