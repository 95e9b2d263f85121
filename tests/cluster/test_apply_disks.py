"""Disks of every kind, planned and carried out: discs, floppies, shared and blank disks, images of many layers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.double import Cluster
from cluster.test_apply import SITE, machine, machines, names, on_cluster, planned
from conftest import Command
from real.host import DOMAIN, Host, same

from migrate.target import api

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
    assert {"state/image-snapshots", "state/image-bitmaps"} <= set(findings(tmp_path))
    kubevirt_migrate("apply", "plan", "--directory", "out")
    on_cluster("apply")
    assert machines(cluster) == sorted(images)
    for name, image in images.items():
        assert same(tmp_path / f"out/vms/{name}-vda/disk.img", image)
        assert same(cluster.claim_path("vms", f"{name}-vda"), image)


def test_raw_bytes_are_sent_to_a_file_system_where_that_is_asked(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster
) -> None:
    embedded.define("web", embedded.image("web.qcow2", "8M", "write -P 1 1M 1M"))
    embedded.define("odd", embedded.image("odd.raw", "8M", "write -P 0x1f 0 1k", "write -P 0x8b 1 1", format="raw"))
    planned(more="methods: [cdi-upload-raw]\n")
    assert "web-vda, cdi-upload-raw" in on_cluster("apply", "--dry-run=server").stdout
    on_cluster("apply")
    sent = posted(cluster)
    assert sent["web-vda"] == [8 << 20] and sent["odd-vda"][0] < 1 << 20
    for name in ("web.qcow2", "odd.raw"):
        assert same(cluster.claim_path("vms", f"{name[:3]}-vda"), embedded.folder / name)
    on_cluster("verify")


@pytest.fixture
def locked(embedded: Host) -> Path:
    """A raw disk that its guest has encrypted whole."""
    path = embedded.folder / "web.raw"
    key = ["--object", "secret,id=key,data=hunter2", "-o", "key-secret=key,iter-time=10"]
    create = ["qemu-img", "create", "-q", "-f", "luks", *key, path, "6M"]
    for _ in range(20):  # qemu-img times its key derivation, and gives up where its CPU time stood still meanwhile
        if subprocess.run(create, check=False).returncode == 0:
            return path
    raise AssertionError("qemu-img makes no image with LUKS here")


def test_a_disk_that_its_guest_encrypted_arrives_on_a_device(
    locked: Path, embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster
) -> None:
    embedded.define("web", locked)
    planned("Block")
    on_cluster("apply")
    assert same(cluster.claim_path("vms", "web-vda"), locked)
    assert len(posted(cluster)["web-vda"]) == 1


def test_a_disk_whose_file_cdi_cannot_look_at_is_sent_once_and_the_way_out_is_told(
    locked: Path, embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster
) -> None:
    embedded.define("web", locked)
    planned("Filesystem")
    told = on_cluster("apply", status=2).stderr
    assert "volumeMode Block" in told and "Invalid format luks" in told and told.count("\n") == 1
    assert len(posted(cluster)["web-vda"]) == 1
    assert machines(cluster) == []
    on_cluster("undo", "--yes")


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
    options = "encrypt.format=aes,encrypt.key-secret=key"
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


LUN = """<disk type='block' device='lun'><driver name='qemu' type='raw'/><source dev='{}'/>
<target dev='sda' bus='scsi'/>{}</disk>"""


@pytest.fixture
def lun(embedded: Host) -> Iterator[str]:
    """A block device of the host that is not a whole number of MiB."""
    image = embedded.image("lun.raw", "8389120", "write -P 7 1M 1M", format="raw")
    done = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True)
    yield done.stdout.strip()
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


def luns(device: str, there: str) -> str:
    """The site file's word on how nodes reach a LUN."""
    return f"luns: {{{device}: {{local: {{path: {there}}}, nodes: [node1]}}}}\n"


def volumes(cluster: Cluster) -> list[Any]:
    """The volumes that a plan made."""
    found = cluster.client.list(api.kinds()["persistentvolumes"])
    return [item for item in found if item.metadata.name.startswith("lun-")]


