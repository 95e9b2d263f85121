"""Network interfaces: the network of the cluster that each joins, and what of the host's wiring stays behind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from migrate.decisions import DEFAULT, NETWORK_KINDS, Network, network_key
from migrate.mapping import nic_names
from migrate.mapping.cpu import started
from migrate.mapping.devices import described, pci, transitional
from migrate.mapping.paths import Leaf, Node, printable
from migrate.mapping.signs import Context, Sign, View, default, flag, ignore, write
from migrate.site import flow

if TYPE_CHECKING:
    from migrate.mapping.ledger import Writes

POD = Network("masquerade")
NAMES = {"network": "source.network", "bridge": "source.bridge", "direct": "source.dev"}
READ = {**NAMES, "hostdev": "source.address", "user": ""}
INTERFACE = "domain.devices.interfaces"
# pkg/network/link/address.go StaticMasqueradeBridgeMAC
RESERVED = "02:00:00:00:00:00"
FORETOLD = "not to be foretold"
# converter/network/virtio-queues.go MultiQueueMaxQueues
MOST_QUEUES = 256
HANDED_OVER = ("vfio", "kvm", "xen")
MODES = ("vepa", "private", "passthrough")
ORDER = re.compile(r"[0-9]{1,9}")
MAC = re.compile(r"([0-9a-fA-F]{1,2}:){5}[0-9a-fA-F]{1,2}")


def _text(node: Node, context: Context, name: str) -> str:
    return context.document.text(f"{node.path}.{name}")


def _source(node: Node, context: Context) -> tuple[str, str]:
    """What the source calls the network: its kind, and its name where it has one."""
    kind = _text(node, context, "type")
    if kind == "hostdev":
        return kind, pci(node, context, "source.address")
    if kind == "vhostuser" and _text(node, context, "backend.type") == "passt":
        return "user", ""
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
    return context.once(_attachments)[node.path]


def _attachments(context: Context) -> dict[str, Network | str]:
    nodes = context.document.nodes["devices.interface"]
    chosen = {node.path: _chosen(node, context) for node in nodes}
    on_pod = [path for path, network in chosen.items() if network and not network.multus]
    on_pod += [node.path for node in nodes if not chosen[node.path] and _source(node, context)[0] == "user"]
    found: dict[str, Network | str] = {path: network or "no-network" for path, network in chosen.items()}
    for path in on_pod:
        found[path] = (chosen[path] or POD) if path == on_pod[0] else "second-pod"
    return found


def gate(view: View, context: Context) -> tuple[str, str] | None:
    """Lets an interface through that has a network in the cluster."""
    found = attachment(view.node, context)
    return (found, site_line(view.node, context)) if isinstance(found, str) else None


def site_line(node: Node, context: Context) -> str:
    """The line of the site file that would give the interface a network."""
    kind, name = _source(node, context)
    named = kind in NETWORK_KINDS and kind != DEFAULT
    key = network_key(kind, "" if kind == "user" else name) if named else DEFAULT
    target = "{multus: NAMESPACE/NAME" + (", binding: sriov" if kind == "hostdev" else "") + "}"
    return f"networks: {{{flow(key)}: {target}}}"


def network(view: View, context: Context) -> Iterator[Sign]:
    """One interface, one network, one binding."""
    found = attachment(view.node, context)
    assert isinstance(found, Network)
    kind, _ = _source(view.node, context)
    leaves = [leaf for leaf in view.owned if _used(leaf, kind)]
    unread = [leaf for leaf in view.owned if leaf not in leaves]
    if unread and _text(view.node, context, "backend.type") == "passt":
        yield ignore(
            unread, "The host's interface that passt reaches the network by; the chosen network takes its place."
        )
    elif unread:
        yield ignore(unread, f"libvirt does not read it for an interface of type {kind}.")
    yield write(leaves, f"{INTERFACE}.name", view.key)
    if found.plugin:
        yield write(leaves, f"{INTERFACE}.binding.name", found.plugin)
    else:
        yield write(leaves, f"{INTERFACE}.{found.binding}", {})
    yield write(leaves, "networks.name", view.key)
    if found.multus:
        yield write(leaves, "networks.multus.networkName", found.multus)
    else:
        yield write(leaves, "networks.pod", {})
    if by_plugin(view.node, context):
        yield flag(leaves, "plugin", printable(found.plugin))
    elif (kind == "hostdev") != (found.binding == "sriov"):
        yield flag(leaves, "emulated" if kind == "hostdev" else "sriov")
    if kind not in READ:
        yield flag(leaves, "plugin-kind" if found.plugin else "kind", kind)
    if not found.multus and found.plugin:
        yield flag(leaves, "pod-plugin", printable(found.plugin))
    elif not found.multus and found.binding == "bridge":
        yield flag(leaves, "pod-bridge")
    elif not found.multus:
        yield flag(leaves, "user" if kind == "user" else "pod")


def by_plugin(node: Node, context: Context) -> bool:
    """Whether a plugin can make the guest's interface, so that nobody here knows what of the VM it heeds."""
    found = attachment(node, context)
    return isinstance(found, Network) and found.plugin != "" and f"{found.plugin}/tap" not in context.target.plugins


