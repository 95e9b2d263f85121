"""Controllers: what the guest finds its SCSI disks on, and how KubeVirt's own controllers differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

from migrate.mapping.guests import drives, judged
from migrate.mapping.paths import Node
from migrate.mapping.signs import Context, Sign, View, default, flag, ignore, write

if TYPE_CHECKING:
    from migrate.mapping.ledger import Writes

VIRTIO_SCSI = ("virtio-scsi", "virtio-non-transitional")
VIRTIO_SERIAL = ("virtio", "virtio-non-transitional")
TRANSITIONAL = "virtio-transitional"
ALL_TRANSITIONAL = "One transitional device makes all virtio devices of the VM so (gain-transitional)."
XHCI = "qemu-xhci"
NO_USB = "KubeVirt gives a guest no USB controller where none of its devices needs one (converter/arch IsUSBNeeded)."
COMPANION = "It serves slow devices of the controller that it stands beside; what changes stands there."
FURTHER = "KubeVirt does not make this further controller; its type says what becomes of what hangs on it."
# What KubeVirt has one of, and when: converter/compute/controllers.go.
ONE = {
    "usb": "KubeVirt adds an xHCI controller where a device needs USB, else none; the model says what changes.",
    "scsi": "KubeVirt adds one SCSI controller to every VM; the model says what changes.",
    "virtio-serial": "KubeVirt adds one for the console and the guest agent.",
}
NO_HOLE = "VirtualMachine.spec.template.metadata.annotations[kubevirt.io/disablePCIHole64]"


def kind(view: View, context: Context) -> Iterator[Sign]:
    """Of a type that KubeVirt has one controller of: whether this is a further one, whose devices move to that."""
    if view.leaf("master.startport"):
        yield ignore(view.owned, COMPANION)
    elif _further(view.node, context):
        yield flag(view.owned, "further")
    else:
        yield default(view.owned, ONE[view.text("type")])


def _further(node: Node, context: Context) -> bool:
    """Whether a controller is another one than the first of its type."""
    return context.once(_indices)[node.path] != "0"


def _indices(context: Context) -> dict[str, str]:
    """The index of each controller by its path; one that has none gets the lowest that is free in its type.

    libvirt's conf/domain_postparse.c virDomainAssignControllerIndexes. Companions of a USB controller share its index.
    """
    text, nodes = context.document.text, context.document.nodes.get("devices.controller", ())
    found = {node.path: text(f"{node.path}.index") for node in nodes}
    taken: dict[str, set[str]] = defaultdict(set)
    numbers: dict[str, Iterator[int]] = defaultdict(count)
    for path, index in found.items():
        taken[text(f"{path}.type")].add(index)
    for path, index in found.items():
        if not index and not text(f"{path}.master.startport"):
            kind = text(f"{path}.type")
            found[path] = next(free for number in numbers[kind] if (free := str(number)) not in taken[kind])
    return found


def usb(view: View, context: Context) -> Iterator[Sign]:
    """KubeVirt's one USB controller is an xHCI one, which is there where the guest has a USB device."""
    model, used = view.text("model"), any(_on_usb(view))
    if view.leaf("master.startport"):
        yield ignore(view.owned, COMPANION)
    elif context.arch == "s390x":
        yield default(view.owned, NO_USB) if model == "none" else flag(view.owned, "none")
    elif context.arch == "aarch64" and model == "none":
        yield flag(view.owned, "added")
    elif model == "none":
        yield default(view.owned, NO_USB)
    elif context.arch != "aarch64" and not used:
        yield flag(view.owned, "gone")
    elif model == XHCI and _further(view.node, context):
        yield ignore(view.owned, FURTHER)
    elif model == XHCI:
        yield default(view.owned, "KubeVirt's USB controller is qemu-xhci (converter/compute/controllers.go).")
    elif model == "nec-xhci":
        yield flag(view.owned, "other")
    else:
        row = "driver" if drives(context.osinfo, "xhci") is False else "xhci"
        yield flag(view.owned, row, f"{model} before; {judged(context.osinfo, 'xhci')}")


