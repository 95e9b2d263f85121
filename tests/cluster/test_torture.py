"""`apply` on a cluster, killed with -9 at random moments, at times undone: all arrives, and all can be undone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster.double import Cluster
from cluster.test_apply import IMAGE, machines, names, on_cluster, planned
from conftest import Command
from real.host import Host, same

__all__ = ["on_cluster", "planned"]
SEED = 7


@pytest.mark.timeout(1800)
def test_killed_at_random_moments(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    images = {name: embedded.image(f"{name}.qcow2", "24M", "write -P 2 9M 3M") for name in ("one", "two")}
    for name, image in images.items():
        embedded.define(name, image)
    planned()
    there = ["--context", cluster.context, "--kubeconfig", str(cluster.kubeconfig), "--worker-image", IMAGE]
    command = [sys.executable, "-m", "migrate", "apply", "plan", *there, "--bandwidth", "16MiB"]
    chance, left = random.Random(SEED), request.config.getoption("--kills") // 5
    while True:
        running = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
        try:
            status = running.wait(chance.uniform(0.6, 4.5) if left else None)
        except subprocess.TimeoutExpired:
            os.kill(running.pid, signal.SIGKILL)
            running.wait()
            left -= 1
            if chance.random() < 0.2:
                on_cluster("undo", "--yes")
            continue
        assert status == 0
        for name, image in images.items():
            assert same(cluster.claim_path("vms", f"{name}-vda"), image)
        assert machines(cluster) == ["one", "two"]
        on_cluster("undo", "--yes")
        kinds = ("virtualmachines", "persistentvolumeclaims", "jobs", "pods")
        assert [names(cluster, kind) for kind in kinds] == [[], [], [], []]
        if not left:
            break