def test_a_lun_is_handed_over_and_not_copied(
    lun: str, embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster, kubevirt_migrate: Command
) -> None:
    for name in ("one", "two"):
        embedded.define(name, devices=LUN.format(lun, "<shareable/>"))
    planned(more=luns(lun, lun))
    assert "lun" in on_cluster("apply", "--dry-run=server").stdout
    done = on_cluster("apply")
    assert posted(cluster) == {}
    (volume,) = volumes(cluster)
    assert volume.spec.persistentVolumeReclaimPolicy == "Retain"
    assert (volume.spec.local.path, volume.spec.capacity["storage"]) == (lun, "8389120")
    (claim,) = names(cluster, "persistentvolumeclaims")
    assert (volume.spec.claimRef.name, volume.spec.claimRef.namespace) == (claim, "vms")
    for name in ("one", "two"):
        (disk,) = machine(cluster, name).spec["template"]["spec"]["domain"]["devices"]["disks"]
        assert disk["lun"] == {"bus": "scsi"}
    assert done.stderr == ""
    assert "verified" in on_cluster("verify").stdout
    assert on_cluster("diff").stdout == ""
    on_cluster("undo", "--yes")
    assert (volumes(cluster), names(cluster, "persistentvolumeclaims")) == ([], [])
    assert Path(lun).is_block_device()
    with Path(lun).open("rb") as device:
        device.seek(1 << 20)
        assert device.read(4) == b"\7\7\7\7"


def test_another_lun_under_the_name_is_found_and_taken_back(
    lun: str, embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(8389120))
    embedded.define("one", devices=LUN.format(lun, ""))
    planned(more=luns(lun, str(other)))
    assert "is another LUN" in on_cluster("apply", status=4).stderr
    assert (machines(cluster), volumes(cluster), names(cluster, "persistentvolumeclaims")) == ([], [], [])
    assert other.read_bytes() == bytes(8389120)


def test_one_lun_goes_to_one_claim(lun: str, embedded: Host, planned: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        embedded.define(name, devices=LUN.format(lun, ""))
    planned(more=luns(lun, lun), status=1)
    assert findings(tmp_path).count("claim/lun-taken") == 1


def test_a_lun_that_only_nodes_reach_is_unverified(
    lun: str, on_cluster: Command, cluster: Cluster, kubevirt_migrate: Command, tmp_path: Path
) -> None:
    source = "<source protocol='iscsi' name='iqn.2026-01.test:array/1'><host name='192.0.2.1' port='3260'/></source>"
    text = LUN.format("", "").replace("type='block'", "type='network'").replace("<source dev=''/>", source)
    (tmp_path / "one.xml").write_text(DOMAIN.format(name="one", disks=text, more=""))
    address = "iscsi://192.0.2.1:3260/iqn.2026-01.test:array/1"
    site = luns(f'"{address}"', lun) + 'sizes: {"one/sda": 8389120}\n'
    (tmp_path / "site.yaml").write_text(SITE.format(mode="Block") + site)
    kubevirt_migrate("plan", "one.xml", "--site", "site.yaml", "-d", "plan")
    cluster.server.namespace("other")
    assert "cannot be read from here" in on_cluster("apply", "-n", "other", status=3).stderr
    assert volumes(cluster)[0].spec.claimRef.namespace == "other"
    machines_there = lambda: list(cluster.client.list(api.kinds()["virtualmachines"], namespace="other"))  # noqa: E731
    assert machines_there() == []
    on_cluster("apply", "-n", "other", "--accept-unverified")
    assert [item.metadata.name for item in machines_there()] == ["one"]


def test_the_plan_shows_what_claims_ask_for(embedded: Host, planned: Any, tmp_path: Path) -> None:
    embedded.define("web", embedded.image("web.qcow2", "1G"))
    for mode, more in (("Block", 0), ("Filesystem", 1)):
        planned(mode)
        (shown,) = json.loads((tmp_path / "plan/report.json").read_text())["vms"][0]["disks"]
        claim = (tmp_path / "plan/web/claims.yaml").read_text()
        assert f"storage: {shown['requested'] >> 20}Mi" in claim.replace("1Gi", "1024Mi").replace('"', "")
        assert (shown["requested"] > shown["bytes"] == 1 << 30) == bool(more)
