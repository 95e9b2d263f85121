"""Disks of every kind, planned and carried out: discs, floppies, shared and blank disks, images of many layers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cluster.double import Cluster
from cluster.test_apply import machine, machines, names, on_cluster, planned
from conftest import Command
from real.host import Host, same

__all__ = ["on_cluster", "planned"]

DISK = """<disk type='file' device='{device}'><driver name='qemu' type='raw'/><source file='{path}'/>
<target dev='{target}' bus='{bus}'/>{more}</disk>"""
STORAGE = 'vms: {{"*": {{storage: {{{}}}}}}}\n'


def disk(path: Path, target: str, bus: str = "virtio", device: str = "disk", more: str = "") -> str:
    """A raw disk of a domain."""
    return DISK.format(path=path, target=target, bus=bus, device=device, more=more)


def posted(cluster: Cluster) -> dict[str, list[int]]:
    """The bytes of the uploads to each claim."""
    found: dict[str, list[int]] = {}
    for upload in cluster.uploads.seen:
        if upload.method == "POST":
            found.setdefault((upload.claim or "").removeprefix("vms/"), []).append(upload.received)
    return found


def findings(folder: Path) -> list[str]:
    """What the plan says of its VMs."""
    report = json.loads((folder / "plan/report.json").read_text())
    return [finding["id"] for vm in report["vms"] for finding in vm["findings"]]


def test_what_vms_share_is_copied_once_and_a_floppy_stays_behind(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster, tmp_path: Path
) -> None:
    (embedded.folder / "iso").mkdir()
    shared = embedded.image("shared.raw", "8M", "write -P 7 1M 1M", format="raw")
    disc = embedded.image("iso/disc.raw", "2M", "write -P 9 32K 1M", format="raw")
    floppy = embedded.image("floppy.raw", "1440K", "write -P 8 0 4K", format="raw")
    for name in ("one", "two"):
        own = embedded.image(f"{name}.qcow2", "8M", "write -P 1 0 1M")
        others = disk(shared, "vdb", more="<shareable/>") + disk(disc, "sda", "sata", "cdrom", "<readonly/>")
        embedded.define(name, own, devices=others + disk(floppy, "fda", "fdc", "floppy"))
    planned(more=STORAGE.format(f'"path:{disc.parent}": {{accessModes: [ReadWriteMany]}}'))
    assert findings(tmp_path).count("disk-gate/floppy") == 2

    on_cluster("apply")
    claims = names(cluster, "persistentvolumeclaims")
    medium, together = (next(name for name in claims if name.startswith(start)) for start in ("disc-", "shared-"))
    assert sorted(claims) == sorted(["one-vda", "two-vda", medium, together])
    assert {claim: len(bodies) for claim, bodies in posted(cluster).items()} == dict.fromkeys(claims, 1)
    assert same(cluster.claim_path("vms", together), shared)
    assert same(cluster.claim_path("vms", medium), disc)
    for name in ("one", "two"):
        spec = machine(cluster, name).spec["template"]["spec"]
        devices = {item["name"]: item for item in spec["domain"]["devices"]["disks"]}
        assert devices["sda"]["cdrom"] == {"bus": "sata"}
        assert devices["vdb"]["shareable"] is True and "fda" not in devices
        volumes = {item["name"]: item["persistentVolumeClaim"]["claimName"] for item in spec["volumes"]}
        assert (volumes["sda"], volumes["vdb"]) == (medium, together)
    on_cluster("undo", "--yes", "--select", "two")
    assert names(cluster, "persistentvolumeclaims")


def test_discs_are_copied_for_each_vm_where_one_node_alone_has_them(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster
) -> None:
    disc = embedded.image("disc.raw", "2M", "write -P 9 32K 1M", format="raw")
    for name in ("one", "two"):
        embedded.define(name, devices=disk(disc, "sda", "sata", "cdrom", "<readonly/>"))
    planned()
    on_cluster("apply")
    for claim in ("one-sda", "two-sda"):
        assert same(cluster.claim_path("vms", claim), disc)


@pytest.mark.parametrize(("mode", "storage"), [("Filesystem", "fast"), ("Block", "dirty")])
def test_a_blank_disk_is_not_sent(
    mode: str, storage: str, embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster
) -> None:
    image = embedded.image("web.raw", "67109376", format="raw")
    embedded.define("web", image)
    planned(mode, STORAGE.format(f"default: {{storageClass: {storage}}}"))
    done = on_cluster("apply")
    assert "copied and read back" in done.stdout
    assert posted(cluster)["web-vda"][0] < 1 << 20
    assert same(cluster.claim_path("vms", "web-vda"), image)
    assert not any(cluster.claim_path("vms", "web-vda").read_bytes())


def layered(host: Host) -> dict[str, Path]:
    """Images that hold more than what their guests see."""
    base = host.image("base.qcow2", "16M", "write -P 1 0 8M")
    middle = host.image("middle.qcow2", "16M", "write -P 2 4M 2M", base=base)
    top = host.image("top.qcow2", "24M", "write -z 0 1M", "write -P 3 20M 1M", base=middle)
    past = host.image("past.qcow2", "8M", "write -P 4 0 1M")
    subprocess.run(["qemu-img", "snapshot", "-c", "before", past], check=True)
    subprocess.run(["qemu-io", "-c", "write -P 5 0 1M", past], check=True, capture_output=True)
    subprocess.run(["qemu-img", "bitmap", "--add", past, "backup"], check=True)
    apart = host.folder / "apart.qcow2"
    options = f"data_file={host.folder / 'apart.data'},data_file_raw=on"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, apart, "8M"]
    subprocess.run(create, check=True)
    subprocess.run(["qemu-io", "-c", "write -P 6 3M 1M", apart], check=True, capture_output=True)
    # What a guest has written to its raw disk is data, whatever it looks like.
    guests = host.folder / "guests.raw"
    guests.write_bytes(past.read_bytes().ljust(4 << 20, b"\0"))
    return {"top": top, "past": past, "apart": apart, "guests": guests}


def test_images_arrive_as_their_guests_see_them(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster, kubevirt_migrate: Command, tmp_path: Path
) -> None:
    images = layered(embedded)
    for name, image in images.items():
        embedded.define(name, image)
    planned()
    kubevirt_migrate("apply", "plan", "--directory", "out")
    on_cluster("apply")
    assert machines(cluster) == sorted(images)
    for name, image in images.items():
        assert same(tmp_path / f"out/vms/{name}-vda/disk.img", image)
        assert same(cluster.claim_path("vms", f"{name}-vda"), image)


def test_images_that_cannot_be_read_or_reach_too_far_block_their_vms(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", elsewhere / "base.raw", "8M"], check=True)
    far = embedded.folder / "far.qcow2"
    back = ["-b", elsewhere / "base.raw", "-F", "raw"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *back, far], check=True)
    key = ["--object", "secret,id=key,data=hunter2"]
    locked = embedded.folder / "locked.qcow2"
    options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=100"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *key, "-o", options, locked, "8M"], check=True)
    embedded.define("far", far)
    embedded.define("locked", locked)
    embedded.define("good", embedded.image("good.qcow2", "8M"))
    planned(status=1)
    report = json.loads((tmp_path / "plan/report.json").read_text())
    said = {vm["name"]: "; ".join(finding["because"] for finding in vm["findings"]) for vm in report["vms"]}
    assert {vm["name"]: vm["verdict"] == "blocked" for vm in report["vms"]} == {
        "far": True,
        "locked": True,
        "good": False,
    }
    assert "outside of the pools" in said["far"]
    assert "is encrypted" in said["locked"]
    on_cluster("apply", status=1)
    assert machines(cluster) == ["good"]


def test_the_plan_shows_what_claims_ask_for(embedded: Host, planned: Any, tmp_path: Path) -> None:
    embedded.define("web", embedded.image("web.qcow2", "1G"))
    for mode, more in (("Block", 0), ("Filesystem", 1)):
        planned(mode)
        (shown,) = json.loads((tmp_path / "plan/report.json").read_text())["vms"][0]["disks"]
        claim = (tmp_path / "plan/web/claims.yaml").read_text()
        assert f"storage: {shown['requested'] >> 20}Mi" in claim.replace("1Gi", "1024Mi").replace('"', "")
        assert (shown["requested"] > shown["bytes"] == 1 << 30) == bool(more)
