"""Names, annotations and the uuid."""

from __future__ import annotations

from collections.abc import Callable

from migrate.mapping.rules import Rules

ANNOTATIONS = "VirtualMachine.metadata.annotations"


def test_the_source_is_kept_with_the_vm(run: Callable, rules: Rules) -> None:
    written = {
        path: write.value
        for path, write in run("<name>A: b</name>", rules, {"site": {"namespace": "prod"}}).writes.items()
    }
    assert written["VirtualMachine.metadata.name"] == "vm"
    assert written["VirtualMachine.metadata.namespace"] == "prod"
    assert written[f"{ANNOTATIONS}[kubevirt-migrate/name]"] == "A: b"
    assert written[f"{ANNOTATIONS}[kubevirt-migrate/source]"] == "qemu://host/system"
    assert written[f"{ANNOTATIONS}[kubevirt-migrate/host]"] == "host"


def test_a_long_description_is_cut(run: Callable, rules: Rules) -> None:
    book = run(f"<description>{'x' * 70_000}</description>", rules)
    assert book.writes[f"{ANNOTATIONS}[kubevirt-migrate/description]"].value == "x" * 1000
    assert "domain-prose/cut" in {finding.id for entry in book.entries for finding in entry.findings}
