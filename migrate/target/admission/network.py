"""Network interfaces and networks: pkg/network/admitter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import pairwise

from migrate.target.admission.spec import FEWER, MOST, RENAME, Manifest, Refusal, Spec

PORTS = 2**16
# As Kubernetes names ports: at most 15 of a-z, 0-9 and -, a letter among them, no two - in a row.
PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]*[a-z0-9])?")
RESERVED_MAC = "02:00:00:00:00:00"

BINDINGS = ("bridge", "masquerade", "sriov", "passtBinding", "binding")


def of_nics(every: Spec) -> Iterator[Refusal]:
    """Network interfaces: names, bindings, states."""
    nics, networks = every.nics, every.networks
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
        yield from _binding(every, nic, by_name.get(name, {}), path)
        yield from _ports(nic, by_name.get(name, {}), path)
        yield from _dhcp(nic.get("dhcpOptions", {}), f"{path}.dhcpOptions")
        yield from _state(nic, default.get("name") == name, path)
    for network in networks:
        if network.get("name") not in seen:
            because = "KubeVirt refuses a network without an interface of its name."
            yield Refusal(f"networks[{network.get('name')}].name", "network-nic", because, "Leave the network out.")


def _is_default(network: Manifest) -> bool:
    return "pod" in network or bool(network.get("multus", {}).get("default"))


def _binding(every: Spec, nic: Manifest, network: Manifest, path: str) -> Iterator[Refusal]:
    bindings = [name for name in BINDINGS if nic.get(name) is not None]
    # Before 1.9 a first of several is taken, but not beside a plugin.
    several = len(bindings) > 1 and (every.target.at_least("1.9") or "binding" in bindings)
    if several or not bindings:
        because = f"KubeVirt refuses a network interface with {len(bindings)} bindings."
        yield Refusal(path, "nic-binding", because, "Give it exactly one: masquerade, bridge, sriov or a plugin.")
    for name in ("masquerade", "passtBinding"):
        if name in bindings and "pod" not in network:
            because = f"KubeVirt refuses {name} on another network than the pod network."
            yield Refusal(f"{path}.{name}", "nic-pod-network", because, "Use bridge.")
    if "masquerade" in bindings and nic.get("macAddress") == RESERVED_MAC:
        because = f"KubeVirt refuses the MAC address {RESERVED_MAC} with masquerade, which keeps it for itself."
        yield Refusal(f"{path}.macAddress", "nic-mac-reserved", because, "Use bridge or another address.")


def _ports(nic: Manifest, network: Manifest, path: str) -> Iterator[Refusal]:
    """Ports, which count on the pod network only."""
    if "pod" not in network:
        return
    ports, ranges = nic.get("ports", []), nic.get("portRanges", [])
    names = [port["name"] for port in ports if port.get("name")]
    wrong = [port for port in ports if not 0 < port.get("port", 0) < PORTS]
    wrong += [port for port in ports if port.get("protocol") not in (None, "", "TCP", "UDP")]
    if wrong or len(set(names)) < len(names) or not all(map(PORT_NAME.fullmatch, names)):
        because = (
            "KubeVirt refuses ports beyond 65535, of another protocol than TCP or UDP, or without names of their own."
        )
        yield Refusal(f"{path}.ports", "nic-ports", because, "Correct or leave out the ports.")
    if ranges and (ports or "masquerade" not in nic or not _apart(ranges)):
        because = (
            "KubeVirt refuses ranges of ports beside ports, without masquerade, more than 10 of them, beyond 65535, of "
            "another protocol than TCP or UDP, and such as overlap."
        )
        yield Refusal(f"{path}.portRanges", "nic-port-ranges", because, "Correct or leave out the ranges.")


def _apart(ranges: list[Manifest]) -> bool:
    """Whether ranges of ports are few, well formed and without overlap."""
    spans = sorted((span.get("protocol", ""), span.get("start", 0), span.get("end", 0)) for span in ranges)
    sound = all(protocol in ("TCP", "UDP") and 0 < start <= end < PORTS for protocol, start, end in spans)
    overlaps = any(one == other and start <= end for (one, _, end), (other, start, _) in pairwise(spans))
    return len(ranges) <= 10 and sound and not overlaps


def _dhcp(options: Manifest, path: str) -> Iterator[Refusal]:
    """What the guest is told by DHCP."""
    numbers = [option.get("option", 0) for option in options.get("privateOptions", [])]
    if len(set(numbers)) < len(numbers) or not all(224 <= number <= 254 for number in numbers):
        because = "KubeVirt refuses private DHCP options beyond 224 to 254, and one twice."
        yield Refusal(f"{path}.privateOptions", "nic-dhcp", because, "Correct or leave out the options.")
    if not all(map(_is_ipv4, options.get("ntpServers", []))):
        because = "KubeVirt refuses time servers for DHCP that are no IPv4 addresses."
        yield Refusal(f"{path}.ntpServers", "nic-dhcp", because, "Name servers by their IPv4 addresses.")


def _is_ipv4(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return address.version == 4 or address.ipv4_mapped is not None


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
    networks = every.networks
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
