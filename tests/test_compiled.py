"""The compiled build: it makes of every domain what the Python makes that it is compiled from."""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
SUITES = ("mapping", "golden", "corpus", "museum", "target", "test_state.py", "test_whatif.py", "test_secrets.py")
DOMAINS = ("tests/corpus/domains", "tests/golden", "examples")


def python(*arguments: object, path: str = "") -> subprocess.CompletedProcess[str]:
    """A run of this Python that takes the package from a folder, else the checkout's."""
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=TOP, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def compiled() -> str:
    """The folder of the compiled build."""
    return subprocess.run([TOP / "tools/compiled.sh"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@pytest.mark.timeout(1200)
def test_what_translates_is_compiled(compiled: str) -> None:
    modules = ("mapping.ledger", "mapping.disk", "mapping.rules", "target.vocabulary", "target.admission.storage")
    names = [f"migrate.{name}" for name in modules]
    program = f"import sys, {', '.join(names)}\nfor name in {names}: print(sys.modules[name].__file__)"
    files = python("-c", program, path=compiled).stdout.split()
    assert len(files) == len(modules)
    assert all(file.startswith(f"{compiled}/migrate/") and file.endswith(".so") for file in files)


@pytest.mark.timeout(1200)
def test_its_plans_are_the_same_byte_for_byte(compiled: str, tmp_path: Path) -> None:
    site = TOP / "tests/golden/site.yaml"
    for version in ("1.3", "1.9"):
        for name, path in (("plain", ""), ("compiled", compiled)):
            folder = tmp_path / version / name
            plan = ("plan", *DOMAINS, "--site", site, "--kubevirt", version, "-d", folder)
            done = python("-m", "migrate", *plan, path=path)
            assert done.returncode == 1, done.stderr
        assert len(list((tmp_path / version / "plain").rglob("ledger.jsonl"))) > 40
        assert not list(_differing(filecmp.dircmp(tmp_path / version / "plain", tmp_path / version / "compiled")))


def _differing(compared: filecmp.dircmp) -> list[str]:
    here = [f"{compared.left}/{name}" for name in (*compared.left_only, *compared.right_only, *compared.funny_files)]
    _, unequal, unread = filecmp.cmpfiles(compared.left, compared.right, compared.common_files, shallow=False)
    return [*here, *unequal, *unread, *(found for below in compared.subdirs.values() for found in _differing(below))]


@pytest.mark.timeout(1200)
def test_the_suites_of_the_mapping_pass_on_it(compiled: str) -> None:
    suites = [f"tests/{suite}" for suite in SUITES]
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", *suites, path=compiled)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout.splitlines()[-1]
