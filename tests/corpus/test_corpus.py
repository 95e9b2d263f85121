"""Domains of every kind, planned for the oldest and the newest KubeVirt: no crash, no leaf unsigned or unknown."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus.run import broken, leaves, main
from lxml import etree

from migrate import pipeline
from migrate.mapping import rule_files
from migrate.model import Translation
from migrate.selection import Selection
from migrate.site import Site
from migrate.sources import files
from migrate.target.vocabulary import target

DOMAINS = Path(__file__).parent / "domains"
# The hypervisors and architectures that the target has no place for.
BLOCKED = {"container", "xen-paravirtual", "power", "riscv"}


@pytest.fixture(scope="module", params=["1.3", "1.9"])
def plans(request: pytest.FixtureRequest) -> tuple[str, list[Translation]]:
    inventory = pipeline.opened([DOMAINS], Selection())
    found = list(pipeline.plan(inventory, rule_files.load(), target(request.param), Site()))
    assert all(isinstance(item, Translation) for item in found)
    return request.param, found


def test_every_plan_keeps_its_promises(plans: tuple[str, list[Translation]]) -> None:
    version, found = plans
    assert len(found) == len(list(DOMAINS.glob("*.xml"))) > 30
    wrong = [f"{plan.vm.name}: {what}" for plan in found for what in broken(plan, files.xml(plan.vm), target(version))]
    assert not wrong


def test_what_the_target_cannot_hold_is_blocked_and_still_accounted_for(plans: tuple[str, list[Translation]]) -> None:
    _, found = plans
    by_file = {Path(plan.vm.url).stem: plan for plan in found}
    assert {by_file[name].verdict for name in BLOCKED} == {"blocked"}
    assert all(by_file[name].entries for name in BLOCKED)


def test_leaves_are_attributes_texts_and_bare_elements() -> None:
    domain = "<domain a='1'> <b>text</b><c d='2'><!-- no --></c><e/><x:f xmlns:x='urn:none'><g h='3'/></x:f></domain>"
    assert leaves(etree.fromstring(domain)) == 5


def test_the_counts_are_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "good.xml").write_bytes((DOMAINS / "microvm.xml").read_bytes())
    (tmp_path / "pool.xml").write_text("<pool type='dir'/>")
    (tmp_path / "bad.xml").write_text("<domain>")
    assert main(tmp_path) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path}: 3 files, 1 domains" in said
    assert "refused: 2 (" in said
    assert "broken promises: 0" in said
