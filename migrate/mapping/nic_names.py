"""What systemd calls a guest's network interfaces: on the source, and on KubeVirt where libvirt finds their places.

systemd takes the ACPI index (eno3), else the hot-plug slot that ACPI numbers (ens3), else the place (enp1s0). Slots of
number 0 do not count, as those behind PCI Express ports are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import count, filterfalse, islice

from migrate.mapping import disk, filesystem, watchdog
from migrate.mapping.devices import I440FX, NOWHERE, pci, shut, transitional
from migrate.mapping.paths import Node
from migrate.mapping.signs import Context

X86 = ("x86_64", "i686")
# These sit on a PCI Express port in libvirt's layout; the other models on a conventional bridge.
EXPRESS = ("virtio", "virtio-non-transitional", "e1000e", "igb")
# KubeVirt has models of the Express kind for these.
BECOME_EXPRESS = (
    *EXPRESS,
    *("netfront", "vmxnet", "vmxnet2", "vmxnet3", "usb-net", "spapr-vlan", "lan9118", "smc91c111", "scm91c111"),
)
# Where every interface becomes a virtio one.
VIRTIO_ONLY = ("aarch64", "s390x")
PORTS = ("pcie-root-port", "pcie-switch-downstream-port")
ACPI_INDEXES = range(1, 16 * 1024)


def acpi_index(node: Node, context: Context) -> int | None:
    """The index that the guest's firmware gives an interface, where KubeVirt takes it."""
    value = context.document.text(f"{node.path}.acpi.index")
    return int(value) if value.isdecimal() and int(value) in ACPI_INDEXES else None


def before(node: Node, context: Context) -> str | None:
    """The name on the source; None where it hangs on more than the domain XML says."""
    text = context.document.text
    kind = text(f"{node.path}.address.type")
    if text("type") not in ("kvm", "qemu") or text(f"{node.path}.type") == "hostdev":
        return None
    if kind == "ccw":
        return _by_channel(text(f"{node.path}.address.ssid", "0"), text(f"{node.path}.address.devno"))
    if index := acpi_index(node, context):
        return _by_index(index, context)
    place = pci(node, context, "address")
    if kind != "pci" or place == NOWHERE or not place.startswith("0000:"):
        return None
    bus, slot, function = int(place[5:7], 16), int(place[8:10], 16), int(place[11:], 16)
    several = function or text(f"{node.path}.address.multifunction") == "on"
    return _by_place(bus, f"{slot}f{function}" if several else str(slot), context)


def _by_index(index: int, context: Context) -> str | None:
    """The name by ACPI index, which QEMU shows to guests with ACPI on x86; whether on others hangs on its version."""
    return f"eno{index}" if context.arch in X86 and "features.acpi" in context.document.nodes else None


def _by_channel(ssid: str, devno: str) -> str | None:
    """A channel device's name: its number without leading zeroes and dots."""
    try:
        return "enc" + (f"0.{int(ssid, 0):x}.{int(devno, 0):04x}".lstrip("0.") or "0")
    except ValueError:
        return None


def _by_place(bus: int, slot: str, context: Context) -> str | None:
    """The name by bus and slot on the source's machine. `slot` has the function behind it where there are several."""
    if context.arch in X86 and I440FX.fullmatch(context.machine):
        # Behind a bridge slots have the numbers of those before it, and the kernel knows one of two by its number.
        return None if bus else f"ens{slot}" if "features.acpi" in context.document.nodes else f"enp0s{slot}"
    # Behind a PCI Express port there is one slot; what ACPI calls those of a conventional bridge hangs on QEMU.
    if ("q35" not in context.machine and context.arch != "aarch64") or (bus and slot[0] != "0"):
        return None
    number = _guests_bus(bus, context) if bus else 0
    return None if number is None else f"enp{number}s{slot}"


def _guests_bus(bus: int, context: Context) -> int | None:
    """The number that firmware gives a bus behind a PCI Express port: it counts on through each bridge it meets."""
    text = context.document.text
    models: dict[int, str] = {}
    below = defaultdict(list)
    for node in context.document.nodes.get("devices.controller", ()):
        index, model = text(f"{node.path}.index"), text(f"{node.path}.model")
        if text(f"{node.path}.type") == "pci" and index.isdecimal() and not model.endswith("-root"):
            place = pci(node, context, "address")
            models[int(index)] = "" if place in ("", NOWHERE) or "expander" in model else model
            below[place[:7]].append((place[8:], int(index)))
    if bus not in models:
        return None if models else bus
    order: dict[int, int] = {}
    waiting = [0]
    while waiting:
        found = waiting.pop()
        if found not in order:
            order[found] = len(order)
            waiting += [index for _, index in sorted(below[f"0000:{found:02x}"], reverse=True)]
    return order.get(bus) if models[bus] in PORTS and all(models.values()) else None


def after(node: Node, context: Context, places: Mapping[str, str], others: Iterable[str] = ()) -> str | None:
    """The name on KubeVirt; None where it hangs on more than is known here.

    `places` has the emulated interfaces in their order, each with the PCI address that is asked for, or nothing;
    `others` are addresses that other devices ask for.
    """
    text, virtio = context.document.text, context.arch in VIRTIO_ONLY
    express = [path for path in places if virtio or text(f"{path}.model.type") in BECOME_EXPRESS]
    index = acpi_index(node, context)
    if context.arch == "s390x":
        return f"enc{_virtio_disks(context) + express.index(node.path):x}" if node.path in express else None
    if index and node.path in places:
        return _by_index(index, context)
    if node.path not in express or transitional(context):
        return None
    taken = {int(place[5:7], 16) for place in (*places.values(), *others) if place}
    free = filterfalse(taken.__contains__, count(1))
    # The bridge for conventional devices gets a port first, and the guest counts the bus behind it next.
    bridge = next(free) if len(express) < len(places) or _conventional(context) else None
    rest = islice(free, _filesystems(context), None)
    buses = {path: int(places[path][5:7], 16) if places[path] else next(rest) for path in express}
    bus = buses[node.path]
    return f"enp{bus + 1 if bridge and bus > bridge else bus}s0"


def _conventional(context: Context) -> bool:
    """Whether the VM has a watchdog, which sits on a conventional bridge."""
    text, nodes = context.document.text, context.document.nodes
    watchdogs = [node for node in nodes.get("devices.watchdog", ()) if text(f"{node.path}.model") != watchdog.BUILT_IN]
    return not all(shut(watchdog.gate, node, context) for node in watchdogs)


def _virtio_disks(context: Context) -> int:
    """How many of the disks are channel devices on KubeVirt; libvirt numbers them before the interfaces."""
    text = context.document.text
    return sum(
        disk.target_bus(text(f"{node.path}.device"), text(f"{node.path}.target.bus"), context.arch) == "virtio"
        for node in context.document.nodes.get("devices.disk", ())
        if not shut(disk.gate, node, context)
    )


def _filesystems(context: Context) -> int:
    """How many file systems the VM has; libvirt gives them ports before the interfaces."""
    nodes = context.document.nodes.get("devices.filesystem", ())
    return sum(not shut(filesystem.gate, node, context) for node in nodes)
