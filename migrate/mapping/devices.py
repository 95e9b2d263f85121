"""What devices of every kind share: names of the host, places on buses, and virtio's older protocol."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from migrate.mapping import guests, security
from migrate.mapping.paths import Leaf, Node, printable
from migrate.mapping.signs import Context, Sign, View, default, flag, ignore

SHOWN = 4
NOWHERE = "0000:00:00.0"  # an address that leaves the place to libvirt
PCI_LIMITS = {"domain": 0xFFFF, "bus": 0xFF, "slot": 0x1F, "function": 7}
MODELS = (
    *("devices.interface.model.type", "devices.disk.model", "devices.rng.model", "devices.memballoon.model"),
    *("devices.input.model", "devices.vsock.model", "devices.controller.model", "devices.filesystem.model"),
)
# The virtio devices of an encrypted guest that KubeVirt gives the IOMMU option: converter/converter.go,
# network/configurator.go, compute/rng.go, compute/balloon.go.
BEHIND_IOMMU = ("disk", "interface", "controller", "rng", "memballoon")
SWITCHED_ON = "KubeVirt switches it on for virtio devices of encrypted guests (converter/converter.go)."
# What a guest that uses virtio boots from or is reached by.
VIRTIO = {
    "devices.disk.target.bus": "virtio",
    "devices.interface.model.type": "virtio",
    "devices.controller.model": "virtio-scsi",
}
# i440FX machines, whose PCI is conventional: QEMU's, those of distributions, RHEL 6's and Ubuntu's alias.
I440FX = re.compile(r"pc|pc-i440fx-.*|pc-\d.*|rhel\d.*|ubuntu")


def described(leaves: list[Leaf], below: str) -> str:
    """The leaves as `name=value` on one line, names relative to an element's path, at most four of them."""
    start = len(below) + 1 if below else 0
    shown = (leaf.path[start:] + (f"={printable(leaf.value, 60)}" if leaf.value else "") for leaf in leaves[:SHOWN])
    return ", ".join(shown) + (", ..." if len(leaves) > SHOWN else "")


def pci(node: Node, context: Context, name: str) -> str:
    """The address below an element as 0000:06:12.5, or nothing where it is none."""
    text = context.document.text
    try:
        parts = [number(text(f"{node.path}.{name}.{part}") or "0") for part in PCI_LIMITS]
    except ValueError:
        return ""
    if any(not 0 <= part <= limit for part, limit in zip(parts, PCI_LIMITS.values(), strict=True)):
        return ""
    return "{:04x}:{:02x}:{:02x}.{:x}".format(*parts)


def number(text: str) -> int:
    """A number as libvirt reads it in PCI addresses and USB ids (device_conf.c, domain_conf.c).

    It is hexadecimal behind 0x and octal behind 0; ValueError for what is none.
    """
    try:
        return int(text, 0)
    except ValueError:
        return int(text, 8)


def shut(gate: Callable[[View, Context], object], node: Node, context: Context) -> bool:
    """Whether the gate of another family of rules keeps an element out of the VM."""
    return gate(View(node, [], context.document), context) is not None


def lost(view: View, context: Context) -> Iterator[Sign]:
    """All leaves together are one loss."""
    yield flag(view.owned, "lost", described(view.owned, view.node.path))


def acpi(view: View, context: Context) -> Iterator[Sign]:
    """The ACPI indices of all remaining devices; an empty element sets none."""
    empty = [leaf for leaf in view.owned if not leaf.attribute]
    rest = [leaf for leaf in view.owned if leaf.attribute]
    if empty:
        yield ignore(empty, "An empty element sets nothing.")
    if rest:
        yield flag(rest, "lost", described(rest, view.node.path))


def address(view: View, context: Context) -> Iterator[Sign]:
    """The places of all remaining devices: one change for the whole VM."""
    devices = {leaf.node.trail[1].path for leaf in view.owned}
    yield flag(view.owned, "moved", f"{len(devices)} devices" if len(devices) > 1 else "1 device")


def option(view: View, context: Context) -> Iterator[Sign]:
    """A virtio option: off on KubeVirt, but for the IOMMU of encrypted guests, which is on."""
    for leaf in view.owned:
        on = leaf.attribute == "iommu" and leaf.node.trail[1].tag in BEHIND_IOMMU and security.behind_iommu(context)
        if leaf.value == ("on" if on else "off"):
            yield default(leaf, SWITCHED_ON if on else "KubeVirt leaves it off.")
        else:
            yield flag(leaf, "iommu" if on else "option", leaf.path)


def uses_virtio(context: Context) -> bool:
    """Whether a disk or a network interface of the source is a virtio device."""
    by_pattern = context.document.by_pattern
    return any(leaf.value == value for pattern, value in VIRTIO.items() for leaf in by_pattern.get(pattern, ()))


def transitional(context: Context) -> bool:
    """Whether the VM's virtio devices must speak virtio 0.9 as well.

    They must where the domain says so, where the guest speaks nothing else, and where they do so at the source, on
    conventional PCI, and the guest is Windows, whose drivers can be of any age.
    """
    return context.once(_transitional)


def _transitional(context: Context) -> bool:
    return _older(context) or (guests.windows(context.osinfo) and both_generations(context))


def both_generations(context: Context) -> bool:
    """Whether a virtio device speaks virtio 0.9 beside 1.0 at the source, as it does on conventional PCI.

    So it does on the root bus of a PCI Express machine (QEMU's hw/virtio/virtio-pci.c). A port has one slot, a bridge
    none of number 0.
    """
    if I440FX.fullmatch(context.machine):
        return uses_virtio(context)
    return any(place[5:7] == "00" or place[8:10] != "00" for place in _virtio_places(context))


def _virtio_places(context: Context) -> Iterator[str]:
    """The PCI addresses of virtio disks, interfaces and SCSI controllers, as far as the domain says them."""
    document = context.document
    for pattern, value in VIRTIO.items():
        for leaf in document.by_pattern.get(pattern, ()):
            node = leaf.node.trail[1]
            if leaf.value == value and document.text(f"{node.path}.address.type") == "pci":
                place = pci(node, context, "address")
                if place and place != NOWHERE:
                    yield place


def _older(context: Context) -> bool:
    by_pattern = context.document.by_pattern
    models = (leaf.value for pattern in MODELS for leaf in by_pattern.get(pattern, ()))
    return "virtio-transitional" in models or old(context)


def old(context: Context) -> bool:
    """Whether the guest speaks virtio 0.9 only; on s390x devices speak both, since they are not on PCI."""
    return guests.drives(context.osinfo, "virtio_1") is False and context.arch != "s390x"


def gained_transitional(context: Context, writes: Mapping[str, Any]) -> bool | None:
    """True where all virtio devices become transitional, for the domain says so or the guest is old."""
    return True if _older(context) else None


def kept_transitional(context: Context, writes: Mapping[str, Any]) -> bool | None:
    """True where all virtio devices stay transitional, for the drivers of Windows can be of any age."""
    return True if transitional(context) else None
