"""Arguments of QEMU that libvirt passes on unread."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.signs import Context, Sign, View, flag

# Options that add drives, devices or a kernel, and those that add data for the firmware; QEMU takes one or two dashes.
DEVICES = {
    *("drive", "blockdev", "device", "hda", "hdb", "hdc", "hdd", "cdrom", "fda", "fdb", "sd", "mtdblock", "pflash"),
    *("kernel", "initrd", "append", "dtb", "shim", "bios", "option-rom"),
    *("netdev", "nic", "net", "chardev", "serial", "parallel", "usbdevice", "fsdev", "virtfs", "object"),
}
DATA = {"acpitable", "smbios", "fw_cfg"}


def added(argument: str) -> bool:
    """Whether an argument is the name of an option that adds something, which holds no secret."""
    return argument[:1] == "-" and argument.lstrip("-") in DEVICES | DATA


def arguments(view: View, context: Context) -> Iterator[Sign]:
    """Whether arguments add something to the guest or only tune it; which options add, without what they say."""
    options = {leaf.value.lstrip("-") for leaf in view.owned if leaf.node.tag == "qemu:arg" and added(leaf.value)}
    if devices := sorted(options & DEVICES):
        yield flag(view.owned, "devices", ", ".join(f"-{option}" for option in devices))
    elif data := sorted(options & DATA):
        yield flag(view.owned, "data", ", ".join(f"-{option}" for option in data))
    else:
        yield flag(view.owned, "arguments")
