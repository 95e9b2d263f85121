"""`apply` killed with -9 at random points: 50 here, 500 in `make torture`."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from real.host import Command, Host
from real.torture import CONNECTIONS, FLUSH

BLOCK, BLOCKS = 4 << 20, 16
KIB = 1 << 10


@pytest.mark.timeout(7200)
def test_killed_at_random_points_every_byte_arrives_and_few_are_sent_twice(
    embedded: Host, kubevirt_migrate: Command, tmp_path: Path, site: Path, kills: int
) -> None:
    content, image = random.Random(1).randbytes(BLOCKS * BLOCK), embedded.folder / "disk.raw"
    image.write_bytes(content)
    embedded.define("vm", image)
    kubevirt_migrate("collect", "libvirt", embedded.uri, "-d", "inventory")
    kubevirt_migrate("plan", "inventory", "--site", site, "-d", "plan")

    script = Path(__file__).with_name("torture.py")
    command = [script, "plan", "claims", "real/vm-vda/disk.img", kills, kills, len(content)]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert found["killed"] == kills
    assert found["digests"] == [hashlib.blake2b(content).hexdigest()]
    journal = (kills + found["arrived"]) * 16 * KIB
    again = kills * (CONNECTIONS + FLUSH) * BLOCK
    assert found["written"] <= found["arrived"] * len(content) + again + journal