def gained_none(context: Context, writes: Writes) -> bool | None:
    """False where no interface comes along, since KubeVirt would put one on the pod network."""
    return None if writes.every(f"{INTERFACE}.name") else False


def _used(leaf: Leaf, kind: str) -> bool:
    """Whether libvirt reads a leaf of `nic-network` for this type of interface."""
    name = leaf.pattern.removeprefix("devices.interface.")
    return name == "type" or kind not in READ or (READ[kind] != "" and name.startswith(READ[kind]))


def mac(view: View, context: Context) -> Iterator[Sign]:
    """The address, in the form that KubeVirt reads."""
    value = view.text("mac.address")
    found = attachment(view.node, context)
    if not MAC.fullmatch(value):
        yield flag(view.owned, "malformed" if value else "unset", value or None)
        return
    address = ":".join(f"{int(part, 16):02x}" for part in value.split(":"))
    if address == RESERVED and found == POD:
        yield flag(view.owned, "reserved")
    else:
        yield write(view.owned, f"{INTERFACE}.macAddress", address)


def boot(view: View, context: Context) -> Iterator[Sign]:
    """The interface's place among the devices that the guest boots from."""
    order = view.text("boot.order")
    if not ORDER.fullmatch(order):
        yield flag(view.owned, "malformed", order)
        return
    yield write(view.owned, f"{INTERFACE}.bootOrder", int(order))
    if boot_server_lost(view.node, context):
        yield flag(view.owned, "pod")


def boot_server_lost(node: Node, context: Context) -> bool:
    """Whether the guest could boot from the network there and is on the pod network now, without a plugin.

    KubeVirt answers its DHCP requests itself then and names no boot server (pkg/network/dhcp/server/server.go
    prepareDHCPOptions); nor does QEMU's user networking as libvirt starts it.
    """
    found = attachment(node, context)
    on_pod = isinstance(found, Network) and not found.multus and not found.plugin
    return on_pod and _source(node, context)[0] != "user"


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
    """Several queues are a setting of the whole VM: each virtio interface has as many as the VM starts with CPUs."""
    leaf, before = view.owned[0], context.once(_queues)
    several = [path for path, number in before.items() if number > 1]
    if view.node.path not in before:
        yield ignore(leaf, "A virtio interface alone has queues, and this is none in both the domain and the VM.")
    elif not several:
        yield default(leaf, "One queue is what an interface has (converter/network/virtio-queues.go).")
    elif several[0] != view.node.path:
        yield ignore(leaf, "The first interface with several queues gives them to all, and says whose number changes.")
    else:
        yield write(leaf, "domain.devices.networkInterfaceMultiqueue", True)
        now = _queues_there(view, context)
        changed = [f"{path.rpartition('.')[2]} had {number}" for path, number in before.items() if number != now]
        if changed:
            yield flag(leaf, "count", printable(", ".join([f"{now or 'unknown'} there", *changed])))


def _queues(context: Context) -> dict[str, int]:
    """The queues at the source of each interface that is a virtio one there and in the VM."""
    found = {}
    for node in context.document.nodes["devices.interface"]:
        chosen = attachment(node, context)
        emulated = isinstance(chosen, Network) and chosen.binding != "sriov"
        if emulated and _text(node, context, "model.type").startswith("virtio"):
            number = _text(node, context, "driver.queues")
            found[node.path] = max(1, int(number)) if ORDER.fullmatch(number) else 1
    return found


