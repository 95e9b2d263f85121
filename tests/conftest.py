"""What every test may use: the command as its users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["cluster.fixtures", "real.fixtures", "sources.fixtures"]

Command = Callable[..., subprocess.CompletedProcess[str]]

# mkfs.fat and libvirtd lie where only root's PATH leads.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept", action="store_true", help="Write the golden files anew.")
    parser.addoption("--kills", type=int, default=50, help="How often apply is killed at random points.")


@pytest.fixture
def kubevirt_migrate(tmp_path: Path) -> Command:
    """Runs the command in a process of its own, in `tmp_path`; `status` is the exit code it must end with."""

    def run(*args: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "migrate", *map(str, args)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == status, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    return run
