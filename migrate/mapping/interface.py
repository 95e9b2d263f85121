"""Network interfaces: the network of the cluster that each joins, and what of the host's wiring stays behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from migrate.mapping.devices import described, transitional
from migrate.mapping.paths import Leaf, Node
from migrate.mapping.signs import Context, Sign, View, default, flag, ignore, write
from migrate.site import NETWORK_KINDS, Network

POD = Network("masquerade")
NAMES = {"network": "source.network", "bridge": "source.bridge", "direct": "source.dev"}
READ = {**NAMES, "hostdev": "source.address", "user": ""}
INTERFACE = "domain.devices.interfaces"
# pkg/network/link/address.go StaticMasqueradeBridgeMAC
RESERVED = "02:00:00:00:00:00"
MAC = re.compile(r"([0-9a-fA-F]{1,2}:){5}[0-9a-fA-F]{1,2}")
# These sit on a PCI Express port in libvirt's layout; the other models on a conventional bridge.
EXPRESS = ("virtio", "virtio-non-transitional", "e1000e", "igb")
ACPI_INDEXES = range(1, 16 * 1024)


def _text(node: Node, context: Context, name: str) -> str:
    return context.document.text(f"{node.path}.{name}")


def pci(node: Node, context: Context, name: str) -> str:
    """The address below an element as 0000:06:12.5, or nothing where it is none."""
    try:
        parts = [
            int(_text(node, context, f"{name}.{part}") or "0", 0) for part in ("domain", "bus", "slot", "function")
        ]
    except ValueError:
        return ""
    return "{:04x}:{:02x}:{:02x}.{:x}".format(*parts)


def _source(node: Node, context: Context) -> tuple[str, str]:
    """What the source calls the network: its kind, and its name where it has one."""
    kind = _text(node, context, "type")
    if kind == "hostdev":
        return kind, pci(node, context, "source.address")
    return kind, _text(node, context, NAMES[kind]) if kind in NAMES else ""


def _chosen(node: Node, context: Context) -> Network | None:
    """What the site file says of the network."""
    return context.site.network(*names(node, context))


def names(node: Node, context: Context) -> tuple[str, str, str, str]:
    """By what the site file can know the network of an interface: kind, name, port group, and VLAN tags with commas."""
    tags = sorted(_below(node, context, "vlan.tag.id"), key=lambda tag: tag.zfill(4))
    return *_source(node, context), _text(node, context, "source.portgroup"), ",".join(tags)


def _below(node: Node, context: Context, pattern: str) -> list[str]:
    """The values of all leaves of a pattern below an element."""
    leaves = context.document.by_pattern.get(f"{node.pattern}.{pattern}", ())
    return [leaf.value for leaf in leaves if leaf.path.startswith(node.path + ".")]


def attachment(node: Node, context: Context) -> Network | str:
    """The cluster's network for an interface, or the row that says why there is none.

    A VM has one interface on the pod network at most. The first one that the site file puts there has it, else the
    first one of QEMU's user networking that the site file does not mention, which is translated addresses as well.
    """
    nodes = context.document.nodes["devices.interface"]
    chosen = {other.path: _chosen(other, context) for other in nodes}
    on_pod = [path for path, network in chosen.items() if network and not network.multus]
    on_pod += [node.path for node in nodes if not chosen[node.path] and _source(node, context)[0] == "user"]
    network = chosen[node.path]
    if node.path in on_pod:
        return (network or POD) if node.path == on_pod[0] else "second-pod"
    return network or "no-network"


def gate(view: View, context: Context) -> tuple[str, str] | None:
    """Lets an interface through that has a network in the cluster."""
    found = attachment(view.node, context)
    return (found, site_line(view.node, context)) if isinstance(found, str) else None


def site_line(node: Node, context: Context) -> str:
    """The line of the site file that would give the interface a network."""
    kind, name = _source(node, context)
    key = kind if kind == "user" else f"{kind}:{name}" if kind in NETWORK_KINDS else "default"
    target = "{multus: NAMESPACE/NAME" + (", binding: sriov" if kind == "hostdev" else "") + "}"
    return f"networks: {{{json.dumps(key)}: {target}}}"


def network(view: View, context: Context) -> Iterator[Sign]:
    """One interface, one network, one binding."""
    found = attachment(view.node, context)
    assert isinstance(found, Network)
    kind, _ = _source(view.node, context)
    leaves = [leaf for leaf in view.owned if _used(leaf, kind)]
    unread = [leaf for leaf in view.owned if leaf not in leaves]
    if unread:
        yield ignore(unread, f"libvirt does not read it for an interface of type {kind}.")
    yield write(leaves, f"{INTERFACE}.name", view.key)
    yield write(leaves, f"{INTERFACE}.{found.binding}", {})
    yield write(leaves, "networks.name", view.key)
    if found.multus:
        yield write(leaves, "networks.multus.networkName", found.multus)
    else:
        yield write(leaves, "networks.pod", {})
    if (kind == "hostdev") != (found.binding == "sriov"):
        yield flag(leaves, "emulated" if kind == "hostdev" else "sriov")
    if kind not in READ:
        yield flag(leaves, "kind", kind)


def _used(leaf: Leaf, kind: str) -> bool:
    """Whether libvirt reads a leaf of `nic-network` for this type of interface."""
    name = leaf.pattern.removeprefix("devices.interface.")
    return name == "type" or kind not in READ or (READ[kind] != "" and name.startswith(READ[kind]))


def mac(view: View, context: Context) -> Iterator[Sign]:
    """The address, in the form that KubeVirt reads."""
    value = view.text("mac.address")
    found = attachment(view.node, context)
    if not MAC.fullmatch(value):
        yield flag(view.owned, "malformed", value)
        return
    address = ":".join(f"{int(part, 16):02x}" for part in value.split(":"))
    if address == RESERVED and found == POD:
        yield flag(view.owned, "reserved")
    else:
        yield write(view.owned, f"{INTERFACE}.macAddress", address)


def link(view: View, context: Context) -> Iterator[Sign]:
    """An unplugged cable stays unplugged where KubeVirt can do that."""
    found = attachment(view.node, context)
    value = view.text("link.state")
    if value == "up":
        yield default(view.owned, "A link without a state is up (kubevirt.io/api/core/v1/schema.go Interface.State).")
    elif value == "down" and isinstance(found, Network) and found.binding != "sriov":
        yield write(view.owned, f"{INTERFACE}.state", "down")
    else:
        yield flag(view.owned, "connected", value)


def queues(view: View, context: Context) -> Iterator[Sign]:
    """Several queues are a setting of the whole VM, with as many queues as it has CPUs."""
    leaf = view.owned[0]
    several = [other for other in view.every("/devices.interface.driver.queues") if other.value != "1"]
    if leaf.value == "1":
        yield default(leaf, "One queue is what an interface has (converter/network/virtio-queues.go).")
        return
    if several[0] is leaf:
        yield write(leaf, "domain.devices.networkInterfaceMultiqueue", True)
    else:
        yield ignore(leaf, "The first interface with several queues gives several to all of them.")
    if several[0] is leaf and leaf.value != view.text("/vcpu"):
        yield flag(leaf, "count", f"{leaf.value} before")


def acpi(view: View, context: Context) -> Iterator[Sign]:
    """The index by which the guest names the interface."""
    value = view.text("acpi.index")
    if value.isdecimal() and int(value) in ACPI_INDEXES:
        yield write(view.owned, f"{INTERFACE}.acpiIndex", int(value))
    else:
        yield flag(view.owned, "range", value)


def _guest_name(node: Node, context: Context) -> str:
    """What systemd calls the interface by its place: behind the hot-plug slots of i440fx by slot, else by path."""
    _, bus, slot_function = pci(node, context, "address").split(":")
    slot, function = int(slot_function[:2], 16), int(slot_function[3:], 16)
    end = f"f{function}" if function else ""
    if int(bus, 16) == 0 and "q35" not in context.machine and context.arch in ("x86_64", "i686"):
        return f"ens{slot}{end}"
    return f"enp{int(bus, 16)}s{slot}{end}"


def address(view: View, context: Context) -> Iterator[Sign]:
    """The PCI place is kept where KubeVirt's machine has the same one: alone behind a PCI Express port."""
    place = pci(view.node, context, "address")
    if view.text("address.type") != "pci" or not place:
        yield flag(view.owned, "place", described(view.owned, view.node.path))
        return
    domain, bus, rest = place.split(":")
    express = "q35" in context.machine or context.arch == "aarch64"
    fits = domain == "0000" and bus != "00" and rest == "00.0" and view.text("model.type") in EXPRESS
    if express and fits and not transitional(context):
        yield write(view.owned, f"{INTERFACE}.pciAddress", place)
    elif view.text("acpi.index"):
        yield flag(view.owned, "place", place)
    else:
        yield flag(view.owned, "name", f"{_guest_name(view.node, context)} by systemd's naming")


def vlan(view: View, context: Context) -> Iterator[Sign]:
    """All tags together."""
    tags = [leaf.value for leaf in view.every("vlan.tag.id")]
    yield flag(view.owned, "lost", "tag " + ", ".join(tags) if tags else None)
