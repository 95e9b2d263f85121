"""Input devices: tablets are added, keyboards and mice come with the machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from migrate.mapping.memory import X86
from migrate.mapping.signs import Context, Sign, View, default, flag, write

# What x86 machines have by themselves: the bus of each kind.
MACHINE = {"keyboard": "ps2", "mouse": "ps2"}
SOURCES = {
    "aarch64": "KubeVirt adds a USB keyboard on arm64 (converter/compute/input_device.go).",
    "s390x": "KubeVirt adds a virtio keyboard on s390x (converter/compute/input_device.go).",
}
# What KubeVirt adds beside a screen (converter/compute/input_device.go).
ADDED = {"aarch64": {"keyboard": "usb", "tablet": "usb"}, "s390x": {"keyboard": "virtio"}}
PS2 = "Every x86 machine has PS/2 keyboard and mouse (libvirt's qemuDomainDefAddImplicitInputDevice)."


def device(view: View, context: Context) -> Iterator[Sign]:
    """A tablet is written; a keyboard or mouse is there already, or another of its kind is."""
    kind, bus = view.text("type"), view.text("bus")
    own = (MACHINE if context.arch in X86 else _added(context)).get(kind)
    if kind == "tablet":
        yield from _tablet(view, bus, context)
    elif context.arch in ADDED and not _screen(context):
        yield flag(view.owned, "headless", f"{kind} on {bus}")
    elif own is None:
        yield flag(view.owned, "lost", f"{kind} on {bus}")
    elif bus == own:
        yield default(view.owned, SOURCES.get(context.arch, PS2))
    else:
        yield flag(view.owned, "machine", f"{kind} on {bus}")


def _tablet(view: View, bus: str, context: Context) -> Iterator[Sign]:
    """A tablet on its bus where KubeVirt has that: USB and virtio, on s390x virtio alone."""
    buses = ("virtio",) if context.arch == "s390x" else ("usb", "virtio")
    yield write(view.owned, "domain.devices.inputs.name", view.key)
    yield write(view.owned, "domain.devices.inputs.type", "tablet")
    yield write(view.owned, "domain.devices.inputs.bus", bus if bus in buses else buses[0])
    if bus not in buses:
        yield flag(view.owned, "bus", f"{bus} becomes {buses[0]}")


def _screen(context: Context) -> bool:
    """Whether the VM has a screen, with which KubeVirt adds input devices on arm64 and s390x."""
    nodes = context.document.nodes
    there = "devices.graphics" in nodes or "devices.video" in nodes
    return there and context.document.text("devices.video[0].model.type") != "none"


def _added(context: Context) -> dict[str, str]:
    """The input devices that KubeVirt adds beside a screen: the bus of each kind."""
    # On s390x since 1.4.1 (converter/s390x.go).
    none = context.arch == "s390x" and not context.target.at_least("1.4")
    return {} if none else ADDED.get(context.arch, {})


def gained(context: Context, writes: Mapping[str, Any]) -> str | None:
    """The input devices that KubeVirt adds beside a screen and the source does not have."""
    if not _screen(context):
        return None
    there = {leaf.value for leaf in context.document.by_pattern.get("devices.input.type", ())}
    return ", ".join(f"{kind} on {bus}" for kind, bus in _added(context).items() if kind not in there) or None
