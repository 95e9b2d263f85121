"""What devices of every kind share: names of the host, places on buses, and virtio's older protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from migrate.mapping.paths import Leaf, Node, printable
from migrate.mapping.signs import Context, Sign, View, default, flag

SHOWN = 4
PCI_LIMITS = {"domain": 0xFFFF, "bus": 0xFF, "slot": 0x1F, "function": 7}
MODELS = ("devices.interface.model.type", "devices.disk.model", "devices.rng.model", "devices.memballoon.model")
MODELS += ("devices.input.model", "devices.vsock.model", "devices.controller.model", "devices.filesystem.model")
# Kernels before 4.0 and the virtio-win drivers of Windows XP and 2003 speak only virtio 0.9. Ids of libosinfo.
OLD_GUESTS = ("centos.org/centos/5", "centos.org/centos/6", "redhat.com/rhel/3", "redhat.com/rhel/4")
OLD_GUESTS += ("redhat.com/rhel/5", "redhat.com/rhel/6", "debian.org/debian/6", "debian.org/debian/7")
OLD_GUESTS += ("ubuntu.com/ubuntu/10", "ubuntu.com/ubuntu/12", "ubuntu.com/ubuntu/14", "suse.com/sles/11")
OLD_GUESTS += ("microsoft.com/win/xp", "microsoft.com/win/2k3")


def described(leaves: list[Leaf], below: str) -> str:
    """The leaves as `name=value` on one line, names relative to an element's path, at most four of them."""
    start = len(below) + 1 if below else 0
    shown = (leaf.path[start:] + (f"={printable(leaf.value, 60)}" if leaf.value else "") for leaf in leaves[:SHOWN])
    return ", ".join(shown) + (", ..." if len(leaves) > SHOWN else "")


def pci(node: Node, context: Context, name: str) -> str:
    """The address below an element as 0000:06:12.5, or nothing where it is none."""
    text = context.document.text
    try:
        parts = [int(text(f"{node.path}.{name}.{part}") or "0", 0) for part in PCI_LIMITS]
    except ValueError:
        return ""
    if any(not 0 <= part <= limit for part, limit in zip(parts, PCI_LIMITS.values(), strict=True)):
        return ""
    return "{:04x}:{:02x}:{:02x}.{:x}".format(*parts)


def shut(gate: Callable[[View, Context], object], node: Node, context: Context) -> bool:
    """Whether the gate of another family of rules keeps an element out of the VM."""
    return gate(View(node, [], context.document, lambda _: True, str), context) is not None


def lost(view: View, context: Context) -> Iterator[Sign]:
    """All leaves together are one loss."""
    yield flag(view.owned, "lost", described(view.owned, view.node.path))


def address(view: View, context: Context) -> Iterator[Sign]:
    """The places of all remaining devices: one change for the whole VM."""
    devices = {leaf.node.trail[1].path for leaf in view.owned}
    yield flag(view.owned, "moved", f"{len(devices)} devices" if len(devices) > 1 else "1 device")


def option(view: View, context: Context) -> Iterator[Sign]:
    """A virtio option: what is off is off on KubeVirt too."""
    for leaf in view.owned:
        if leaf.value == "off":
            yield default(leaf, "KubeVirt's launcher leaves the option out, and QEMU has it off.")
        else:
            yield flag(leaf, "option", leaf.path)


def transitional(context: Context) -> bool:
    """Whether the VM's virtio devices must speak virtio 0.9 as well: the domain says so, or the guest is that old."""
    return context.once(_transitional)


def _transitional(context: Context) -> bool:
    models = (leaf.value for model in MODELS for leaf in context.document.by_pattern.get(model, ()))
    return "virtio-transitional" in models or context.osinfo.partition("://")[2].startswith(OLD_GUESTS)


def gained_transitional(context: Context, writes: Mapping[str, Any]) -> bool | None:
    """True where all virtio devices become transitional."""
    return True if transitional(context) else None
