"""What `make` and the set-up promise beside their work, which `make test` and the demo show."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]


def run(*command: object, path: str | None = None, cwd: Path = TOP) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    return subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_make_alone_says_what_there_is() -> None:
    said = run("make").stdout
    assert all(f"make {target} " in said for target in ("demo", "test", "bench", "lint", "vocabulary"))


def test_second_set_up_installs_nothing_and_says_so() -> None:
    run(TOP / "tools/setup.sh", "test")
    done = run(TOP / "tools/setup.sh", "test")
    assert done.returncode == 0
    assert "installing" not in done.stderr
    assert "all" in done.stderr and "up to date" in done.stderr


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A checkout on a system without apt-get, with a PATH of few commands."""
    (tmp_path / "tools").mkdir()
    shutil.copy(TOP / "tools/setup.sh", tmp_path / "tools")
    (tmp_path / "bin").mkdir()
    for command in ("bash", "dirname", "id", "getent", "cat", "sha256sum"):
        (tmp_path / "bin" / command).symlink_to(shutil.which(command))
    return tmp_path


def test_other_systems_are_told_what_to_install(elsewhere: Path) -> None:
    done = run(elsewhere / "tools/setup.sh", "demo", path=f"{elsewhere}/bin", cwd=elsewhere)
    assert done.returncode == 2
    assert "qemu-nbd" in done.stderr.splitlines()[-1] and "libvirt-daemon-driver-qemu" in done.stderr.splitlines()[-1]
    assert not (elsewhere / ".venv").exists()


def test_purpose_must_be_known() -> None:
    done = run(TOP / "tools/setup.sh", "all")
    assert done.returncode == 2
    assert "demo|test" in done.stderr
