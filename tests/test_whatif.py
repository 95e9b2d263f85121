"""What another KubeVirt would change for a plan: verdicts and findings that come and go, from the plan folder alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from migrate import pipeline, reporting, whatif
from migrate import site as sites
from migrate.data import data_path
from migrate.mapping import rule_files
from migrate.model import Refused
from migrate.selection import Selection
from migrate.target.vocabulary import Target, target

DAY = date(2027, 1, 1)
SECRET = "hunter2-planted"
DOMAIN = """
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>{name}</name><uuid>{uuid}</uuid>
<memory unit='GiB'>2</memory><vcpu>2</vcpu><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
<cpu mode='host-model'/><devices>
  <interface type='bridge'><mac address='52:54:00:12:34:5{n}'/><source bridge='br0'/>{link}<model type='virtio'/>
  </interface>
  {devices}
</devices><qemu:commandline><qemu:env name='P' value='{secret}'/></qemu:commandline></domain>
"""
HOSTDEV = """<hostdev mode='subsystem' type='pci' managed='yes'><source>
<address domain='0' bus='6' slot='0' function='0'/></source></hostdev>"""
# KubeVirt takes a link that is down since 1.5.
LINK = "<link state='down'/>"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(data_path().resolve())}
COMMAND = (sys.executable, "-m", "migrate", "what-if")
SITE = """
networks: {"bridge:br0": {multus: net}}
hostDevices: {"pci:0000:06:00.0": a.b/c}
waivers: [{finding: "qemu-*", reason: known, until: 2027-06-30}]
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan for KubeVirt 1.9 of two VMs, one of which has a host device."""
    for n, (name, devices) in enumerate((("plain", ""), ("special", HOSTDEV))):
        uuid = f"8f2a6a3e-6a0a-4c4b-9d1e-2f2a6c1b7d1{n}"
        text = DOMAIN.format(name=name, uuid=uuid, n=n, devices=devices, link=LINK, secret=SECRET)
        (tmp_path / f"{name}.xml").write_text(text)
    (tmp_path / "site").write_text(SITE)
    site, planned = sites.load(tmp_path / "site"), target("1.9", "-HostDevices")
    inventory = pipeline.opened(sorted(tmp_path.glob("*.xml")), Selection.parse())
    items = pipeline.plan(inventory, rule_files.load(), planned, site, DAY)
    reporting.write_plan(tmp_path / "plan", items, planned, site.text)
    for path in tmp_path.glob("*.xml"):
        path.unlink()
    return tmp_path / "plan"


def ask(plan: Path, kubevirt: str | None = None, gates: str = "", *select: str) -> whatif.Answer:
    return whatif.ask(plan, kubevirt, gates, rule_files.load(), Selection.parse(select), DAY)


def test_nothing_changes_on_the_same_target_and_every_finding_is_found_again(plan: Path) -> None:
    answer = ask(plan)
    assert answer.before == answer.after == target("1.9", "-HostDevices")
    assert not answer.changes
    assert not answer.unseen
    report = json.loads((plan / "report.json").read_text())
    assert sorted(answer.verdicts.elements()) == sorted((row["verdict"],) * 2 for row in report["vms"])
    assert "0 of 2 VMs change" in whatif.text(answer)


def test_a_gate_that_is_switched_on_takes_its_finding_away_and_back(plan: Path) -> None:
    answer = ask(plan, None, "+HostDevices")
    (change,) = answer.changes
    assert (change.vm.name, change.before) == ("special", "blocked")
    assert change.after != "blocked"
    assert change.gone and not change.come
    assert answer.after == target("1.9", "+HostDevices")
    told = whatif.text(answer)
    assert f"special: blocked -> {change.after}" in told
    assert f"- blocker {change.gone[0].id}" in told
    assert "1 of 2 VMs change" in told


def test_an_older_version_brings_findings(plan: Path) -> None:
    answer = ask(plan, "1.3")
    assert answer.after == target("1.3", "-HostDevices")
    assert any(change.come for change in answer.changes)
    data = whatif.document(answer)
    assert data["after"] == {"kubevirt": "1.3", "featureGates": ["-HostDevices"]}
    json.dumps(data)


def test_only_the_selected_are_compared(plan: Path) -> None:
    assert sum(ask(plan, None, "+HostDevices", "plain").verdicts.values()) == 1


def test_the_plan_keeps_the_site_file_and_the_domain_without_its_secrets(plan: Path) -> None:
    assert (plan / "site.yaml").read_text() == SITE
    source = (plan / "plain/source.xml").read_text()
    assert "(redacted)" in source and "<name>plain</name>" in source
    assert not [path for path in plan.rglob("*") if path.is_file() and SECRET in path.read_text()]


def test_findings_that_other_rules_made_are_named_and_not_compared(plan: Path) -> None:
    report = json.loads((plan / "report.json").read_text())
    report["vms"][0]["findings"].append(report["vms"][0]["findings"][0] | {"id": "ours/odd", "key": "0"})
    (plan / "report.json").write_text(json.dumps(report))
    answer = ask(plan)
    assert answer.unseen == ["ours/odd"]
    assert "ours/odd" in whatif.text(answer)


@pytest.mark.parametrize("name", ["report.json", "plan.json"])
def test_a_folder_that_is_no_plan_is_refused(plan: Path, name: str) -> None:
    (plan / name).unlink()
    with pytest.raises(Refused, match="plan"):
        ask(plan)


@pytest.mark.parametrize(("spoil", "says"), [(None, "No such file"), ("<pool/>", "pool"), ("<domain", "XML")])
def test_bug_a_vm_whose_domain_cannot_be_read_was_dropped_in_silence(plan: Path, spoil: str | None, says: str) -> None:
    path = plan / "plain/source.xml"
    path.write_text(spoil) if spoil else path.unlink()
    answer = ask(plan)
    assert [item.name for item in answer.skipped] == ["plain"]
    assert says in answer.skipped[0].reason
    assert answer.verdicts.total() == 1 and not answer.changes
    done = subprocess.run([*COMMAND, str(plan)], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 1
    assert "skipped plain: " in done.stderr and says in done.stderr
    done = subprocess.run([*COMMAND, str(plan), "-o", "json"], capture_output=True, text=True, env=ENVIRONMENT)
    assert [item["name"] for item in json.loads(done.stdout)["skipped"]] == ["plain"]


def _spoilt(*keys: Any, value: Any) -> Any:
    def spoil(report: Any) -> None:
        for key in keys[:-1]:
            report = report[key]
        report[keys[-1]] = value

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        *(_spoilt("target", value=odd) for odd in (19, [], None)),
        *(_spoilt("target", "kubevirt", value=odd) for odd in (19, [], None)),
        *(_spoilt("target", "featureGates", value=odd) for odd in ([1], 1, None)),
        *(_spoilt("target", "emulatedMachines", value=odd) for odd in ([1], None)),
        *(_spoilt("target", "obsoleteCPUModels", value=odd) for odd in ([[]], None)),
        *(_spoilt("vms", value=odd) for odd in (1, [1], None)),
        *(_spoilt("vms", 0, "findings", value=odd) for odd in ([1], None, [{"key": [], "id": "a"}])),
        _spoilt("vms", 0, "findings", value=[{"key": "a", "id": 5}]),
        _spoilt("vms", 0, "folder", value={}),
    ],
)
def test_bug_a_report_of_other_types_was_our_bug(plan: Path, spoil: Any) -> None:
    report = json.loads((plan / "report.json").read_text())
    spoil(report)
    (plan / "report.json").write_text(json.dumps(report))
    with pytest.raises(Refused, match="is no report"):
        ask(plan)


def test_a_folder_name_out_of_the_plan_is_refused(plan: Path) -> None:
    text = (plan / "plan.json").read_text()
    (plan / "plan.json").write_text(text.replace('"folder":"plain"', '"folder":"../plan/plain"'))
    with pytest.raises(Refused, match="no DNS label"):
        ask(plan)


def test_the_command_tells_in_text_and_json(plan: Path) -> None:
    command = [*COMMAND, str(plan), "--feature-gates", "+HostDevices"]
    before = {path: path.read_bytes() for path in plan.rglob("*") if path.is_file()}
    done = subprocess.run([*command, "-o", "json"], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert [row["folder"] for row in json.loads(done.stdout)["vms"]] == ["special"]
    assert "special: blocked ->" in subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT).stdout
    assert before == {path: path.read_bytes() for path in plan.rglob("*") if path.is_file()}
    bad = subprocess.run([*command, "--kubevirt", "0.1"], capture_output=True, text=True, env=ENVIRONMENT)
    assert bad.returncode == 2


def test_the_namespace_and_the_clusters_settings_of_a_plan_count_for_what_if(plan: Path, tmp_path: Path) -> None:
    site = sites.moved(sites.load(tmp_path / "site"), "elsewhere")
    inventory = pipeline.opened([plan / "plain/source.xml"], Selection.parse())
    planned = Target(
        "1.9",
        machines=frozenset({"amd64/pc-i440fx*"}),
        vga_for_efi=True,
        plugins=frozenset({"a/tap"}),
        obsolete=frozenset({"Conroe"}),
    )
    items = pipeline.plan(inventory, rule_files.load(), planned, site, DAY)
    reporting.write_plan(tmp_path / "second", items, planned, site.text)
    assert sites.load(tmp_path / "second/site.yaml").namespace == "elsewhere"
    answer = whatif.ask(tmp_path / "second", None, "", rule_files.load(), Selection.parse(), DAY)
    assert answer.before == answer.after == planned
    assert set(answer.verdicts) == {("blocked", "blocked")}