def _queues_there(view: View, context: Context) -> int | None:
    """The queues of each virtio interface in the VM, None where the instance type decides their number."""
    try:
        return None if context.instancetype else min(started(view, context), MOST_QUEUES)
    except ValueError:
        return None


def acpi(view: View, context: Context) -> Iterator[Sign]:
    """The index by which the guest names the interface."""
    index = nic_names.acpi_index(view.node, context)
    if context.arch == "s390x":
        yield flag(view.owned, "channel", view.text("acpi.index"))
    elif _is_function(view.node, context):
        yield flag(view.owned, "function", view.text("acpi.index"))
    elif index:
        yield write(view.owned, f"{INTERFACE}.acpiIndex", index)
    else:
        yield flag(view.owned, "range", view.text("acpi.index"))


def address(view: View, context: Context) -> Iterator[Sign]:
    """The PCI place is kept where KubeVirt's machine has the same one; what the guest calls the interface is said."""
    before, after = _guest_names(view.node, context)
    same = before and before == after
    names = f"{before} before and after" if same else f"{before or 'unknown'} before, {after or FORETOLD} after"
    named = f"by systemd's naming {names}"
    kept = _kept(view.node, context)
    if kept and _is_function(view.node, context):
        yield write(view.owned, f"{INTERFACE}.pciAddress", kept, "The guest finds it at the same place.")
    elif kept:
        yield write(view.owned, f"{INTERFACE}.pciAddress", kept, f"By systemd's naming a Linux guest calls it {names}.")
        if before and after and not same:
            yield flag(view.owned, "name", named)
    elif not same and not before and not _placed(view):
        yield flag(view.owned, "unplaced", named)
    elif not same:
        yield flag(view.owned, "plugin" if _unsettled(view.node, context) else "name", named)
    elif view.text("address.type") == "pci" and _placed(view):
        yield flag(view.owned, "place", named)
    else:
        yield default(view.owned, f"KubeVirt's libvirt numbers it the same ({named}; qemu_domain_address.c).")


def _placed(view: View) -> bool:
    """Whether the domain says where the interface is."""
    return any(leaf.pattern != "devices.interface.address.type" for leaf in view.owned)


def _guest_names(node: Node, context: Context) -> tuple[str | None, str | None]:
    """What systemd calls the interface on the source and on KubeVirt, each as far as it is known."""
    if _unsettled(node, context):
        return nic_names.before(node, context), None
    nodes = context.document.nodes["devices.interface"]
    kept = {other.path: _kept(other, context) for other in nodes}
    functions = {other.path for other in nodes if _is_function(other, context)}
    places = {path: place for path, place in kept.items() if path not in functions}
    taken = [place for path, place in kept.items() if path in functions]
    return nic_names.before(node, context), nic_names.after(node, context, places, taken)


def _is_function(node: Node, context: Context) -> bool:
    """Whether the interface becomes a function of a network card that is passed through."""
    network = _chosen(node, context)
    return network is not None and network.binding == "sriov"


def _unsettled(node: Node, context: Context) -> bool:
    """Whether a plugin decides the interface's name: it makes this one, or another one that can take its place."""
    indexed = nic_names.acpi_index(node, context) is not None and context.arch != "s390x"
    nodes = [node] if indexed else context.document.nodes["devices.interface"]
    return any(by_plugin(other, context) for other in nodes)


def _kept(node: Node, context: Context) -> str:
    """The PCI address of an interface that sits alone behind a PCI Express port, as on KubeVirt, or nothing."""
    place = pci(node, context, "address") if _text(node, context, "address.type") == "pci" else ""
    express = "q35" in context.machine or context.arch == "aarch64"
    fits = place.startswith("0000:") and place[5:7] != "00" and place.endswith(":00.0")
    model = _text(node, context, "model.type") in nic_names.EXPRESS and not transitional(context)
    return place if express and fits and (model or _is_function(node, context)) else ""


