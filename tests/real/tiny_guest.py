"""A guest of a few megabytes that boots from its own disk and says on its serial console what it finds there.

Made of Debian's packages without root and without mounting: the cloud kernel, busybox as initramfs, and syslinux on
a FAT file system that fills the front of the disk. `tools/setup.sh test` leaves the kernel's package in `.cache/`.
"""

import gzip
import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache"
DISK_BYTES = 48 << 20
FILE_SYSTEM_BYTES = 32 << 20
MARKER_OFFSET = 40 << 20  # behind the file system, so that the marker can be rewritten without it
MARKER_BYTES = 512
MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"]

INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
for module in {" ".join(MODULES)}; do insmod /modules/$module.ko; done
for second in 1 2 3 4 5 6 7 8 9; do [ -b /dev/vda ] && break; sleep 1; done
echo "TINY-GUEST marker=$(dd if=/dev/vda bs=512 skip={MARKER_OFFSET // 512} count=1 2>/dev/null | tr -d '\\0')"
echo "TINY-GUEST sha256=$(sha256sum < /dev/vda | cut -d ' ' -f 1)"
echo "TINY-GUEST end"
poweroff -f
"""

SYSLINUX_CFG = """SERIAL 0
DEFAULT tiny
LABEL tiny
  KERNEL vmlinuz
  INITRD initrd.gz
  APPEND console=ttyS0 quiet panic=-1
"""


def boot_disk() -> Path:
    """The raw disk image of the guest, made once and kept in `.cache/`; it holds no marker yet."""
    disk = CACHE / "tiny-guest.img"
    recipe = CACHE / "tiny-guest.recipe"
    if not (disk.exists() and recipe.exists() and recipe.read_text() == Path(__file__).read_text()):
        recipe.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            _build(Path(work)).replace(disk)
        recipe.write_text(Path(__file__).read_text())
    return disk


def mark(image: Path, marker: str) -> None:
    """Write the marker text into a qcow2 disk, through QEMU's own block layer."""
    with tempfile.NamedTemporaryFile() as text:
        text.write(marker.encode().ljust(MARKER_BYTES, b"\0"))
        text.flush()
        command = f"write -s {text.name} {MARKER_OFFSET} {MARKER_BYTES}"
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, image], check=True, stdout=subprocess.DEVNULL)


def boot(image: Path, seconds: float = 120) -> dict[str, str]:
    """Boot a raw image under emulation, writing nothing to it, and return what the guest says, such as `marker`."""
    machine = ["qemu-system-x86_64", "-accel", "tcg", "-m", "192", "-nodefaults", "-display", "none", "-no-reboot"]
    drive = ["-drive", f"file={image},format=raw,if=virtio,snapshot=on"]
    console = subprocess.run(
        [*machine, *drive, "-serial", "stdio"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=True,
    ).stdout.decode(errors="replace")
    said = [line.strip().removeprefix("TINY-GUEST ") for line in console.splitlines() if line.startswith("TINY-GUEST ")]
    assert said and said[-1] == "end", f"the guest did not come up; its console: {console[-2000:]}"
    return dict(line.split("=", 1) for line in said[:-1])


def _build(work: Path) -> Path:
    package = next(CACHE.glob("linux-image-*.deb"))
    kernel = work / "kernel"
    subprocess.run(["dpkg-deb", "-x", package, kernel], check=True)
    (work / "initrd.gz").write_bytes(_initramfs(work / "root", kernel))
    shutil.copy(next(kernel.glob("boot/vmlinuz-*")), work / "vmlinuz")
    (work / "syslinux.cfg").write_text(SYSLINUX_CFG)

    disk = work / "disk.img"
    with disk.open("wb") as image:
        image.truncate(FILE_SYSTEM_BYTES)
    subprocess.run(["mkfs.fat", "-F", "16", disk], check=True, stdout=subprocess.DEVNULL)
    files = [work / name for name in ("vmlinuz", "initrd.gz", "syslinux.cfg")]
    subprocess.run(["mcopy", "-i", disk, *files, "::"], check=True)
    subprocess.run(["syslinux", "--install", disk], check=True)
    with disk.open("r+b") as image:
        image.truncate(DISK_BYTES)
    return disk


def _initramfs(root: Path, kernel: Path) -> bytes:
    for folder in ("bin", "dev", "modules"):
        (root / folder).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    for module in MODULES:
        shutil.copy(next(kernel.rglob(f"{module}.ko")), root / "modules")
    init = root / "init"
    init.write_text(INIT)
    init.chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    pack = ["cpio", "--quiet", "--create", "--format=newc"]
    return gzip.compress(subprocess.run(pack, cwd=root, input=names.encode(), capture_output=True, check=True).stdout)
