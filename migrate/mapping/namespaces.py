"""Arguments of QEMU that libvirt passes on unread."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.signs import Context, Sign, View, flag

# Options that add drives, devices, firmware data or a kernel; QEMU takes one or two dashes.
DEVICES = {
    *("drive", "blockdev", "device", "hda", "hdb", "hdc", "hdd", "cdrom", "fda", "fdb", "sd", "mtdblock", "pflash"),
    *("kernel", "initrd", "append", "dtb", "shim", "bios", "acpitable", "smbios", "fw_cfg", "option-rom"),
    *("netdev", "nic", "net", "chardev", "serial", "parallel", "usbdevice", "fsdev", "virtfs", "object"),
}


def arguments(view: View, context: Context) -> Iterator[Sign]:
    """Whether arguments add something to the guest or only tune it; which options add, without what they say."""
    options = {leaf.value.lstrip("-") for leaf in view.owned if leaf.node.tag == "qemu:arg" and leaf.value[:1] == "-"}
    added = sorted(options & DEVICES)
    if added:
        yield flag(view.owned, "devices", ", ".join(f"-{option}" for option in added))
    else:
        yield flag(view.owned, "arguments")
