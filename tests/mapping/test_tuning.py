"""CPU sets, and which pinning means CPUs of the guest's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from migrate.mapping.rules import Rules
from migrate.mapping.tuning import cpus


@pytest.mark.parametrize(
    ("text", "found"),
    [("3", {3}), ("0-3,^2", {0, 1, 3}), (" 1, 4-5 ", {1, 4, 5}), ("", set()), ("1-x", set()), ("0,0-1", {0, 1})],
)
def test_a_cpu_set(text: str, found: set[int]) -> None:
    assert cpus(text) == found


@pytest.mark.parametrize(
    ("pins", "topology", "dedicated"),
    [
        (("4", "5"), "", True),
        (("4", "4"), "", False),
        (("4",), "", False),
        (("4", "5-6"), "", False),
        (("4", "5", "6"), "", False),
        (("4", "5", "6"), "<topology sockets='1' cores='1' threads='3'/>", False),
    ],
)
def test_only_one_cpu_for_each_vcpu_is_dedicated(
    pins: tuple[str, ...], topology: str, dedicated: bool, run: Callable, rules: Rules
) -> None:
    count = 3 if topology else 2
    pinned = "".join(f"<vcpupin vcpu='{vcpu}' cpuset='{place}'/>" for vcpu, place in enumerate(pins))
    cpu = f"<cpu mode='host-model'>{topology}</cpu>"
    book = run(f"<vcpu>{count}</vcpu><cputune>{pinned}</cputune>{cpu}", rules, {"gates": "+CPUManager"})
    assert ("domain.cpu.dedicatedCpuPlacement" in book.writes) is dedicated


def test_a_quota_is_told_as_the_limit_it_would_be(run: Callable, rules: Rules) -> None:
    book = run("<vcpu>4</vcpu><cputune><quota>25000</quota></cputune>", rules)
    found = [finding for entry in book.entries for finding in entry.findings if finding.rule == "cpu-quota"]
    assert "limits.cpu: 1.00" in found[0].because


def test_what_only_counts_is_no_loss_and_a_share_beside_it_is_one(run: Callable, rules: Rules) -> None:
    shared = "<cachetune vcpus='0'><cache id='0' level='3' size='3'/><monitor level='3' vcpus='0'/></cachetune>"
    book = run(f"<cputune>{shared}<cachetune vcpus='1'><monitor level='3' vcpus='1'/></cachetune></cputune>", rules)
    fates = {entry.path: entry.fate for entry in book.entries if entry.rule == "cpu-cache-bandwidth"}
    assert fates["cputune.cachetune[0].vcpus"] == fates["cputune.cachetune[0].cache[0].size"] == "flag"
    assert fates["cputune.cachetune[0].monitor[0].level"] == fates["cputune.cachetune[1].vcpus"] == "ignore"
