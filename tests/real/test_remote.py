"""The main job on a host that is reached over the network alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real.host import Command
from sources.daemon import disk
from sources.elsewhere import IMAGES, Host

MIB = 1 << 20


@pytest.fixture
def web(elsewhere: Host) -> Host:
    """Its VM `web` has two disks in a pool, qcow2 on another one and raw."""
    elsewhere.pool()
    base = elsewhere.image("base.qcow2", "write -P 1 0 1M", "write -P 2 40M 1M", size="64M")
    top = elsewhere.image("top.qcow2", "write -P 3 512k 1M", "write -z 40M 512k", size="96M", backing=str(base))
    raw = elsewhere.image("plain.raw", "write -P 5 31M 1M", size="32M", format="raw")
    elsewhere.pool()
    elsewhere.define("web", disk(top) + disk(raw, "vdb", "raw"))
    return elsewhere


def same(host: Host, claim: Path, image: str, format: str) -> bool:
    """Whether the host's QEMU reads the same bytes from its image as from what arrived."""
    arrived = host.folder / "arrived.raw"
    claim.rename(arrived)
    try:
        host.run("qemu-img", "compare", "-q", "-f", "raw", "-F", format, "/srv/arrived.raw", IMAGES / image)
    except subprocess.CalledProcessError:
        return False
    finally:
        arrived.rename(claim)
    return True


@pytest.mark.parametrize("way", ["ssh", "tcp"])
def test_every_byte_of_every_disk_arrives(
    web: Host, kubevirt_migrate: Command, tmp_path: Path, site: Path, way: str
) -> None:
    kubevirt_migrate("collect", "libvirt", web.url() if way == "ssh" else web.tcp_url, "-d", "inventory")
    kubevirt_migrate("plan", "inventory", "--site", site, "-d", "plan")
    report = json.loads((tmp_path / "plan/report.json").read_bytes())
    spooled = [finding for vm in report["vms"] for finding in vm["findings"] if finding["id"] == "transfer/spool"]
    assert len(spooled) == (0 if way == "ssh" else 2)
    kubevirt_migrate("apply", "plan", "--directory", "claims")
    kubevirt_migrate("verify", "plan", "--directory", "claims")
    assert same(web, tmp_path / "claims/real/web-vda/disk.img", "top.qcow2", "qcow2")
    assert same(web, tmp_path / "claims/real/web-vdb/disk.img", "plain.raw", "raw")
    assert web.servers() == []


def test_a_killed_copy_over_ssh_goes_on(elsewhere: Host, kubevirt_migrate: Command, tmp_path: Path, site: Path) -> None:
    elsewhere.define("large", disk(elsewhere.image("large.qcow2", "write -P 8 0 256M", size="256M")))
    kubevirt_migrate("collect", "libvirt", elsewhere.url(), "-d", "inventory")
    kubevirt_migrate("plan", "inventory", "--site", site, "-d", "plan")
    command = [sys.executable, "-m", "migrate", "apply", "plan", "--directory", "claims"]
    running = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    journal = tmp_path / "plan/journal.jsonl"
    while not (journal.exists() and b'"kind":"chunks"' in journal.read_bytes()):
        assert running.poll() is None, "apply ended before it recorded a chunk"
        time.sleep(0.001)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    while elsewhere.servers():
        time.sleep(0.1)
    kubevirt_migrate("apply", "plan", "--directory", "claims")
    lines = [json.loads(line) for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert not [line for line in lines if line["kind"] == "void"]
    assert same(elsewhere, tmp_path / "claims/real/large-vda/disk.img", "large.qcow2", "qcow2")


def test_what_nothing_reaches_is_blocked_in_the_plan(
    elsewhere: Host, kubevirt_migrate: Command, tmp_path: Path, site: Path
) -> None:
    elsewhere.define("web", disk(elsewhere.image("a.qcow2")))
    kubevirt_migrate("collect", "libvirt", elsewhere.tcp_url, "-d", "inventory")
    kubevirt_migrate("plan", "inventory", "--site", site, "-d", "plan", status=1)
    (vm,) = json.loads((tmp_path / "plan/report.json").read_bytes())["vms"]
    (unfit,) = [finding for finding in vm["findings"] if finding["id"] == "transfer/unfit"]
    assert "qemu+ssh" in unfit["because"]
    assert vm["verdict"] == "blocked"
