"""The worker reads a claim back as the copy does, and its image is what Containerfile says."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import worker
from migrate.transfer._copy import read_back

MIB = 1 << 20
TOP = Path(__file__).parents[2]
SIZES = st.integers(1, 24 * 2048).map(lambda sectors: sectors * 512)


def image(path: Path, size: int, data: list[tuple[int, int]], behind: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size + behind)
        for start, length in data:
            file.seek(start % size)
            file.write(random.Random(start).randbytes(min(length, size - start % size)))
    return path


@given(SIZES, st.lists(st.tuples(st.integers(0, 24 * MIB), st.integers(1, 5 * MIB)), max_size=3), st.integers(0, MIB))
def test_the_worker_computes_the_tree_of_the_copy(size: int, data: list[tuple[int, int]], behind: int) -> None:
    path = image(Path(os.environ["WORKER_IMAGE"]), size, data, behind)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        tree = read_back(descriptor, size)
    finally:
        os.close(descriptor)
    assert worker.look(str(path), size) == {"size": size + behind, "root": tree.root, "tail": None}


@pytest.fixture(autouse=True, scope="module")
def _place(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["WORKER_IMAGE"] = str(tmp_path_factory.mktemp("worker") / "disk.img")


def test_data_behind_the_disk_is_found(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", 8 * MIB, [(0, 512)], 3 * MIB)
    with path.open("r+b") as file:
        file.seek(10 * MIB + 5)
        file.write(b"x")
    tail = worker.look(str(path), 8 * MIB)["tail"]
    assert isinstance(tail, int) and 8 * MIB <= tail <= 10 * MIB + 5


def test_a_claim_that_is_shorter_than_the_disk_has_no_root(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", MIB, [(0, 512)], 0)
    assert worker.look(str(path), 2 * MIB) == {"size": MIB, "root": None, "tail": None}


def test_the_worker_needs_the_standard_library_alone() -> None:
    names = set(re.findall(r"^(?:from|import) ([a-z_]+)", Path(worker.__file__).read_text(), re.MULTILINE))
    assert names - {"__future__"} <= set(sys.stdlib_module_names)


def test_the_steps_of_the_containerfile_make_a_worker_that_runs(tmp_path: Path) -> None:
    steps = [line.split(None, 1) for line in (TOP / "Containerfile").read_text().splitlines() if line[:1].isupper()]
    assert [name for name, _ in steps] == ["FROM", "WORKDIR", "COPY", "USER", "ENTRYPOINT"]
    rest = dict(steps)
    root = tmp_path / "root"
    place = root / rest["WORKDIR"].strip("/")
    *sources, target = shlex.split(rest["COPY"])
    (place / target).mkdir(parents=True)
    for source in sources:
        shutil.copy(TOP / source, place / target)
    disk = image(tmp_path / "disk.img", 8 * MIB, [(MIB, 3 * MIB)], MIB)
    python, *command = json.loads(rest["ENTRYPOINT"])
    assert python == "python3"
    given = [f"--size={8 * MIB}", f"--path={disk}", f"--message={tmp_path / 'message'}"]
    # Isolated from the modules of the tests; where it stands is all that it has.
    alone = [sys.executable, "-S", *command, *given]
    done = subprocess.run(alone, cwd=place, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "message").read_text())
    assert found == worker.look(str(disk), 8 * MIB)
    assert done.stdout.splitlines()[0].startswith("0 ")
    assert len((tmp_path / "message").read_bytes()) < 4096
    missing = subprocess.run(
        [*alone, "--path=/nowhere"], cwd=place, env={"PYTHONPATH": "."}, capture_output=True, check=False
    )
    assert missing.returncode == 1
    assert "No such file" in json.loads((tmp_path / "message").read_text())["problem"]