def _on_usb(view: View) -> Iterator[bool]:
    """Of each device whether KubeVirt has it on USB: tablets, disks, host devices and redirected ones."""
    disks = {leaf.node.path: leaf.value for leaf in view.every("/devices.disk.device")}
    for leaf in view.every("/devices.input.bus"):
        yield leaf.value == "usb" and view.others(leaf, "type") == "tablet"
    for leaf in view.every("/devices.disk.target.bus"):
        yield leaf.value == "usb" and disks.get(leaf.node.trail[1].path) == "disk"
    yield from (leaf.value == "usb" for leaf in view.every("/devices.hostdev.type"))
    yield from (True for _ in view.every("/devices.redirdev.type"))


def scsi(view: View, context: Context) -> Iterator[Sign]:
    """KubeVirt's one SCSI controller is virtio-scsi; another one matters to the guest where a disk hangs on it."""
    model = view.text("model")
    if (model in VIRTIO_SCSI or model == TRANSITIONAL) and _further(view.node, context):
        yield ignore(view.owned, FURTHER)
    elif model in VIRTIO_SCSI:
        yield default(view.owned, "KubeVirt's SCSI controller is virtio-scsi (converter/compute/controllers.go).")
    elif model == TRANSITIONAL:
        yield default(view.owned, ALL_TRANSITIONAL)
    elif _in_use(view, context.once(_indices)[view.node.path]):
        yield flag(view.owned, "driver", f"{model} before; {judged(context.osinfo, 'virtio_scsi')}")
    else:
        yield flag(view.owned, "unused", model)


def _in_use(view: View, index: str) -> bool:
    """Whether a SCSI disk or a passed-through SCSI device names the controller of an index, or names none."""
    buses = {leaf.node.trail[1].path: leaf.value for leaf in view.every("/devices.disk.target.bus")}
    owners = [path for path, bus in buses.items() if bus == "scsi"]
    owners += [leaf.node.path for leaf in view.every("/devices.hostdev.type") if leaf.value == "scsi"]
    at = {leaf.node.trail[1].path: leaf.value for leaf in view.every("/devices.disk.address.controller")}
    at |= {leaf.node.trail[1].path: leaf.value for leaf in view.every("/devices.hostdev.address.controller")}
    return any(at.get(path, index) == index for path in owners)


def serial(view: View, context: Context) -> Iterator[Sign]:
    """KubeVirt's one virtio-serial controller is a virtio device like all, which a further one does not become."""
    model = view.text("model")
    if _further(view.node, context):
        yield ignore(view.owned, FURTHER)
    elif model in VIRTIO_SERIAL:
        yield default(view.owned, "KubeVirt's controller is virtio (converter/compute/controllers.go).")
    elif model == TRANSITIONAL:
        yield default(view.owned, ALL_TRANSITIONAL)
    else:
        yield flag(view.owned, "other", model)


def hole(view: View, context: Context) -> Iterator[Sign]:
    """The 64-bit hole of the PCI root: KubeVirt can take it away, not size it."""
    size, every = view.leaf("pcihole64"), view.every("/devices.controller.pcihole64")
    if size and size is every[0] and not size.value.strip("0") and view.text("model").endswith("-root"):
        yield write(view.owned, NO_HOLE, "true")
    else:
        yield flag(view.owned, "size")


def lost(view: View, context: Context) -> Iterator[Sign]:
    """Leaves that are lost together and make one finding."""
    yield flag(view.owned, "lost")


def gained_scsi(context: Context, writes: Mapping[str, Any]) -> str | None:
    """The SCSI controller for hot-plugged disks, which every VM of KubeVirt has, where the source has none."""
    return None if "scsi" in _types(context) else "virtio-scsi"


def gained_usb(context: Context, writes: Mapping[str, Any]) -> str | None:
    """The USB controller of an arm64 guest whose source has none."""
    return XHCI if context.arch == "aarch64" and "usb" not in _types(context) else None


def _types(context: Context) -> set[str]:
    """The types of the controllers that the source has."""
    return {leaf.value for leaf in context.document.by_pattern.get("devices.controller.type", ())}


def gained_discards(context: Context, writes: Writes) -> str | None:
    """The disks whose discards reach the storage from now on, by the name of their item."""
    freed = []
    for made in writes.every("domain.devices.disks.disk.bus", "domain.devices.disks.lun.bus"):
        if made.leaf.replace(".target.bus", ".driver.discard") not in context.document.by_path:
            freed.append(made.key)
    return ", ".join(freed) or None
