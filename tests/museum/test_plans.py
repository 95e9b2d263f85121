"""What tools of this kind told of their plans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from migrate import decisions
from migrate.model import VM
from migrate.selection import Selection
from migrate.target.vocabulary import strict, target

DOMAINS = sorted((Path(__file__).parent.parent / "corpus" / "domains").glob("*.xml"))


def _vm(name: str) -> VM:
    return VM(name, "8f2a6a3e-6a0a-4c4b-9d1e-2f2a6c1b7d10", "libvirt", "s", "u")


@pytest.mark.parametrize("name", ["web-10", "xweb-1", "web-1.old", "WEB-1"])
def test_names_were_matched_with_unanchored_patterns(name: str) -> None:
    assert Selection.parse(["web-1"]).wants(_vm("web-1"))
    assert not Selection.parse(["web-1"]).wants(_vm(name))
    assert decisions.fits_vm("web-1", _vm("web-1"))
    assert not decisions.fits_vm("web-1", _vm(name))


@pytest.mark.parametrize("path", DOMAINS, ids=lambda path: path.stem)
def test_a_plan_was_ready_despite_critical_findings(path: Path, translated: Callable) -> None:
    plan = translated(path.read_text())
    severities = {finding.severity for finding in plan.all_findings()}
    worst = "blocked" if "blocker" in severities else "changed" if "warning" in severities else "ready"
    assert plan.verdict == worst


@pytest.mark.parametrize("path", DOMAINS, ids=lambda path: path.stem)
def test_fields_were_written_that_the_api_does_not_have(path: Path, translated: Callable) -> None:
    plan = translated(path.read_text())
    for manifest in (plan.manifest, *plan.claims):
        assert not strict(manifest, target("1.9"))
