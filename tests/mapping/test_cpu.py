"""vCPUs: never multiplied, never lost, whatever the topology says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.mapping.rules import Rules

SMALL = st.integers(1, 4)


def shape(run: Callable, rules: Rules, xml: str) -> tuple[int, int, int, int]:
    book = run(xml, rules)
    assert not book.internal
    return tuple(book.writes[f"domain.cpu.{name}"].value for name in ("sockets", "cores", "threads", "maxSockets"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SMALL, SMALL, SMALL, SMALL, st.data())
def test_a_topology_holds_the_vcpus(
    run: Callable, rules: Rules, sockets: int, dies: int, cores: int, threads: int, data: st.DataObject
) -> None:
    most = sockets * dies * cores * threads
    now = data.draw(st.integers(1, most))
    topology = f"<topology sockets='{sockets}' dies='{dies}' cores='{cores}' threads='{threads}'/>"
    written = shape(run, rules, f"<vcpu current='{now}'>{most}</vcpu><cpu mode='host-model'>{topology}</cpu>")
    per_socket = written[1] * written[2]
    assert written[1:] == (dies * cores, threads, sockets)
    assert now <= written[0] * per_socket < now + per_socket


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 64), SMALL, SMALL, SMALL)
def test_the_number_of_vcpus_wins_over_the_topology(
    run: Callable, rules: Rules, vcpus: int, sockets: int, cores: int, threads: int
) -> None:
    topology = f"<topology sockets='{sockets}' cores='{cores}' threads='{threads}'/>"
    written = shape(run, rules, f"<vcpu>{vcpus}</vcpu><cpu mode='host-model'>{topology}</cpu>")
    assert written[0] * written[1] * written[2] == written[3] * written[1] * written[2] == vcpus


@pytest.mark.parametrize("current", ["0", "5", "-1", "many"])
def test_counts_that_libvirt_refuses_block(current: str, run: Callable, rules: Rules) -> None:
    book = run(f"<vcpu current='{current}'>4</vcpu>", rules)
    assert "cpu-topology/unreadable" in {finding.id for entry in book.entries for finding in entry.findings}


def test_a_domain_without_a_cpu_is_told_what_it_gets(run: Callable, rules: Rules) -> None:
    arm = "<os><type arch='aarch64' machine='virt'>hvm</type></os>"
    gains = {gain.path: gain.value for gain in run(arm, rules).gains}
    assert gains["domain.cpu.model"] == "host-passthrough"


@pytest.mark.parametrize("name", ["Denverton-v3", "KnightsMill", "YongFeng-v1", "EPYC-Turin", "Haswell-noTSX-IBRS"])
def test_the_models_of_x86_that_libvirt_knows_are_kept(name: str, run: Callable, rules: Rules) -> None:
    assert run(f"<cpu><model>{name}</model></cpu>", rules).writes["domain.cpu.model"].value == name


def test_overcommit_is_said_of_guests_without_dedicated_cpus(run: Callable, rules: Rules) -> None:
    pinned = "<vcpu>2</vcpu><cputune><vcpupin vcpu='0' cpuset='4'/><vcpupin vcpu='1' cpuset='5'/></cputune>"
    told = [
        {gain.path: gain.value for gain in run(pinned, rules, {"gates": gates}).gains}.get(
            "domain.resources.requests.cpu"
        )
        for gates in ("", "+CPUManager")
    ]
    assert told == ["200m", None]


def test_vcpus_that_are_there_from_the_start_are_not_added_later(run: Callable, rules: Rules) -> None:
    book = run("<vcpu current='1'>8</vcpu><cpu><topology sockets='1' cores='4' threads='2'/></cpu>", rules)
    found = {finding.id for entry in book.entries for finding in entry.findings if finding.rule == "cpu-topology"}
    assert found == {"cpu-topology/rounded"}


def test_pinned_arm64_guests_have_no_room_that_keeps_them_from_starting(run: Callable, rules: Rules) -> None:
    pins = "<cputune><vcpupin vcpu='0' cpuset='4'/><vcpupin vcpu='1' cpuset='5'/></cputune>"
    arm = f"<vcpu>2</vcpu>{pins}<os><type arch='aarch64' machine='virt'>hvm</type></os>"
    book = run(arm, rules, {"gates": "+CPUManager"})
    assert "domain.cpu.dedicatedCpuPlacement" in book.writes
    assert "domain.cpu.maxSockets" not in book.writes
