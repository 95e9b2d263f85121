"""Host devices: the site file names the cluster's resource for each, by PCI address, USB ids or mdev UUID."""

from __future__ import annotations

import json
from collections.abc import Iterator

from migrate.mapping.devices import number, pci
from migrate.mapping.paths import Node
from migrate.mapping.signs import Context, Sign, View, flag, ignore, write

HOST_DEVICES = "domain.devices.hostDevices"
GPUS = "domain.devices.gpus"
# pkg/virt-launcher/virtwrap/device/hostdevice/hostdev.go createMDEVHostDevice
MDEV = "vfio-pci"


def _hex(text: str) -> str:
    try:
        return f"{number(text):04x}"
    except ValueError:
        return ""


def names(node: Node, context: Context) -> list[str]:
    """The names by which the site file can know a device, the most telling first; none for other kinds."""

    def text(name: str) -> str:
        return context.document.text(f"{node.path}.{name}")

    kind = text("type")
    if kind == "pci":
        return [pci(node, context, "source.address")]
    if kind == "mdev":
        return [text("source.address.uuid")]
    if kind == "usb":
        ids = f"{_hex(text('source.vendor.id'))}:{_hex(text('source.product.id'))}"
        bus = text("source.address.bus")
        place, port = f"{bus}.{text('source.address.device')}", f"{bus}-{text('source.address.port')}"
        return [name for name in (ids, place, port) if name[:1].isalnum() and name[-1:].isalnum()]
    return []


def _resource(node: Node, context: Context) -> str | None:
    return context.site.host_device(context.document.text(f"{node.path}.type"), *names(node, context))


def gate(view: View, context: Context) -> tuple[str, str] | str | None:
    """Lets a device through that has a resource in the cluster."""
    kind = view.text("type")
    if view.text("mode") != "subsystem":
        return "container"
    if kind not in ("pci", "usb", "mdev"):
        return ("scsi" if kind in ("scsi", "scsi_host") else "kind"), kind
    if view.text("address.type") == "unassigned":
        return "unassigned"
    if kind == "mdev" and view.text("model", MDEV) != MDEV:
        return "mdev-model", view.text("model")
    if kind == "usb" and context.arch == "s390x":
        return "usb-arch"
    if _resource(view.node, context):
        return None
    known = [name for name in names(view.node, context) if name]
    if not known:
        return "nameless"
    return "no-resource", f"hostDevices: {{{json.dumps(f'{kind}:{known[0]}')}: VENDOR.COM/RESOURCE}}"


def device(view: View, context: Context) -> Iterator[Sign]:
    """One item of the list of devices; a vGPU with a screen is one of the list of GPUs."""
    resource = _resource(view.node, context)
    screen = view.leaf("display"), view.leaf("ramfb")
    shown = [leaf for leaf in screen if leaf]
    rest = [leaf for leaf in view.owned if leaf not in shown]
    if view.text("display") == "on":
        yield write(rest, f"{GPUS}.name", view.key)
        yield write(rest, f"{GPUS}.deviceName", resource)
        yield write(shown, f"{GPUS}.virtualGPUOptions.display.enabled", True)
        yield write(shown, f"{GPUS}.virtualGPUOptions.display.ramFB.enabled", view.text("ramfb") == "on")
        # Before 1.9 createPCIHostDevice has no display (pkg/virt-launcher/virtwrap/device/hostdevice/hostdev.go).
        if view.text("type") == "pci" and not context.target.at_least("1.9"):
            yield flag(shown, "dark")
        return
    yield write(rest, f"{HOST_DEVICES}.name", view.key)
    yield write(rest, f"{HOST_DEVICES}.deviceName", resource)
    if shown:
        yield ignore(shown, "The vGPU shows no screen on the source, and as a host device it shows none on KubeVirt.")


def rom(view: View, context: Context) -> Iterator[Sign]:
    """A ROM file is the host's, and what else is set of the ROM KubeVirt has no field for."""
    from_file = any(leaf.pattern.endswith(".file") for leaf in view.owned)
    yield flag(view.owned, "file" if from_file else "bar")
