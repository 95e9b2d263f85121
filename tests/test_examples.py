"""Every example runs as its page says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.target.vocabulary import strict, target

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where an example works. The libvirt it leaves for its reader is taken away."""
    yield tmp_path
    root = (tmp_path / "libvirt").resolve()
    if root.is_dir():
        subprocess.run(["rm", "-rf", root], check=True)


def run(*command: object, status: int = 0) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def entries(plan: Path) -> list[dict]:
    return [json.loads(line) for path in plan.glob("*/ledger.jsonl") for line in path.read_text().splitlines()]


def test_fleet_is_planned_applied_and_verified_twice(folder: Path) -> None:
    import yaml

    for _ in range(2):
        said = run(EXAMPLES / "fleet/run.sh", folder)
    assert said.count("verified") == 7

    report = json.loads((folder / "plan/report.json").read_text())
    assert {vm["name"]: vm["verdict"] in ("ready", "changed") for vm in report["vms"]} == {
        "Office Win11": True,
        "db-1": True,
        "web-1": True,
    }
    assert [entry["path"] for entry in entries(folder / "plan") if entry["rule"] == "unknown"] == []
    assert [vm["coverage"]["unknown"] for vm in report["vms"]] == [0, 0, 0]
    manifests = [
        manifest
        for name in ("vm.yaml", "claims.yaml")
        for path in folder.glob(f"plan/*/{name}")
        for manifest in yaml.safe_load_all(path.read_text())
    ]
    assert {manifest["kind"] for manifest in manifests} == {"VirtualMachine", "PersistentVolumeClaim"}
    assert [problem for manifest in manifests for problem in strict(manifest, target("1.9"))] == []


def test_one_vm_in_one_command(folder: Path) -> None:
    assert "verified" in run(EXAMPLES / "one-vm/run.sh", folder)
    assert (folder / "claims/apps/app-1-vda/disk.img").stat().st_size == 2 << 30


def test_plan_in_ci_fails_on_what_nobody_accepted(tmp_path: Path) -> None:
    check = EXAMPLES / "in-ci/check.py"
    run(sys.executable, check, tmp_path)

    copy = tmp_path / "in-ci"
    subprocess.run(["cp", "-r", EXAMPLES / "in-ci", copy], check=True)
    domain = copy / "domains/shop.xml"
    domain.write_text(domain.read_text().replace("</devices>", "<sound model='es1370'/></devices>"))
    assert "sound" in run(sys.executable, copy / "check.py", tmp_path, status=1)
    run(sys.executable, copy / "check.py", tmp_path, "--accept")
    run(sys.executable, copy / "check.py", tmp_path)
