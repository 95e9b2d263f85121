"""The small devices where more than one table decides: gains, the older virtio, consoles, secrets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from migrate.mapping.rules import Rules
from migrate.model import REDACTED


def _gains(book) -> set[str]:
    return {gain.path for gain in book.gains}


def _findings(book) -> set[str]:
    return {found.id for entry in book.entries for found in entry.findings}


def test_what_kubevirt_adds_to_an_empty_machine(run: Callable, rules: Rules) -> None:
    book = run("<devices/>", rules)
    assert book.writes["domain.devices.autoattachGraphicsDevice"].value is False
    assert {"domain.devices", "domain.devices.autoattachSerialConsole"} <= _gains(book)


def test_what_the_source_has_is_no_gain(run: Callable, rules: Rules) -> None:
    book = run(
        "<devices><console type='pty'/><graphics type='vnc'/><memballoon model='none'/>"
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>",
        rules,
    )
    assert not {"domain.devices", "domain.devices.autoattachSerialConsole"} & _gains(book)
    assert "domain.devices.autoattachGraphicsDevice" not in book.writes
    assert book.writes["domain.devices.autoattachMemBalloon"].value is False


@pytest.mark.parametrize(
    ("machine", "osinfo", "model", "older"),
    [
        ("q35", "http://centos.org/centos/6.9", "virtio", True),
        ("q35", "http://microsoft.com/win/2k3r2", "virtio", True),
        ("q35", "http://redhat.com/rhel/9.2", "virtio", False),
        ("q35", "http://redhat.com/rhel/9.2", "virtio-transitional", True),
        ("q35", "http://microsoft.com/win/10", "virtio", False),
        ("q35", "", "virtio", False),
        ("pc-q35-7.2", "", "virtio", False),
        ("pc-i440fx-7.2", "http://redhat.com/rhel/9.2", "virtio", False),
        ("pc-i440fx-7.2", "http://microsoft.com/win/10", "virtio", True),
        ("pc-i440fx-7.2", "http://example.com/system/1", "virtio", False),
        ("pc", "", "virtio", False),
        ("pc", "http://microsoft.com/win/10", "e1000", False),
        ("rhel6.6.0", "http://microsoft.com/win/2k8", "virtio", True),
    ],
)
def test_virtio_devices_are_transitional_for_old_guests_and_for_windows_that_had_them_so(
    machine: str, osinfo: str, model: str, older: bool, run: Callable, rules: Rules
) -> None:
    libosinfo = "xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'"
    book = run(
        f"<metadata><libosinfo:libosinfo {libosinfo}><libosinfo:os id='{osinfo}'/></libosinfo:libosinfo></metadata>"
        f"<os><type arch='x86_64' machine='{machine}'>hvm</type></os>"
        f"<devices><interface type='user'><model type='{model}'/></interface></devices>",
        rules,
    )
    assert ("domain.devices.useVirtioTransitional" in book.writes) is older


@pytest.mark.parametrize("kind", ["vnc", "spice"])
def test_a_console_password_is_shown_nowhere(kind: str, run: Callable, rules: Rules) -> None:
    book = run(f"<devices><graphics type='{kind}' passwd='planted-secret'/></devices>", rules)
    assert "planted-secret" not in repr((book.entries, book.findings, book.writes, book.gains))
    assert REDACTED in {entry.value for entry in book.entries if entry.path.endswith(".passwd")}


@pytest.mark.parametrize(
    ("ports", "lost"),
    [
        ("<serial type='pty'/>", 0),
        ("<serial type='pty'/><serial type='pty'/>", 1),
        ("<serial type='pty'><target port='1'/></serial><serial type='pty'><target port='0'/></serial>", 1),
        ("<serial type='pty'><target port='1'/></serial>", 1),
        ("<serial type='pty'><target port='0'/></serial><serial type='pty'><target port='0'/></serial>", 1),
    ],
)
def test_the_first_serial_port_stays(ports: str, lost: int, run: Callable, rules: Rules) -> None:
    book = run(f"<devices>{ports}</devices>", rules)
    assert sum(found.id == "serial-gate/further" for entry in book.entries for found in entry.findings) == lost


@pytest.mark.parametrize(
    ("firmware", "model", "named"), [("", "vga", False), ("efi", "bochs", False), ("efi", "vga", True)]
)
def test_a_graphics_adapter_is_named_where_kubevirt_would_choose_another(
    firmware: str, model: str, named: bool, run: Callable, rules: Rules
) -> None:
    attribute = f" firmware='{firmware}'" if firmware else ""
    book = run(
        f"<os{attribute}><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>"
        f"<devices><graphics type='vnc'/><video><model type='{model}'/></video></devices>",
        rules,
    )
    assert ("domain.devices.video.type" in book.writes) is named
    assert not {"video-model/model", "video-model/arch"} & _findings(book)


SCREEN = (
    "<os firmware='{firmware}'><type arch='x86_64' machine='q35'>hvm</type></os>"
    "<devices><graphics type='vnc'/><video><model type='{model}'/></video></devices>"
)


@pytest.mark.parametrize(
    ("kubevirt", "gates", "model", "unsupported"),
    [
        ("1.3", "", "vga", False),
        ("1.3", "", "bochs", True),
        ("1.3", "+BochsDisplayForEFIGuests", "bochs", False),
        ("1.3", "+BochsDisplayForEFIGuests", "vga", True),
        ("1.4", "", "bochs", False),
    ],
)
def test_the_adapter_of_efi_guests_needs_a_gate_in_1_3(
    kubevirt: str, gates: str, model: str, unsupported: bool, run: Callable, rules: Rules
) -> None:
    book = run(
        SCREEN.format(firmware="efi", model=model),
        rules,
        {"kubevirt": kubevirt, "gates": gates},
    )
    assert ("video-model/unsupported" in _findings(book)) is unsupported


@pytest.mark.parametrize(("firmware", "model", "annotated"), [("efi", "bochs", True), ("bios", "vga", False)])
def test_an_annotation_of_the_cluster_gives_efi_guests_another_adapter(
    firmware: str, model: str, annotated: bool, run: Callable, rules: Rules
) -> None:
    book = run(
        SCREEN.format(firmware=firmware, model=model),
        rules,
    )
    (because,) = (entry.because for entry in book.entries if entry.path == "devices.video[0].model.type")
    assert ("kubevirt.io/vga-display-efi-x86" in because) is annotated


@pytest.mark.parametrize(
    ("kubevirt", "model", "written"),
    [("1.9", "vga", False), ("1.9", "bochs", True), ("1.4", "vga", False), ("1.3", "vga", False)],
)
def test_a_cluster_with_that_annotation_gives_efi_guests_a_vga_adapter(
    kubevirt: str, model: str, written: bool, run: Callable, rules: Rules
) -> None:
    book = run(
        SCREEN.format(firmware="efi", model=model),
        rules,
        {"kubevirt": kubevirt, "vga_for_efi": True},
    )
    assert ("domain.devices.video.type" in book.writes) is written
    assert "video-model/unsupported" not in _findings(book)


def test_the_chipsets_watchdog_does_not_take_the_place_of_the_other(run: Callable, rules: Rules) -> None:
    book = run(
        "<devices><watchdog model='itco' action='reset'/><watchdog model='i6300esb' action='reset'/></devices>", rules
    )
    assert book.writes["domain.devices.watchdog.i6300esb.action"].value == "reset"
    assert not {found for found in _findings(book) if found.startswith("watchdog")}


@pytest.mark.parametrize(
    ("xml", "gates", "off", "gained"),
    [
        ("", "", True, True),
        ("<memoryBacking><hugepages/></memoryBacking>", "", False, False),
        ("<memoryBacking><hugepages><page size='3' unit='M'/></hugepages></memoryBacking>", "", True, True),
        ("<cputune><vcpupin vcpu='0' cpuset='4'/></cputune>", "+CPUManager", False, False),
        ("<cputune><vcpupin vcpu='0' cpuset='4'/></cputune>", "", True, True),
    ],
)
def test_freed_pages_of_high_performance_guests_are_not_reported(
    xml: str, gates: str, off: bool, gained: bool, run: Callable, rules: Rules
) -> None:
    disabled = "VirtualMachine.spec.template.metadata.annotations[kubevirt.io/free-page-reporting-disabled]"
    balloon = "<devices><memballoon model='virtio'{}/></devices>"
    said = run(xml + balloon.format(" freePageReporting='off'"), rules, {"gates": gates})
    assert (disabled in said.writes) is off
    unsaid = run(xml + balloon.format(""), rules, {"gates": gates})
    assert ("domain.devices.autoattachMemBalloon" in _gains(unsaid)) is gained
