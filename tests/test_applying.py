"""A plan that is carried out: what is refused of an edited one, and what the command says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_cli import cli, domain

from migrate import applying
from migrate.model import Unfinished
from migrate.selection import Selection
from migrate.transfer.file import DirectoryTarget


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    (tmp_path / "web.xml").write_text(domain())
    cli("plan", tmp_path / "web.xml", "-d", tmp_path / "plan")
    return tmp_path / "plan"


def edit(plan: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((plan / "plan.json").read_text())
    change(document)
    (plan / "plan.json").write_text(json.dumps(document))


def first(document: dict[str, Any]) -> dict[str, Any]:
    return document["vms"][0]


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.update(schema=2),
        lambda plan: plan.pop("schema"),
        lambda plan: plan.update(vms=None),
        lambda plan: first(plan).update(verdict="fine"),
        lambda plan: first(plan).update(verdict=7),
        lambda plan: first(plan).update(disks="x"),
        lambda plan: first(plan)["vm"].update(folder="../../x"),
        lambda plan: first(plan)["vm"].update(folder="-"),
        lambda plan: first(plan)["vm"].update(name="a\0b"),
        lambda plan: plan["vms"].append(first(plan)),
        lambda plan: first(plan)["disks"][0].update(path="/srv/\ud800"),
        lambda plan: first(plan)["disks"][0].update(bytes=1.5),
        lambda plan: first(plan)["disks"][0].update(more=1),
    ],
)
def test_a_plan_edited_into_nonsense_is_refused_in_one_line(change: Any, plan: Path, tmp_path: Path) -> None:
    edit(plan, change)
    for command in ("apply", "verify"):
        done = cli(command, plan, "--directory", tmp_path / "out")
        assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, ""), done.stderr
        assert "plan again" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "[", "null", "7", "[" * 100_000, "{}"])
def test_a_plan_that_is_no_plan_is_refused_in_one_line(text: str, plan: Path, tmp_path: Path) -> None:
    (plan / "plan.json").write_text(text)
    done = cli("apply", plan, "--directory", tmp_path / "out")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_disks_of_xml_files_are_left_out_also_where_the_plan_was_edited(plan: Path, tmp_path: Path) -> None:
    edit(plan, lambda document: first(document)["disks"][0].update(bytes=1 << 20))
    done = cli("apply", plan, "--directory", tmp_path / "out", "-o", "json")
    assert done.returncode == 1, done.stderr
    assert "has no disks" in json.loads(done.stdout)[0]["problem"]


@pytest.mark.parametrize("command", ["apply", "verify"])
def test_selecting_nothing_of_a_plan_is_refused(command: str, plan: Path, tmp_path: Path) -> None:
    done = cli(command, plan, "--directory", tmp_path / "out", "--select", "wob")
    assert done.returncode == 2
    assert "not one VM" in done.stderr


@pytest.mark.timeout(30)
def test_an_apply_that_nobody_follows_any_more_ends_though_disks_still_wait(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(plan, lambda document: first(document).update(disks=[first(document)["disks"][0]] * 4))
    moved = []

    def move(run: Any, *_: object) -> None:
        moved.append(run)
        assert len(moved) == 1 or run.stop.wait(20)
        raise Unfinished("not today")

    monkeypatch.setattr(applying, "_method", lambda *_: (SimpleNamespace(OPENS=False), None))
    monkeypatch.setattr(applying._Run, "_moved", move)
    outcomes = applying.apply(plan, DirectoryTarget(tmp_path / "out"), Selection(), lambda *_: None, jobs=1)
    next(outcomes)
    outcomes.close()
    assert len(moved) <= 2


@pytest.mark.parametrize(
    "args",
    [("-n", "shop"), ("--worker-image", "x"), ("--uploadproxy-url", "https://x"), ("--dry-run", "server")],
)
def test_what_only_a_cluster_has_was_taken_for_a_folder_and_not_heeded(
    args: tuple[str, str], plan: Path, tmp_path: Path
) -> None:
    done = cli("apply", plan, "--directory", tmp_path / "out", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert args[0] in done.stderr
    assert "with --context" in done.stderr


def test_run_without_a_folder_asked_for_a_cluster_that_it_does_not_take(tmp_path: Path) -> None:
    done = cli("run", "files", tmp_path)
    assert done.returncode == 2
    assert "--directory OUT" in done.stderr
    assert "--context" not in done.stderr


def test_a_vm_without_disks_was_passed_over_in_silence_and_waited_for_ever(tmp_path: Path) -> None:
    plan, out = tmp_path / "plan", tmp_path / "out"
    xml = domain()
    (tmp_path / "web.xml").write_text(xml[: xml.index("<disk")] + xml[xml.index("</disk>") + len("</disk>") :])
    cli("plan", tmp_path / "web.xml", "-d", plan)
    assert cli("status", plan).returncode == 3
    for args in (("apply", "--dry-run", "client"), ("apply",), ("verify",)):
        done = cli(args[0], plan, "--directory", out, *args[1:])
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "web: has no disks, so there is nothing to copy\n"
    assert cli("status", plan).returncode == 0
    (row,) = json.loads(cli("status", plan, "-o", "json").stdout)
    assert (row["state"], row["disks"], row["target"]) == ("done", [], f"directory:{out}")
