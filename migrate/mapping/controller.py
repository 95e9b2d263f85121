"""Controllers: what the guest finds its SCSI disks on, and how KubeVirt's own controllers differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from migrate.mapping.guests import judged
from migrate.mapping.signs import Context, Sign, View, default, flag, write

VIRTIO_SCSI = ("virtio-scsi", "virtio-non-transitional")
TRANSITIONAL = "virtio-transitional"
NO_HOLE = "VirtualMachine.spec.template.metadata.annotations[kubevirt.io/disablePCIHole64]"


def scsi(view: View, context: Context) -> Iterator[Sign]:
    """KubeVirt's one SCSI controller is virtio-scsi; another one matters to the guest where a disk hangs on it."""
    model = view.text("model")
    if model in VIRTIO_SCSI:
        yield default(view.owned, "KubeVirt's SCSI controller is virtio-scsi (converter/compute/controllers.go).")
    elif model == TRANSITIONAL:
        yield default(view.owned, "One transitional device makes all virtio devices of the VM so (gain-transitional).")
    elif _in_use(view):
        yield flag(view.owned, "driver", f"{model} before; {judged(context.osinfo, 'virtio_scsi')}")
    else:
        yield flag(view.owned, "unused", model)


def _in_use(view: View) -> bool:
    """Whether a SCSI disk or a passed-through SCSI device names this controller, or names none."""
    index = view.text("index", "0")
    buses = {leaf.node.trail[1].path: leaf.value for leaf in view.every("/devices.disk.target.bus")}
    owners = [path for path, bus in buses.items() if bus == "scsi"]
    owners += [leaf.node.path for leaf in view.every("/devices.hostdev.type") if leaf.value == "scsi"]
    at = {leaf.node.trail[1].path: leaf.value for leaf in view.every("/devices.disk.address.controller")}
    at |= {leaf.node.trail[1].path: leaf.value for leaf in view.every("/devices.hostdev.address.controller")}
    return any(at.get(path, index) == index for path in owners)


def hole(view: View, context: Context) -> Iterator[Sign]:
    """The 64-bit hole of the PCI root: KubeVirt can take it away, not size it."""
    if view.text("pcihole64").strip("0") == "" and view.text("model").endswith("-root"):
        yield write(view.owned, NO_HOLE, "true")
    else:
        yield flag(view.owned, "size")


def lost(view: View, context: Context) -> Iterator[Sign]:
    """Leaves that are lost together and make one finding."""
    yield flag(view.owned, "lost")


def gained_scsi(context: Context, writes: Mapping[str, Any]) -> str | None:
    """The SCSI controller for hot-plugged disks, which every VM of KubeVirt has, where the source has none."""
    types = (leaf.value for leaf in context.document.leaves if leaf.pattern == "devices.controller.type")
    return None if "scsi" in types else "virtio-scsi"


def gained_discards(context: Context, writes: Mapping[str, Any]) -> str | None:
    """The disks whose discards reach the storage from now on, by the name of their item."""
    freed = []
    for path, made in writes.items():
        if path.endswith(("].disk.bus", "].lun.bus")):
            discard = made.leaves[0].replace(".target.bus", ".driver.discard")
            if discard not in context.document.by_path:
                freed.append(path[path.index("[") + 1 : path.index("]")])
    return ", ".join(freed) or None
