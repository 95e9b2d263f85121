"""A real libvirt that tests may change, and real images for its VMs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sources import daemon

Command = Callable[..., subprocess.CompletedProcess[str]]

DOMAIN = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    {disks}
    <interface type='network'><source network='default'/><model type='virtio'/></interface>
  </devices>
  {more}
</domain>
"""

DISK = """<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{path}'/>
<target dev='{target}' bus='virtio'/></disk>"""


@dataclass
class Host:
    """A libvirt that may be changed: `uri` reaches it, and it may read and write what lies in `folder`."""

    uri: str
    folder: Path

    def virsh(self, *args: object) -> str:
        command = ["virsh", "-q", "-c", self.uri, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def image(self, name: str, size: str, *writes: str, format: str = "qcow2", base: Path | None = None) -> Path:
        """A disk image with what qemu-io commands write, such as `write -P 1 0 1M`."""
        path = daemon.image(self.folder / name, size, format, base)
        write(path, *writes, format=format)
        return path

    def define(self, name: str, *disks: Path, devices: str = "", more: str = "") -> None:
        """A shut-off VM with disks vda, vdb, ...; names ending in .raw are raw, others qcow2."""
        images = [
            DISK.format(path=path, format="raw" if path.suffix == ".raw" else "qcow2", target=f"vd{'abcdef'[index]}")
            for index, path in enumerate(disks)
        ]
        definition = self.folder / f"{name}.xml"
        definition.write_text(DOMAIN.format(name=name, disks="".join(images) + devices, more=more))
        self.virsh("define", definition)


def write(image: Path, *writes: str, format: str = "qcow2") -> None:
    """Lets QEMU's block layer run qemu-io commands on an image."""
    commands = [part for command in writes for part in ("-c", command)]
    subprocess.run(["qemu-io", "-f", format, *commands, image], check=True, stdout=subprocess.DEVNULL)


def same(claim: Path, image: Path) -> bool:
    """Whether QEMU reads the same bytes from a claim's raw file and from a source image with its chain."""
    format = "raw" if image.suffix == ".raw" else "qcow2"
    compare = ["qemu-img", "compare", "-q", "-f", "raw", "-F", format, claim, image]
    return subprocess.run(compare, check=False).returncode == 0
