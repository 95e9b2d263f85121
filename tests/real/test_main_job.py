"""The main job on a real libvirt: collect, plan, apply and verify, and what may come between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from real.host import Command, Host, same, write

CHUNK = 4 << 20
LARGE = 512 << 20


def plan(kubevirt_migrate: Command, host: Host, site: Path, name: str) -> None:
    kubevirt_migrate("collect", "libvirt", host.uri, "--select", name, "-d", "inventory")
    kubevirt_migrate("plan", "inventory", "--site", site, "-d", "plan")


def records(tmp_path: Path, kind: str) -> list[dict]:
    lines = (tmp_path / "plan/journal.jsonl").read_bytes().splitlines(keepends=True)
    return [record for line in lines if line.endswith(b"\n") for record in [json.loads(line)] if record["kind"] == kind]


def kill_in_mid_copy(tmp_path: Path) -> None:
    """Applies the plan and kills the command once the first chunks of the first disk are recorded."""
    command = [sys.executable, "-m", "migrate", "apply", "plan", "--directory", "claims"]
    running = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    journal = tmp_path / "plan/journal.jsonl"
    while not (journal.exists() and b'"kind":"chunks"' in journal.read_bytes()):
        assert running.poll() is None, "apply ended before it recorded a chunk"
        time.sleep(0.001)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not list(tmp_path.rglob("disk.img"))


def test_every_byte_of_every_disk_arrives(host: Host, kubevirt_migrate: Command, tmp_path: Path, site: Path) -> None:
    base = host.image("base.qcow2", "64M", "write -P 1 0 1M", "write -P 2 40M 1M")
    images = [
        host.image("top.qcow2", "96M", "write -P 3 512k 1M", "write -z 40M 512k", "write -P 4 95M 1M", base=base),
        host.image("plain.raw", "32M", "write -P 5 31M 1M", format="raw"),
        host.image("empty.qcow2", "16M"),
        host.image("odd.qcow2", "10485248", "write -P 6 10484736 512"),
    ]
    sizes = [96 << 20, 32 << 20, 16 << 20, 10485248]
    host.define("varied", *images)
    plan(kubevirt_migrate, host, site, "varied")
    kubevirt_migrate("apply", "plan", "--directory", "claims")
    kubevirt_migrate("verify", "plan", "--directory", "claims")

    for index, image in enumerate(images):
        claim = tmp_path / f"claims/real/varied-vd{'abcd'[index]}/disk.img"
        assert same(claim, image), image.name
        assert claim.stat().st_size == sizes[index]
        assert claim.stat().st_blocks * 512 < 5 << 20, f"{claim} is not sparse"

    claim = tmp_path / "claims/real/varied-vdb/disk.img"
    damage(claim, b"x")
    assert "varied-vdb" in kubevirt_migrate("verify", "plan", "--directory", "claims", status=4).stderr


def damage(claim: Path, data: bytes) -> None:
    with claim.open("r+b") as file:
        file.seek(20 << 20)
        file.write(data)


def test_bug_what_verify_found_was_forgotten_by_status_and_apply(
    host: Host, kubevirt_migrate: Command, tmp_path: Path, site: Path
) -> None:
    image = host.image("plain.raw", "32M", "write -P 5 31M 1M", format="raw")
    host.define("plain", image)
    plan(kubevirt_migrate, host, site, "plain")
    to = ("plan", "--directory", "claims")
    kubevirt_migrate("apply", *to)
    claim = tmp_path / "claims/real/plain-vda/disk.img"

    damage(claim, b"x")
    kubevirt_migrate("verify", *to, status=4)
    (row,) = json.loads(kubevirt_migrate("status", "plan", "-o", "json", status=3).stdout)
    assert row["state"] == "unverified"
    assert "byte 20971520" in row["disks"][0]["evidence"]["unverified"]
    damage(claim, b"\0")
    kubevirt_migrate("verify", *to)
    kubevirt_migrate("status", "plan")

    damage(claim, b"x")
    kubevirt_migrate("verify", *to, status=4)
    assert "move what is there away" in kubevirt_migrate("apply", *to, status=4).stderr
    claim.rename(tmp_path / "damaged.img")
    kubevirt_migrate("apply", *to)
    kubevirt_migrate("verify", *to)
    assert same(claim, image)


def test_one_shot_moves_one_vm(host: Host, kubevirt_migrate: Command, tmp_path: Path, site: Path) -> None:
    image = host.image("one.qcow2", "32M", "write -P 7 1M 1M")
    host.define("one", image)
    host.define("other", host.image("other.qcow2", "32M"))
    kubevirt_migrate("run", "libvirt", host.uri, "--select", "one", "--site", site, "--directory", "claims")
    assert same(tmp_path / "claims/real/one-vda/disk.img", image)
    assert not (tmp_path / "claims/real/other-vda").exists()


def test_killed_copy_goes_on(embedded: Host, kubevirt_migrate: Command, tmp_path: Path, site: Path) -> None:
    image = embedded.image("large.qcow2", str(LARGE), f"write -P 8 0 {LARGE}")
    embedded.define("large", image)
    plan(kubevirt_migrate, embedded, site, "large")
    kill_in_mid_copy(tmp_path)
    earlier = sum(len(record["chunks"]) for record in records(tmp_path, "chunks"))

    kubevirt_migrate("apply", "plan", "--directory", "claims")
    assert same(tmp_path / "claims/real/large-vda/disk.img", image)
    assert earlier > 0
    assert sum(len(record["chunks"]) for record in records(tmp_path, "chunks")) == LARGE // CHUNK


def test_bytes_that_changed_between_runs_are_copied_anew(
    embedded: Host, kubevirt_migrate: Command, tmp_path: Path, site: Path
) -> None:
    image = embedded.image("large.qcow2", str(LARGE), f"write -P 8 0 {LARGE}")
    embedded.define("large", image)
    plan(kubevirt_migrate, embedded, site, "large")
    kill_in_mid_copy(tmp_path)
    write(image, "write -P 9 0 1M")
    kubevirt_migrate("apply", "plan", "--directory", "claims")
    assert same(tmp_path / "claims/real/large-vda/disk.img", image)


def test_running_vm_is_left_alone_until_it_is_shut_off(
    served: Host, kubevirt_migrate: Command, tmp_path: Path, site: Path
) -> None:
    image = served.image("busy.qcow2", "16M", "write -P 1 0 1M")
    served.define("busy", image)
    definition = served.folder / "busy.xml"
    definition.write_text(served.virsh("dumpxml", "busy").replace("type='network'", "type='user'"))
    definition.write_text(definition.read_text().replace("<source network='default'/>", ""))
    served.virsh("define", definition)
    plan(kubevirt_migrate, served, with_user_network(site), "busy")

    served.virsh("start", "busy")
    assert "busy" in kubevirt_migrate("apply", "plan", "--directory", "claims", status=3).stderr
    assert not list(tmp_path.rglob("disk.img"))

    served.virsh("destroy", "busy")
    kubevirt_migrate("apply", "plan", "--directory", "claims")
    assert same(tmp_path / "claims/real/busy-vda/disk.img", image)


def with_user_network(site: Path) -> Path:
    site.write_text("namespace: real\nnetworks:\n  default: {pod: masquerade}\n")
    return site


def test_planted_password_is_nowhere(embedded: Host, kubevirt_migrate: Command, tmp_path: Path, site: Path) -> None:
    secret = "correct-horse-battery"
    argument = f"<qemu:arg value='-fw_cfg'/><qemu:arg value='name=opt/org.x/pw,string={secret}'/>"
    embedded.define("secretive", more=f"<qemu:commandline>{argument}</qemu:commandline>")
    said = kubevirt_migrate("collect", "libvirt", embedded.uri, "-d", "inventory")
    said = (
        said,
        kubevirt_migrate("plan", "inventory", "--site", site, "-d", "plan", "-o", "json", "--fail-on", "never"),
    )
    assert secret in embedded.virsh("dumpxml", "secretive")
    assert not [path for path in tmp_path.glob("[ip]*/**/*") if path.is_file() and secret in path.read_text()]
    assert not any(secret in done.stdout + done.stderr for done in said)
