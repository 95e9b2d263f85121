"""What `explain` understands, and how it says that it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli import cli, domain

from migrate.explaining import explain
from migrate.model import SEVERITIES, Refused

SECOND = """<disk type='file'><driver name='qemu' type='raw'/><source file='/srv/b.raw'/>
<target dev='vdb' bus='scsi'/></disk>"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("explained")
    (home / "web.xml").write_text(domain(devices=SECOND))
    stock = home / "inventory"
    cli("collect", "files", home / "web.xml", "-d", stock)
    text = (stock / "inventory.json").read_text()
    (stock / "inventory.json").write_text(text.replace('"capacity": null', '"capacity": 1048576'))
    cli("plan", stock, "-d", home / "plan")
    return home / "plan"


@pytest.mark.parametrize(
    ("path", "leaves"),
    [
        ("devices.disk[1].target.bus", {"devices.disk[1].target.bus"}),
        ("devices.disk.target.bus", {"devices.disk[0].target.bus", "devices.disk[1].target.bus"}),
        ("spec.template.spec.domain.devices.disks[1].disk.bus", {"devices.disk[1].target.bus"}),
        ("spec.template.spec.domain.devices.disks[vdb].disk.bus", {"devices.disk[1].target.bus"}),
        ("VirtualMachine.spec.template.spec.domain.devices.disks[0].disk.bus", {"devices.disk[0].target.bus"}),
        ("domain.devices.disks[1].disk.bus", {"devices.disk[1].target.bus"}),
        ("domain.devices.interfaces[0].macAddress", {"devices.interface[0].mac.address"}),
        ("metadata.annotations[kubevirt-migrate/uuid]", {"uuid"}),
        ("metadata.annotations.kubevirt-migrate/uuid", {"uuid"}),
    ],
)
def test_a_path_as_either_file_has_it_leads_to_its_leaves(path: str, leaves: set[str], plan: Path) -> None:
    assert {line["path"] for line in explain(plan, "web", path)["leaves"]} == leaves


@pytest.mark.parametrize("item", ["0", "lahf_lm", "lahf-lm"])
def test_bug_a_cpu_feature_with_an_underscore_was_not_found(item: str, tmp_path: Path) -> None:
    cpu = "<cpu mode='custom'><model>Haswell</model><feature policy='require' name='lahf_lm'/></cpu>"
    (tmp_path / "web.xml").write_text(domain().replace("<cpu mode='host-model'/>", cpu))
    cli("plan", tmp_path / "web.xml", "-d", tmp_path / "plan")
    (line,) = explain(tmp_path / "plan", "web", f"domain.cpu.features[{item}].name")["leaves"]
    assert line["value"] == "lahf_lm"


@pytest.mark.parametrize(
    "path",
    [
        "web-vdb",
        "PersistentVolumeClaim[web-vdb]",
        "PersistentVolumeClaim[web-vdb].spec.resources",
        "PersistentVolumeClaim[vdb].spec.accessModes[0]",
        "spec.template.spec.volumes[1].persistentVolumeClaim.claimName",
        "volumes[vdb]",
    ],
)
def test_a_claim_is_found_by_its_name_key_and_position(path: str, plan: Path) -> None:
    found = {line["path"] for line in explain(plan, "web", path)["leaves"]}
    assert "devices.disk[1].source.file" in found
    assert not {leaf for leaf in found if leaf.startswith("devices.disk[0]")}


def test_the_whole_spec_is_more_than_one_field(plan: Path) -> None:
    assert len(explain(plan, "web", "spec")["leaves"]) > len(explain(plan, "web", "domain.memory")["leaves"]) > 0
    assert explain(plan, "web", "spec.runStrategy")["gains"]


@pytest.mark.parametrize(
    "path", ["", ".", "[", "devices.disk[9]", "spec.template.spec.domain.devices.disks[9]", "x" * 500]
)
def test_a_path_that_is_nowhere_is_refused_with_a_short_hint(path: str, plan: Path) -> None:
    with pytest.raises(Refused) as refusal:
        explain(plan, "web", path)
    assert len(str(refusal.value)) < len(path) + 200


def test_no_control_character_reaches_the_terminal(plan: Path) -> None:
    done = cli("explain", plan, "web", "\x1b[31m\x9b31m")
    assert done.returncode == 2
    assert done.stderr.rstrip("\n").isprintable()


@pytest.mark.parametrize("name", ["report.json", "web/ledger.jsonl"])
@pytest.mark.parametrize("text", [None, "", "[", "{}", "7"])
def test_a_plan_edited_into_nonsense_is_refused(name: str, text: str | None, plan: Path, tmp_path: Path) -> None:
    place = tmp_path / "plan"
    for file in ("report.json", "web/ledger.jsonl", "web/vm.yaml"):
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes((plan / file).read_bytes())
    (place / name).unlink() if text is None else (place / name).write_text(text)
    with pytest.raises(Refused):
        explain(place, "web", "domain.devices.disks[0].disk.bus")


def test_without_a_path_it_is_the_verdict_and_every_finding_the_worst_first(plan: Path) -> None:
    (row,) = json.loads((plan / "report.json").read_text())["vms"]
    found = explain(plan, "web")
    assert (found["vm"], found["verdict"]) == ("web", row["verdict"])
    assert sorted(item["key"] for item in found["findings"]) == sorted(item["key"] for item in row["findings"])
    order = [SEVERITIES.index(item["severity"]) for item in found["findings"]]
    assert len(set(order)) > 1
    assert order == sorted(order, reverse=True)
    done = cli("explain", plan, "web")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"web: {row['verdict']}\n")
    assert all(item["because"] in done.stdout and item["remedy"] in done.stdout for item in row["findings"])
    assert json.loads(cli("explain", plan, "web", "-o", "json").stdout) == found