def vlan(view: View, context: Context) -> Iterator[Sign]:
    """All tags together. A network that the site file gives for just these tags has them.

    Its key does not tell whether the guest's packets carry one tag themselves, and which of several they need not.
    """
    tags = [leaf.value for leaf in view.every("vlan.tag.id")]
    if not context.site.network_is_for("vlan", *names(view.node, context)):
        yield flag(view.owned, "lost", f"tag {', '.join(tags)}" if tags else None)
        return
    trunk = [leaf for leaf in view.owned if leaf.attribute == "nativeMode" or (_trunk(leaf) and len(tags) == 1)]
    found = _chosen(view.node, context)
    chosen = found.multus if found and found.multus else "the pod network"
    if trunk:
        yield flag(trunk, "trunk", described(trunk, view.node.path))
    rest = [leaf for leaf in view.owned if leaf not in trunk]
    yield default(
        rest, f"The site file chooses {chosen} for VLAN {', '.join(tags)}, and that network tags the packets."
    )


def _trunk(leaf: Leaf) -> bool:
    """Whether it makes a trunk of one tag; of several libvirt makes one without (netdev_vlan_conf.c)."""
    return leaf.attribute == "trunk" and leaf.value.lower() != "no"


def portgroup(view: View, context: Context) -> Iterator[Sign]:
    """A port group. A network that the site file gives for just this one has its settings."""
    group = view.text("source.portgroup")
    if context.site.network_is_for("portgroup", *names(view.node, context)):
        found = _chosen(view.node, context)
        chosen = found.multus if found and found.multus else "the pod network"
        yield default(view.owned, f"The site file chooses {chosen} for the port group {group}, with its settings.")
    else:
        yield flag(view.owned, "lost", group)


def backend(view: View, context: Context) -> Iterator[Sign]:
    """What serves the interface."""
    leaf, name = view.owned[0], view.text("driver.name")
    if name in HANDED_OVER:
        yield ignore(leaf, "How the host hands a card to the guest; the cluster's device plugin decides that.")
    elif by_plugin(view.node, context):
        yield ignore(leaf, "What serves the interface on the host; the network binding plugin takes its place.")
    elif name == "vhost":
        yield default(
            leaf,
            "KubeVirt's virtio interfaces are served by vhost (converter/network/configurator.go newVirtioDriver).",
        )
    else:
        yield flag(leaf, "qemu" if name == "qemu" else "otherwise")


def mode(view: View, context: Context) -> Iterator[Sign]:
    """How a macvtap device of the host forwards, or which end of a socket listens."""
    leaf, name = view.owned[0], view.text("source.mode")
    found = _chosen(view.node, context)
    if name == "bridge":
        yield ignore(leaf, "How the host's macvtap device forwards; the chosen network takes its place.")
    elif name in ("server", "client"):
        yield ignore(leaf, "Which end of a socket of the host listens; the chosen network takes its place.")
    elif found and found.plugin:
        yield flag(leaf, "plugin", printable(name))
    else:
        yield flag(leaf, name if name in MODES else "otherwise")


def tuning(view: View, context: Context) -> Iterator[Sign]:
    """All leaves together are one loss, of which a plugin can have its own idea."""
    yield flag(view.owned, "plugin" if by_plugin(view.node, context) else "lost", described(view.owned, view.node.path))


def offloads(view: View, context: Context) -> Iterator[Sign]:
    """Offloads that are on are on in KubeVirt too, and an empty element switches none off."""
    if by_plugin(view.node, context):
        yield flag(view.owned, "plugin", described(view.owned, view.node.path))
        return
    off = [leaf for leaf in view.owned if leaf.attribute and leaf.value != "on"]
    rest = [leaf for leaf in view.owned if leaf not in off]
    if rest:
        yield default(rest, "QEMU offers all offloads (hw/net/virtio-net.c), and KubeVirt switches none off.")
    if off:
        yield flag(off, "lost", described(off, view.node.path))


def rom(view: View, context: Context) -> Iterator[Sign]:
    """A function of a network card has the card's own boot ROM, other interfaces have QEMU's or a plugin's."""
    if _is_function(view.node, context):
        yield flag(view.owned, "card")
    else:
        yield from tuning(view, context)


def gained_mtu(context: Context, writes: Writes) -> str | None:
    """The virtio interfaces that KubeVirt gives an MTU (pkg/network/domainspec/generators.go), by name."""
    told = {leaf.node.trail[1].path for leaf in context.document.by_pattern.get("devices.interface.mtu.size", ())}
    models = writes.every(f"{INTERFACE}.model")
    virtio = [made for made in models if made.value == "virtio" and made.leaf.removesuffix(".model.type") not in told]
    return ", ".join(made.key for made in virtio if f"{INTERFACE}[{made.key}].sriov" not in writes) or None
