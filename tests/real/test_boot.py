"""A guest that is moved boots from the disk that arrived."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from real import tiny_guest
from real.host import Command, Host


def test_moved_guest_boots(embedded: Host, kubevirt_migrate: Command, tmp_path: Path, site: Path) -> None:
    base = embedded.folder / "base.qcow2"
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", tiny_guest.boot_disk(), base]
    subprocess.run(convert, check=True)
    image = embedded.image("guest.qcow2", str(tiny_guest.DISK_BYTES), base=base)
    tiny_guest.mark(image, "moved to the cluster")
    embedded.define("tiny", image)

    kubevirt_migrate("run", "libvirt", embedded.uri, "--select", "tiny", "--site", site, "--directory", "claims")
    claim = tmp_path / "claims/real/tiny-vda/disk.img"
    said = tiny_guest.boot(claim)
    assert said["marker"] == "moved to the cluster"
    assert said["sha256"] == hashlib.sha256(claim.read_bytes()).hexdigest()
