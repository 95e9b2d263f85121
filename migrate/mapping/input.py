"""Input devices: tablets are added, keyboards and mice come with the machine."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.signs import Context, Sign, View, default, flag, write

# What the machine has by itself: by architecture, the bus of each kind. arm64 and s390x get theirs with the display.
MACHINE = {
    "x86_64": {"keyboard": "ps2", "mouse": "ps2"},
    "i686": {"keyboard": "ps2", "mouse": "ps2"},
    "aarch64": {"keyboard": "usb"},
    "s390x": {"keyboard": "virtio"},
}
SOURCES = {
    "aarch64": "KubeVirt adds a USB keyboard on arm64 (converter/compute/input_device.go).",
    "s390x": "KubeVirt adds a virtio keyboard on s390x (converter/compute/input_device.go).",
}
PS2 = "Every x86 machine has PS/2 keyboard and mouse (libvirt's qemuDomainDefAddImplicitInputDevice)."


def device(view: View, context: Context) -> Iterator[Sign]:
    """A tablet is written; a keyboard or mouse is there already, or another of its kind is."""
    kind, bus = view.text("type"), view.text("bus")
    own = MACHINE.get(context.arch, {}).get(kind)
    if kind == "tablet":
        yield from _tablet(view, bus, context.arch)
    elif own is None:
        yield flag(view.owned, "lost", f"{kind} on {bus}")
    elif bus == own:
        yield default(view.owned, SOURCES.get(context.arch, PS2))
    else:
        yield flag(view.owned, "machine", f"{kind} on {bus}")


def _tablet(view: View, bus: str, arch: str) -> Iterator[Sign]:
    buses = ("virtio",) if arch == "s390x" else ("usb", "virtio")
    yield write(view.owned, "domain.devices.inputs.name", view.key)
    yield write(view.owned, "domain.devices.inputs.type", "tablet")
    yield write(view.owned, "domain.devices.inputs.bus", bus if bus in buses else buses[0])
    if bus not in buses:
        yield flag(view.owned, "bus", f"{bus} becomes {buses[0]}")
