"""What a VM names or takes: its namespace, names, networks, addresses, machine type, host devices."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.target.fits.wanted import Misfit, Wanted, instead


def unread(wanted: Wanted) -> Iterator[Misfit]:
    """What was not compared."""
    if wanted.cluster.unread:
        names = ", ".join(wanted.cluster.unread)
        because = f"Not compared with the cluster, whose access rules forbid to list them: {names}."
        yield Misfit("unread", "note", None, because, "Plan as a user who may list them to be sure.")


def namespace(wanted: Wanted) -> Iterator[Misfit]:
    """The namespace, and whether its pod security lets the pods of VMs run."""
    name, path, cluster = wanted.namespace, "VirtualMachine.metadata.namespace", wanted.cluster
    if not cluster.namespaces.knows():
        return
    there = cluster.namespaces.get(name)
    if there is None:
        because = f"The cluster has no namespace {name}, so it refuses the VM and its claims."
        yield Misfit("namespace", "blocker", path, because, f"kubectl create namespace {name}")
    # pkg/virt-controller/services/template.go: without this the pod has no seccomp profile.
    elif there.security == "restricted" and not (cluster.configuration.get("seccompConfiguration") or {}):
        because = f"Namespace {name} enforces pod security `restricted`, which refuses pods without a seccomp profile."
        remedy = "Set seccompConfiguration in the KubeVirt object, or let the namespace enforce `baseline`."
        yield Misfit("pod-security", "blocker", path, because, remedy)


def names(wanted: Wanted) -> Iterator[Misfit]:
    """Names of the VM and its claims that stand for something else already."""
    inside, name, source = wanted.namespace, wanted.name, wanted.translation.vm
    there = wanted.cluster.machines.get(name, inside)
    if there and there == (source.source, source.uuid):
        because = f"This VM is in the cluster already, as {inside}/{name}."
        yield Misfit(
            "there-already", "blocker", "VirtualMachine.metadata.name", because, "Leave it out with --exclude."
        )
    elif there:
        because = f"Namespace {inside} has another VM named {name}."
        remedy = "Plan into another namespace, or rename or delete that VM."
        yield Misfit("name-taken", "blocker", "VirtualMachine.metadata.name", because, remedy)
    adoptable = {disk.claim for disk in wanted.translation.disks if "adopt" in disk.methods}
    for volume, claim in wanted.claims:
        name = claim["metadata"]["name"]
        if wanted.cluster.claims.has(name, inside) and name not in adoptable:
            path = f"PersistentVolumeClaim[{volume}].metadata.name"
            because = f"Namespace {inside} has a claim named {name}, which the copy would overwrite."
            remedy = "Delete that claim if nothing needs it, or plan into another namespace."
            yield Misfit("claim-taken", "blocker", path, because, remedy)


def networks(wanted: Wanted) -> Iterator[Misfit]:
    """NetworkAttachmentDefinitions that are not there."""
    there = wanted.cluster.networks
    for label, network in wanted.networks.items():
        inside, _, name = network.partition("/")
        if network and there.knows(inside) and not there.has(name, inside):
            because = f"The cluster has no NetworkAttachmentDefinition {network}, so the VM never starts"
            because += instead(("/".join(key) for key in there.items), network)
            remedy = "Create it, or name another one in the site file."
            yield Misfit("network", "blocker", f"networks[{label}].multus.networkName", f"{because}.", remedy)


def addresses(wanted: Wanted) -> Iterator[Misfit]:
    """MACs that another VM has."""
    own = f"{wanted.namespace}/{wanted.name}"
    for nic in wanted.devices.get("interfaces", []):
        mac, network = nic.get("macAddress", "").lower(), wanted.networks.get(nic["name"], "")
        others = [owner for owner in wanted.cluster.addresses.get(mac, ()) if owner.vm != own]
        beside = [owner for owner in others if network and owner.network == network]
        path = f"domain.devices.interfaces[{nic['name']}].macAddress"
        remedy = "Delete that VM if it is this one, or give one of them another address."
        if beside:
            because = f"VM {beside[0].vm} has the address {mac} on the same network {network}: neither can be reached."
            yield Misfit("mac-taken", "blocker", path, because, remedy)
        elif others:
            because = f"VM {others[0].vm} has the address {mac} on another network, which kubemacpool refuses."
            yield Misfit("mac-elsewhere", "warning", path, because, remedy)


def bridges(wanted: Wanted) -> Iterator[Misfit]:
    """Bridges on the pod network, which an administrator can forbid."""
    network = wanted.cluster.configuration.get("network") or {}
    if network.get("permitBridgeInterfaceOnPodNetwork", True) is not False:
        return
    for nic in wanted.devices.get("interfaces", []):
        if "bridge" in nic and not wanted.networks.get(nic["name"]):
            path = f"domain.devices.interfaces[{nic['name']}].bridge"
            because = "The cluster refuses a bridge on the pod network."
            yield Misfit("pod-bridge", "blocker", path, because, "Use masquerade, or another network.")


def plugins(wanted: Wanted) -> Iterator[Misfit]:
    """Network binding plugins that the KubeVirt object does not register, or whose own network is not there."""
    there, defined = wanted.cluster.plugins, wanted.cluster.networks
    for nic in wanted.devices.get("interfaces", []):
        if wanted.cluster.kubevirt is None or "binding" not in nic:
            continue
        name, path = nic["binding"]["name"], f"domain.devices.interfaces[{nic['name']}].binding.name"
        network = there.get(name, {}).get("networkAttachmentDefinition", "")
        inside, _, own = (network if "/" in network else f"{wanted.namespace}/{network}").partition("/")
        if name not in there:
            because = f"The cluster has no network binding plugin {name}, so the VM never starts{instead(there, name)}."
            remedy = "Register it in the KubeVirt object (network.binding), or name another one in the site file."
            yield Misfit("plugin", "blocker", path, because, remedy)
        elif network and defined.knows(inside) and not defined.has(own, inside):
            because = f"The cluster lacks the NetworkAttachmentDefinition {inside}/{own} of the plugin {name}, "
            because += "so the VM never starts."
            yield Misfit("plugin-network", "blocker", path, because, f"Create it in namespace {inside}.")


def host_devices(wanted: Wanted) -> Iterator[Misfit]:
    """Host devices and GPUs that the administrator does not permit."""
    lists = (wanted.cluster.configuration.get("permittedHostDevices") or {}).values()
    permitted = {device["resourceName"] for devices in lists for device in devices or []}
    for kind in ("hostDevices", "gpus"):
        for device in wanted.devices.get(kind, []):
            name = device.get("deviceName")
            if wanted.cluster.kubevirt and name and name not in permitted:
                because = f"The cluster does not permit the host device {name}, so the VM never starts"
                because += instead(permitted, name)
                remedy = "Add it to permittedHostDevices of the KubeVirt object, or name another one in the site file."
                path = f"domain.devices.{kind}[{device['name']}].deviceName"
                yield Misfit("host-device", "blocker", path, f"{because}.", remedy)


def screens(wanted: Wanted) -> Iterator[Misfit]:
    """The vGPU that KubeVirt gives a screen by itself, which libvirt refuses in a VM without a graphics device.

    It is the first one where no GPU says a word of its display: pkg/virt-launcher/virtwrap/device/hostdevice.
    """
    gpus, permitted = wanted.devices.get("gpus", []), wanted.cluster.configuration.get("permittedHostDevices") or {}
    said = any("display" in (gpu.get("virtualGPUOptions") or {}) for gpu in gpus)
    if said or wanted.devices.get("autoattachGraphicsDevice") is not False:
        return
    mediated = {device["resourceName"] for device in permitted.get("mediatedDevices") or []}
    for gpu in [gpu for gpu in gpus if gpu.get("deviceName") in mediated][:1]:
        because = "KubeVirt gives this vGPU a screen, with which a VM without a graphics device does not start."
        remedy = "Set virtualGPUOptions.display.enabled of the GPU to false, or keep the graphics device."
        yield Misfit("gpu-detached", "blocker", f"domain.devices.gpus[{gpu['name']}]", because, remedy)
