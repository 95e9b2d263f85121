"""Devices of resource claims (dynamic resource allocation): pkg/dra/admitter and pkg/network/admitter/dra.go."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.target.admission.spec import RENAME, SUBDOMAIN, Manifest, Refusal, Spec, is_label

CORRECT = "Name the claim and the request of each device."


def of_resource_claims(every: Spec) -> Iterator[Refusal]:
    """Resource claims: names and sources."""
    seen: set[str] = set()
    for claim in every.spec.get("resourceClaims", []):
        name = claim.get("name", "")
        path = f"resourceClaims[{name}]"
        if not is_label(name) or name in seen:
            because = "KubeVirt refuses resource claims whose names are no DNS labels or not unique."
            yield Refusal(f"{path}.name", "resource-claim", because, RENAME)
        seen.add(name)
        sources = [claim[key] for key in ("resourceClaimName", "resourceClaimTemplateName") if key in claim]
        if len(sources) != 1 or not SUBDOMAIN.fullmatch(sources[0]):
            because = "KubeVirt refuses a resource claim that is not exactly one claim or template with a DNS name."
            yield Refusal(path, "resource-claim", because, "Name the claim, or its template.")


def of_claimed_devices(every: Spec) -> Iterator[Refusal]:
    """GPUs, host devices and networks that take a request of a resource claim, each request once."""
    known = {claim.get("name") for claim in every.spec.get("resourceClaims", [])}
    taken: set[tuple[str, str]] = set()
    for path, claim in _requests(every):
        pair = claim.get("claimName", ""), claim.get("requestName", "")
        if not all(pair) or pair[0] not in known or pair in taken:
            because = "KubeVirt refuses a device without a resource claim of the VM and a request of its own in it."
            yield Refusal(path, "claim-request", because, CORRECT)
        taken.add(pair)
    if every.target.at_least("1.6"):
        yield from _unnamed(every)
    yield from _networks(every)


def _requests(every: Spec) -> Iterator[tuple[str, Manifest]]:
    for kind in ("gpus", "hostDevices"):
        for device in every.devices.get(kind, []):
            if _is_claimed(device):
                yield f"domain.devices.{kind}[{device.get('name')}].claimName", device
    for network in every.networks:
        if "resourceClaim" in network:
            yield f"networks[{network.get('name')}].resourceClaim", network["resourceClaim"]


def _is_claimed(device: Manifest) -> bool:
    return not device.get("deviceName") and bool({"claimName", "requestName"} & device.keys())


def _unnamed(every: Spec) -> Iterator[Refusal]:
    for kind in ("gpus", "hostDevices"):
        devices = every.devices.get(kind, [])
        for device in devices:
            named, claims = bool(device.get("deviceName")), bool({"claimName", "requestName"} & device.keys())
            if named == claims:
                because = "KubeVirt refuses a device that is not exactly one of a device name and a resource claim."
                yield Refusal(f"domain.devices.{kind}[{device.get('name')}]", "device-name", because, "Keep one.")
    mixed = len({_is_claimed(device) for device in every.devices.get("gpus", [])}) > 1
    if mixed and every.target.at_least("1.8"):
        because = "KubeVirt refuses GPUs of which some are of resource claims and some are not."
        yield Refusal("domain.devices.gpus", "gpus-mixed", because, "Name them all alike.")


def _networks(every: Spec) -> Iterator[Refusal]:
    claimed = {network.get("name") for network in every.networks if "resourceClaim" in network}
    if claimed and any("multus" in network for network in every.networks):
        because = "KubeVirt refuses networks of resource claims beside those of multus."
        yield Refusal("networks", "networks-mixed", because, "Use one kind for all.")
    for nic in every.nics:
        if nic.get("name") in claimed and not {"sriov", "binding"} & nic.keys():
            because = "KubeVirt refuses a network of a resource claim without SR-IOV or a binding plugin."
            yield Refusal(f"domain.devices.interfaces[{nic['name']}]", "claim-request", because, "Use sriov.")
