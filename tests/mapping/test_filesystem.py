"""Folders of the host: the claim that takes their place, and the tag by which the guest mounts it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from migrate.mapping.rules import Rules

FOLDER = "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/www'/><target dir='{}'/></filesystem>"
DISK = "<disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk>"
SITE = {"site": {"filesystems": {"/srv/www": "www-files"}}, "gates": "+EnableVirtioFsStorageVolumes"}


def test_a_tag_that_is_the_name_of_a_disk_gets_another(run: Callable, rules: Rules) -> None:
    book = run(f"<devices>{DISK}{FOLDER.format('vda')}</devices>", rules, SITE)
    assert book.writes["volumes[vda].persistentVolumeClaim.claimName"].value == "vm-vda"
    assert book.writes["volumes[fs-vda].persistentVolumeClaim.claimName"].value == "www-files"
    assert "filesystem-claim/tag" in {finding.id for entry in book.entries for finding in entry.findings}
    assert not book.internal


@pytest.mark.parametrize(
    ("kubevirt", "gates", "served"),
    [
        ("1.4", "+ExperimentalVirtiofsSupport", True),
        ("1.4", "", False),
        ("1.5", "+EnableVirtioFsStorageVolumes", True),
        ("1.9", "", False),
    ],
)
def test_the_gate_that_shares_claims_is_another_since_1_5(
    kubevirt: str, gates: str, served: bool, run: Callable, rules: Rules
) -> None:
    book = run(f"<devices>{FOLDER.format('www')}</devices>", rules, SITE | {"kubevirt": kubevirt, "gates": gates})
    assert ("domain.devices.filesystems[www].virtiofs" in book.writes) is served


@pytest.mark.parametrize(("kubevirt", "gain"), [("1.4", "virtiofs before KubeVirt 1.5"), ("1.5", None)])
def test_a_guest_with_a_folder_moves_between_nodes_since_1_5(
    kubevirt: str, gain: str | None, run: Callable, rules: Rules
) -> None:
    gates = "+ExperimentalVirtiofsSupport" if kubevirt == "1.4" else "+EnableVirtioFsStorageVolumes"
    book = run(f"<devices>{FOLDER.format('www')}</devices>", rules, SITE | {"kubevirt": kubevirt, "gates": gates})
    assert {gain.path: gain.value for gain in book.gains}.get("evictionStrategy") == gain
