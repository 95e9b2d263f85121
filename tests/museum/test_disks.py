"""What tools of this kind did to disks and the claims for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate import journal
from migrate.model import Mismatch, PlannedDisk
from migrate.target.quantity import to_bytes
from migrate.target.sizes import claim_size
from migrate.transfer import _bytes, file

MIB, GIB = 2**20, 2**30


def _disk(dev: str, bus: str, inner: str = "", device: str = "disk", path: str = "") -> str:
    source = path or f"/images/{dev}"
    return (
        f"<disk type='file' device='{device}'><source file='{source}'/><target dev='{dev}' bus='{bus}'/>{inner}</disk>"
    )


def _devices(*disks: str) -> str:
    return f"<devices>{''.join(disks)}</devices>"


def _disks(translation: Any) -> dict[str, dict[str, Any]]:
    found = translation.manifest["spec"]["template"]["spec"]["domain"]["devices"].get("disks", [])
    return {disk["name"]: disk for disk in found}


def _claims(translation: Any) -> dict[str, dict[str, Any]]:
    return {claim["metadata"]["name"]: claim["spec"] for claim in translation.claims}


def test_success_was_reported_with_an_empty_disk(tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(os.urandom(5 * MIB))
    disk = PlannedDisk("vda", "default", "vm-vda", ["file"], str(image), "raw", 5 * MIB, 5 * MIB, 8 * MIB)
    cluster = file.DirectoryTarget(tmp_path / "out")
    with (
        journal.opened(tmp_path / "journal.jsonl") as record,
        _bytes.opened(_bytes.chain(str(image), "raw", [])) as opened,
    ):
        evidence = file.move(opened, disk, cluster, record.step("vm", "vda", cluster.name, opened.stamp))
    assert file.check(disk, cluster, evidence) is None
    claim = tmp_path / "out/default/vm-vda/disk.img"
    os.truncate(claim, 0)
    os.truncate(claim, 5 * MIB)
    assert isinstance(file.check(disk, cluster, evidence), Mismatch)


def test_all_disks_were_given_one_bus(translated: Callable) -> None:
    plan = translated(_devices(_disk("vda", "virtio"), _disk("sda", "scsi"), _disk("sdb", "sata"), _disk("sdc", "usb")))
    assert {name: disk["disk"]["bus"] for name, disk in _disks(plan).items()} == {
        "vda": "virtio",
        "sda": "scsi",
        "sdb": "sata",
        "sdc": "usb",
    }


def test_all_disks_were_given_one_storage_class(translated: Callable) -> None:
    site = {"storage": {"path:/images/fast/*": {"storageClass": "nvme"}, "default": {"storageClass": "slow"}}}
    plan = translated(_devices(_disk("vda", "virtio", path="/images/fast/a"), _disk("vdb", "virtio")), site)
    assert {name: claim["storageClassName"] for name, claim in _claims(plan).items()} == {
        "vm-vda": "nvme",
        "vm-vdb": "slow",
    }


def test_all_disks_were_given_one_size_the_sum(translated: Callable) -> None:
    site = {"storage": {"default": {"volumeMode": "Block"}}}
    plan = translated(_devices(_disk("vda", "virtio"), _disk("vdb", "virtio")), site, {"vda": 3 * GIB, "vdb": 70 * GIB})
    sizes = {name: to_bytes(claim["resources"]["requests"]["storage"]) for name, claim in _claims(plan).items()}
    assert sizes == {"vm-vda": 3 * GIB, "vm-vdb": 70 * GIB}


def test_several_boot_volumes_had_order_1(translated: Callable) -> None:
    ordered = [_disk("vda", "virtio", "<boot order='2'/>"), _disk("vdb", "virtio", "<boot order='1'/>")]
    assert {name: disk["bootOrder"] for name, disk in _disks(translated(_devices(*ordered))).items()} == {
        "vda": 2,
        "vdb": 1,
    }
    boot = "<os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/><boot dev='cdrom'/></os>"
    disks = _devices(_disk("vda", "virtio"), _disk("vdb", "virtio"), _disk("sda", "sata", "<readonly/>", "cdrom"))
    orders = [disk.get("bootOrder") for disk in _disks(translated(boot + disks)).values()]
    given = [order for order in orders if order is not None]
    assert len(given) == len(set(given)) >= 2


def test_read_only_was_lost(translated: Callable) -> None:
    plan = translated(_devices(_disk("vda", "virtio", "<readonly/>"), _disk("sda", "sata", "<readonly/>")))
    assert _disks(plan)["vda"]["disk"]["readonly"] is True
    said = [finding for finding in plan.all_findings() if finding.path == "devices.disk[1].readonly"]
    assert said or _disks(plan)["sda"]["disk"].get("readonly") is True


def test_shareable_was_lost(translated: Callable) -> None:
    plan = translated(_devices(_disk("vda", "virtio", "<shareable/>")))
    assert _disks(plan)["vda"]["shareable"] is True
    (claim,) = _claims(plan).values()
    assert claim["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize(
    "disk",
    [
        _disk("sda", "sata", "<readonly/>", "cdrom"),
        "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>",
        _disk("vda", "virtio", "<transient/>"),
        _disk("fda", "fdc", device="floppy"),
        # OpenStack's swap disk is a disk like another.
        _disk("vdb", "virtio", path="/var/lib/nova/instances/x/disk.swap"),
    ],
)
def test_cdrom_ephemeral_and_swap_disks_were_lost_without_a_word(disk: str, translated: Callable) -> None:
    plan = translated(_devices(disk))
    said = [finding for finding in plan.all_findings() if (finding.path or "").startswith("devices.disk")]
    assert _disks(plan) or said
    volumes = plan.manifest["spec"]["template"]["spec"].get("volumes", [])
    # Only an empty drive has no volume.
    assert _disks(plan).keys() == {volume["name"] for volume in volumes} or "<source" not in disk


@pytest.mark.parametrize("length", [20, 21, 36, 64, 256])
@pytest.mark.parametrize("bus", ["virtio", "scsi", "sata", "usb"])
def test_a_serial_was_cut_so_that_by_id_names_changed(length: int, bus: str, translated: Callable) -> None:
    serial = "S" * length
    plan = translated(_devices(_disk("sda", bus, f"<serial>{serial}</serial>")))
    assert _disks(plan)["sda"]["serial"] == serial


def test_the_text_said_virtio_and_the_manifest_said_sata(translated: Callable) -> None:
    plan = translated(_devices(_disk("hda", "ide")))
    (said,) = [finding for finding in plan.all_findings() if finding.id == "disk-bus/ide"]
    assert _disks(plan)["hda"]["disk"]["bus"] == "sata"
    assert "sata" in said.because.lower()
    assert "virtio" not in said.because.lower()


def test_rbd_disks_were_left_out_with_a_warning(translated: Callable) -> None:
    rbd = (
        "<disk type='network' device='disk'><source protocol='rbd' name='pool/image'><host name='m'/></source>"
        "<target dev='vda' bus='virtio'/></disk>"
    )
    plan = translated(_devices(rbd))
    assert _disks(plan).keys() == {"vda"}
    assert _claims(plan).keys() == {"vm-vda"}
    assert [disk.path for disk in plan.disks] == ["rbd://m/pool/image"]
    assert "over the network" in plan.disks[0].unfit
    assert plan.verdict == "blocked"


@pytest.mark.parametrize("size", [MIB, 10 * MIB, 100 * MIB, GIB])
def test_ten_percent_for_the_file_system_were_too_few_for_small_volumes(size: int) -> None:
    assert claim_size(size, "Filesystem") - size >= 16 * 1024
    assert claim_size(size, "Block") == size
    if size <= 10 * MIB:
        assert claim_size(size, "Filesystem") > size * 1.1


def test_an_empty_image_was_a_division_by_zero(translated: Callable) -> None:
    plan = translated(_devices(_disk("vda", "virtio")), sizes={"vda": 0})
    assert not plan.internal
    assert next(found.id for found in plan.all_findings() if found.severity == "blocker") == "disk-claim/image"


def test_a_missing_image_was_a_size_to_be_given(translated: Callable) -> None:
    plan = translated(_devices(_disk("vda", "virtio")), sizes={"vda": None}, problem="No such file or directory")
    (finding,) = (found for found in plan.all_findings() if found.id == "transfer/unfit")
    assert "No such file or directory" in finding.because
