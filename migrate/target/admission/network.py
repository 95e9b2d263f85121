"""Network interfaces and networks: pkg/network/admitter."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.target.admission.spec import FEWER, MOST, RENAME, Manifest, Refusal, Spec

RESERVED_MAC = "02:00:00:00:00:00"

BINDINGS = ("bridge", "masquerade", "sriov", "passtBinding", "binding")


def of_nics(every: Spec) -> Iterator[Refusal]:
    """Network interfaces: names, bindings, states."""
    nics, networks = every.devices.get("interfaces", []), every.spec.get("networks", [])
    by_name = {network.get("name"): network for network in networks}
    default = next((network for network in networks if _is_default(network)), {})
    seen: set[str] = set()
    if len(nics) > MOST:
        because = "The API server refuses more than 256 network interfaces."
        yield Refusal("domain.devices.interfaces", "nic-count", because, FEWER)
    for nic in nics:
        name = nic.get("name", "")
        path = f"domain.devices.interfaces[{name}]"
        if name in seen:
            because = "KubeVirt refuses two network interfaces of one name."
            yield Refusal(f"{path}.name", "nic-unique", because, RENAME)
        seen.add(name)
        if name not in by_name:
            because = "KubeVirt refuses a network interface without a network of its name."
            yield Refusal(f"{path}.name", "nic-network", because, "Add the network or leave the interface out.")
        yield from _binding(nic, by_name.get(name, {}), path)
        yield from _state(nic, default.get("name") == name, path)
    for network in networks:
        if network.get("name") not in seen:
            because = "KubeVirt refuses a network without an interface of its name."
            yield Refusal(f"networks[{network.get('name')}].name", "network-nic", because, "Leave the network out.")


def _is_default(network: Manifest) -> bool:
    return "pod" in network or bool(network.get("multus", {}).get("default"))


def _binding(nic: Manifest, network: Manifest, path: str) -> Iterator[Refusal]:
    bindings = [name for name in BINDINGS if nic.get(name) is not None]
    if len(bindings) != 1:
        because = f"KubeVirt refuses a network interface with {len(bindings)} bindings."
        yield Refusal(path, "nic-binding", because, "Give it exactly one: masquerade, bridge, sriov or a plugin.")
    for name in ("masquerade", "passtBinding"):
        if name in bindings and "pod" not in network:
            because = f"KubeVirt refuses {name} on another network than the pod network."
            yield Refusal(f"{path}.{name}", "nic-pod-network", because, "Use bridge.")
    if "masquerade" in bindings and nic.get("macAddress") == RESERVED_MAC:
        because = f"KubeVirt refuses the MAC address {RESERVED_MAC} with masquerade, which keeps it for itself."
        yield Refusal(f"{path}.macAddress", "nic-mac-reserved", because, "Use bridge or another address.")
    ports = nic.get("ports", []) if "pod" in network else []
    names = [port["name"] for port in ports if port.get("name")]
    wrong = [port for port in ports if not 0 < port.get("port", 0) < 65536]
    wrong += [port for port in ports if port.get("protocol") not in (None, "", "TCP", "UDP")]
    if wrong or len(set(names)) < len(names):
        because = "KubeVirt refuses ports beyond 65535, of another protocol than TCP or UDP, or of one name."
        yield Refusal(f"{path}.ports", "nic-ports", because, "Correct or leave out the ports.")


def _state(nic: Manifest, is_default: bool, path: str) -> Iterator[Refusal]:
    state = nic.get("state")
    if state == "absent" and ("bridge" not in nic or is_default):
        because = "KubeVirt refuses an absent network interface unless it is a bridge on a secondary network."
        yield Refusal(f"{path}.state", "nic-state", because, "Leave the interface out.")
    elif state in ("up", "down") and "sriov" in nic:
        because = "KubeVirt refuses a link state of an SR-IOV interface."
        yield Refusal(f"{path}.state", "nic-state", because, "Leave the state out and take the link down in the guest.")


def of_networks(every: Spec) -> Iterator[Refusal]:
    """Networks: names and kinds."""
    networks = every.spec.get("networks", [])
    names = [network.get("name") for network in networks]
    pods = [network for network in networks if "pod" in network]
    defaults = [network for network in networks if network.get("multus", {}).get("default")]
    if len(pods) > 1 or len(defaults) > 1 or (pods and defaults):
        path = f"networks[{(pods + defaults)[1].get('name')}]"
        because = "KubeVirt refuses more than one pod network or default network."
        yield Refusal(path, "network-pod", because, "Connect the others with multus in the site file.")
    if len(networks) > MOST:
        yield Refusal("networks", "network-count", "The API server refuses more than 256 networks.", FEWER)
    for position, network in enumerate(networks):
        path = f"networks[{network.get('name')}]"
        if network.get("name") in names[:position]:
            yield Refusal(f"{path}.name", "network-unique", "KubeVirt refuses two networks of one name.", RENAME)
        if len({"pod", "multus", "resourceClaim"} & network.keys()) != 1:
            because = "KubeVirt refuses a network that is not exactly one of pod and multus."
            yield Refusal(path, "network-source", because, "Name its NetworkAttachmentDefinition in the site file.")
