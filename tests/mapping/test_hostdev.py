"""Host devices: the names by which a site file knows them."""

from __future__ import annotations

import re
from collections.abc import Callable

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.mapping.rules import Rules


def _findings(book) -> list:
    """What is said of host devices."""
    return [found for entry in book.entries for found in entry.findings if found.rule.startswith("hostdev")]


relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def _hostdev(kind: str, source: str) -> str:
    return (
        f"<devices><hostdev mode='subsystem' type='{kind}' managed='yes'><source>{source}</source></hostdev></devices>"
    )


pci = st.builds(
    lambda domain, bus, slot, function: (
        "pci",
        f"<address domain='{domain:#06x}' bus='{bus:#04x}' slot='{slot:#04x}' function='{function:#x}'/>",
        f"pci:{domain:04x}:{bus:02x}:{slot:02x}.{function:x}",
    ),
    st.integers(0, 0xFFFF),
    st.integers(0, 255),
    st.integers(0, 31),
    st.integers(0, 7),
)
usb = st.builds(
    lambda vendor, product: (
        "usb",
        f"<vendor id='0x{vendor:04X}'/><product id='0x{product:04x}'/>",
        f"usb:{vendor:04x}:{product:04x}",
    ),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
)
mdev = st.uuids().map(lambda uuid: ("mdev", f"<address uuid='{uuid}'/>", f"mdev:{uuid}"))


@relaxed
@given(device=st.one_of(pci, usb, mdev))
def test_the_line_that_a_blocker_names_lifts_it(device: tuple[str, str, str], run: Callable, rules: Rules) -> None:
    kind, source, key = device
    xml = _hostdev(kind, source)
    book = run(xml, rules, {"gates": "+HostDevices"})
    (finding,) = _findings(book)
    assert (finding.id, finding.severity) == ("hostdev-gate/no-resource", "blocker")
    shown = re.search(r"\((hostDevices: .*)\)\.$", finding.because)
    assert shown
    site = yaml.safe_load(shown[1].replace("VENDOR.COM", "example.com"))
    assert list(site["hostDevices"]) == [key]
    book = run(xml, rules, {"site": site, "gates": "+HostDevices"})
    assert not _findings(book)
    assert book.writes["domain.devices.hostDevices[hostdev-0].deviceName"].value == "example.com/RESOURCE"


def test_a_carried_device_without_its_gate_blocks(run: Callable, rules: Rules) -> None:
    site = {"hostDevices": {"pci:0000:06:00.0": "example.com/card"}}
    book = run(_hostdev("pci", "<address bus='0x06'/>"), rules, {"site": site})
    assert {(found.id, found.severity) for found in _findings(book)} == {("hostdev-device/unsupported", "blocker")}


def test_an_address_that_is_none_is_no_crash(run: Callable, rules: Rules) -> None:
    book = run(_hostdev("pci", "<address bus='here'/>"), rules)
    assert [found.id for found in _findings(book)] == ["hostdev-gate/nameless"]
