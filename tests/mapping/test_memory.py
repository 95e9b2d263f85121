"""Amounts of memory: exact in every unit, and never more room to grow than KubeVirt admits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.mapping.memory import kib, quantity
from migrate.mapping.rules import Rules

SCALES = {"": 1024, "b": 1, "bytes": 1, "KB": 1000, "k": 1024, "KiB": 1024, "MB": 1000**2, "M": 1024**2, "GiB": 1024**3}
SUFFIXES = {"Ki": 1, "Mi": 1024, "Gi": 1024**2}
PINS = "".join(f"<vcpupin vcpu='{cpu}' cpuset='{cpu + 4}'/>" for cpu in range(2))
CELLS = "".join(f"<cell id='{cell}' cpus='{cell}' memory='1' unit='GiB'/>" for cell in range(2))


@given(st.integers(0, 10**9), st.sampled_from(sorted(SCALES)))
def test_an_amount_is_rounded_up_to_whole_kib(amount: int, unit: str) -> None:
    rounded = kib(str(amount), unit) * 1024
    assert 0 <= rounded - amount * SCALES[unit] < 1024


@given(st.integers(1, 2**52))
def test_a_quantity_is_exact(amount: int) -> None:
    text = quantity(amount)
    assert int(text[:-2]) * SUFFIXES[text[-2:]] == amount


@pytest.mark.parametrize(
    ("amount", "unit"), [("", ""), ("1.5", "GiB"), ("-1", "KiB"), ("1", "GiBs"), ("1", "x"), ("9", "EiB")]
)
def test_what_libvirt_refuses_is_refused(amount: str, unit: str) -> None:
    with pytest.raises(ValueError):
        kib(amount, unit)


def grows(run: Callable, rules: Rules, xml: str, gates: str = "") -> dict[str, object]:
    book = run(xml, rules, {"gates": gates})
    assert not book.internal
    return {path.removeprefix("domain."): write.value for path, write in book.writes.items()}


@pytest.mark.parametrize("memory", ["1023 MiB", "1048577 KiB", "1025 MiB"])
def test_no_maximum_that_kubevirt_refuses(memory: str, run: Callable, rules: Rules) -> None:
    amount, unit = memory.split()
    xml = f"<memory unit='{unit}'>{amount}</memory><maxMemory slots='4' unit='GiB'>8</maxMemory>"
    assert "memory.maxGuest" not in grows(run, rules, xml)


def test_huge_pages_of_1gi_want_steps_of_1gi(run: Callable, rules: Rules) -> None:
    pages = "<memoryBacking><hugepages><page size='1' unit='GiB'/></hugepages></memoryBacking>"
    written = grows(run, rules, f"<memory unit='GiB'>3</memory><maxMemory slots='1' unit='MiB'>6500</maxMemory>{pages}")
    assert (written["memory.guest"], written["memory.maxGuest"]) == ("3Gi", "6Gi")


def test_the_nodes_numa_layout_rules_out_growing(run: Callable, rules: Rules) -> None:
    xml = (
        f"<memory unit='GiB'>2</memory><vcpu>2</vcpu><cputune>{PINS}</cputune><cpu><numa>{CELLS}</numa></cpu>"
        "<memoryBacking><hugepages/></memoryBacking>"
    )
    written = grows(run, rules, xml, "+CPUManager")
    assert written["cpu.numa.guestMappingPassthrough"] == {}
    assert "memory.maxGuest" not in written
    written = grows(run, rules, xml)
    assert "cpu.numa.guestMappingPassthrough" not in written
    assert written["memory.maxGuest"] == "2Gi"


@pytest.mark.parametrize(
    ("model", "requested", "guest"),
    [("dimm", "", "3Gi"), ("nvdimm", "", "2Gi"), ("virtio-mem", "<requested unit='MiB'>512</requested>", "2560Mi")],
)
def test_modules_count_as_far_as_the_guest_has_them(
    model: str, requested: str, guest: str, run: Callable, rules: Rules
) -> None:
    device = f"<memory model='{model}'><target><size unit='GiB'>1</size>{requested}</target></memory>"
    written = grows(run, rules, f"<memory unit='GiB'>3</memory><devices>{device}</devices>")
    assert written["memory.guest"] == guest


def test_no_hot_plug_on_other_architectures(run: Callable, rules: Rules) -> None:
    xml = "<memory unit='GiB'>4</memory><os><type arch='aarch64' machine='virt'>hvm</type></os>"
    assert "memory.maxGuest" not in grows(run, rules, xml)


@pytest.mark.parametrize(
    ("memory", "devices", "guest"),
    [("1000001", "", "977Mi"), ("1000001", "1025", "978Mi"), ("0", "1025", "4Mi")],
)
def test_bug_the_guest_got_less_than_libvirt_had_rounded_up_to(
    memory: str, devices: str, guest: str, run: Callable, rules: Rules
) -> None:
    module = f"<memory model='dimm'><target><size>{devices}</size></target></memory>" if devices else ""
    cell = "<cpu><numa><cell id='0' cpus='0' memory='1025'/></numa></cpu>" if memory == "0" else ""
    assert grows(run, rules, f"<memory>{memory}</memory>{cell}<devices>{module}</devices>")["memory.guest"] == guest
