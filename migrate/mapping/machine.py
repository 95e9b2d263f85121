"""The machine: which chipset family the guest gets, and which device it boots from."""

from __future__ import annotations

import re
from collections.abc import Iterator

from migrate.mapping import disk, interface
from migrate.mapping.devices import both_generations, shut, transitional, uses_virtio
from migrate.mapping.guests import drives, judged, windows
from migrate.mapping.paths import Leaf, Node
from migrate.mapping.signs import Context, Sign, View, flag, ignore, write

# The machine family by architecture, and the names QEMU's distributions give to its versions.
FAMILIES = {
    "x86_64": ("q35", re.compile(r"(pc-|ubuntu-)?q35.*")),
    "i686": ("q35", re.compile(r"(pc-|ubuntu-)?q35.*")),
    "aarch64": ("virt", re.compile(r"virt(-.*)?")),
    "s390x": ("s390-ccw-virtio", re.compile(r"s390-ccw-virtio(-.*)?")),
}
# Machines of x86 that Q35 stands in for. RHEL 6 called its i440FX machines rhel6.x.0; xenfv is Xen's.
REPLACED = {
    "isapc": re.compile("isapc"),
    "microvm": re.compile("microvm"),
    "i440fx": re.compile(r"pc(-(i440fx-)?.*)?|rhel\d.*|xenfv.*|ubuntu"),
}
KINDS = {
    "hd": ("devices.disk", ("disk", "lun")),
    "cdrom": ("devices.disk", ("cdrom",)),
    "fd": ("devices.disk", ("floppy",)),
    "network": ("devices.interface", ()),
}
DEVICES_WITH_ORDER = ("disk", "interface", "hostdev", "redirdev")


def lost(view: View, context: Context) -> Iterator[Sign]:
    """All leaves of the rule are lost together: one finding."""
    yield flag(view.owned, "lost")


def machine(view: View, context: Context) -> Iterator[Sign]:
    """The machine family in the cluster's newest version."""
    source = view.text("os.type.machine")
    family, versions = FAMILIES.get(view.text("os.type.arch"), ("", None))
    if versions and versions.fullmatch(source):
        yield write(view.owned, "domain.machine.type", family)
        if source != family:
            yield flag(view.owned, "version")
        if both_generations(context) and not transitional(context) and drives(context.osinfo, "virtio_1") is None:
            yield flag(view.owned, "virtio", judged(context.osinfo, "virtio_1"))
        return
    row = next((row for row, names in REPLACED.items() if family == "q35" and names.fullmatch(source)), None)
    if row is None:
        yield flag(view.owned, "board")
        return
    yield write(view.owned, "domain.machine.type", family)
    yield flag(view.owned, row, "; ".join(_noticed(context)) or None)


def _noticed(context: Context) -> Iterator[str]:
    """What this guest notices of its new machine."""
    if windows(context.osinfo):
        yield "Windows finds new hardware and asks for activation"
    if not uses_virtio(context):
        return
    if transitional(context):
        yield "virtio devices speak virtio 0.9 beside 1.0"
    else:
        yield f"virtio devices speak virtio 1.0 only; {judged(context.osinfo, 'virtio_1')}"


def boot(view: View, context: Context) -> Iterator[Sign]:
    """Boot orders on devices from the list of kinds, as libvirt's QEMU driver hands them out."""
    if any(view.every(f"/devices.{kind}.boot.order") for kind in DEVICES_WITH_ORDER):
        yield ignore(view.owned, "The devices have boot orders of their own, which decide.")
        return
    places = {leaf.value: place for place, leaf in enumerate(view.owned, start=1)}
    found = [(leaf, _first(leaf.value, context)) for leaf in view.owned]
    # In document order, because the first write of an item decides where it stands in the list.
    for leaf, node in sorted(found, key=lambda item: item[1].order if item[1] else 0):
        if view.owned[places[leaf.value] - 1] is not leaf:
            yield ignore(leaf, "The same kind of device stands again further down, and only the last place counts.")
        elif leaf.value not in KINDS:
            yield flag(leaf, "unknown")
        elif node is None:
            yield ignore(leaf, "The domain has no such device to boot from.")
        else:
            yield from _boot(view, leaf, node, places[leaf.value], context)


def _boot(view: View, leaf: Leaf, node: Node, place: int, context: Context) -> Iterator[Sign]:
    network = leaf.value == "network"
    items, gate = ("interfaces", interface.gate) if network else ("disks", disk.gate)
    if leaf.value == "fd":
        yield flag(leaf, "floppy")
    elif shut(gate, node, context):
        yield flag(leaf, "not-carried")
    else:
        key = view.key_of(node, None if network else "target.dev")
        yield write(leaf, f"domain.devices.{items}[{key}].bootOrder", place)
        if network and interface.boot_server_lost(node, context):
            yield flag(leaf, "pod")


def _first(kind: str, context: Context) -> Node | None:
    """The first device of a kind of `<boot dev>`."""
    element, devices = KINDS.get(kind, ("", ()))
    nodes = context.once(disk.ordered) if devices else context.document.nodes.get(element, ())
    text = context.document.text
    return next((node for node in nodes if not devices or text(f"{node.path}.device", "disk") in devices), None)
