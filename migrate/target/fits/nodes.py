"""Whether some node can run a VM: the labels, CPUs, memory and devices that its pod asks for.

The labels are those of pkg/virt-controller/services/nodeselectorrenderer.go, the resources those of renderresources.go
beside it, the memory beside the guest's that of pkg/hypervisor/kvm/hypervisorbackend.go.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

from migrate.target.admission.spec import GIB, MIB, amount, is_on
from migrate.target.cluster import Node
from migrate.target.fits import expansion
from migrate.target.fits.wanted import Misfit, Object, Wanted
from migrate.target.quantity import human

SCHEDULABLE = "kubevirt.io/schedulable"
ARCH = "kubernetes.io/arch"
MODEL, FEATURE = "cpu-model.node.kubevirt.io/", "cpu-feature.node.kubevirt.io/"
MACHINE, HYPERV = "machine-type.node.kubevirt.io/", "hyperv.node.kubevirt.io/"
# The first is the name of older versions.
CPU_MANAGER = ("cpumanager", "kubevirt.io/cpumanager")
DEVICES = "devices.kubevirt.io/"
KVM, MSHV, TUN, VHOST_NET, VSOCK = (DEVICES + name for name in ("kvm", "mshv", "tun", "vhost-net", "vhost-vsock"))
HOST_MODEL, ANY_MODEL = "host-model", ("host-model", "host-passthrough")
OBSOLETE = "node-labeller.kubevirt.io/obsolete-host-model"
HYPERV_OF_HOST = (
    "vpindex",
    "runtime",
    "reset",
    "synic",
    "synictimer",
    "frequencies",
    "reenlightenment",
    "tlbflush",
    "ipi",
)
PATHS = {
    "memory": "domain.memory.guest",
    "cpu": "domain.cpu.sockets",
    KVM: None,
    MSHV: None,
    TUN: "domain.devices.autoattachPodInterface",
    VHOST_NET: "domain.devices.interfaces",
    VSOCK: "domain.devices.autoattachVSOCK",
}
SECRET_GUESTS = {"sev": "kubevirt.io/sev", "snp": "kubevirt.io/sev-snp", "tdx": "kubevirt.io/tdx"}
SEV_ES, SECURE_EXECUTION = "kubevirt.io/sev-es", "kubevirt.io/s390-pv"
INTEL = "cpu-vendor.node.kubevirt.io/Intel"
EMULATED = "Have virtualization switched on in the nodes' firmware, or useEmulation set in the KubeVirt object."
# A cpuRequest of this much is none to KubeVirt: virt-config.go, DefaultCPURequest.
NO_DEFAULT = Fraction(1, 10)
# What a VM's pod takes beside the guest's memory, in MiB.
OF_POD, OF_VCPU, OF_SCREEN, OF_ARM, OF_TPM, OF_DEDICATED, OF_SECRET = 248, 8, 32, 128, 53, 100, 256


class Need(NamedTuple):
    """What a VM asks of a node: the reason's name, the path it stands at, the thing, the test of a node, what to do."""

    id: str
    target: str | None
    what: str
    met: Callable[[Node], bool]
    remedy: str


def room(wanted: Wanted) -> Iterator[Misfit]:
    """Needs that no node meets; where each is met somewhere, that no node meets them together."""
    if not wanted.cluster.nodes.knows():
        return
    every = wanted.cluster.nodes.within().values()
    nodes = [node for node in every if node.labels.get(SCHEDULABLE) == "true" and _tolerates(wanted.spec, node)]
    if not nodes:
        because = f"None of the cluster's {len(every)} nodes runs VMs: {SCHEDULABLE}=true on none without taints."
        yield Misfit("no-nodes", "blocker", None, because, "See that virt-handler runs on the nodes meant for VMs.")
        return
    needs = list(_needs(wanted, nodes))
    alone = [need for need in needs if not any(need.met(node) for node in nodes)]
    for need in alone:
        because = f"No node of the cluster has {need.what}, so the VM never starts."
        yield Misfit(need.id, "blocker", need.target, because, need.remedy)
    if not alone and not any(all(need.met(node) for need in needs) for node in nodes):
        nearest = min(([need for need in needs if not need.met(node)] for node in nodes), key=len)
        lacks = " and ".join(need.what for need in nearest)
        because = (
            f"No one node of the cluster has all that the VM asks for, so it never starts; the nearest lacks {lacks}."
        )
        yield Misfit("no-node", "blocker", nearest[0].target, because, nearest[0].remedy)


def _tolerates(spec: Object, node: Node) -> bool:
    keys = {toleration.get("key") for toleration in spec.get("tolerations", [])}
    return None in keys or all(taint in keys for taint in node.taints)


def _needs(wanted: Wanted, nodes: list[Node]) -> Iterator[Need]:
    defaults = wanted.cluster.configuration.get("architectureConfiguration") or {}
    arch = wanted.spec.get("architecture") or defaults.get("defaultArchitecture")
    if arch:
        remedy = "Leave this VM on a host of its architecture, or add such a node."
        yield _label("architecture", "architecture", f"the architecture {arch}", ARCH, remedy, arch)
    selector = (wanted.developer.get("nodeSelectors") or {}) | wanted.spec.get("nodeSelector", {})
    for key, value in selector.items():
        yield _label("node-selector", f"nodeSelector[{key}]", f"the label {key}={value}", key, "Label a node.", value)
    yield from _of_cpu(wanted, nodes)
    yield from _of_features(wanted)
    kind = wanted.domain.get("machine", {}).get("type")
    # Older versions label no machine types.
    if kind and any(label.startswith(MACHINE) for node in nodes for label in node.labels):
        remedy = "Use a machine type that the nodes have, such as q35."
        yield _label("machine-type", "domain.machine.type", f"the machine type {kind}", MACHINE + kind, remedy)
    for resource, number in requests(wanted).items():
        yield _amount(wanted, resource, number)


def _label(id: str, path: str, what: str, label: str, remedy: str, value: str = "true") -> Need:
    return Need(id, path, what, lambda node: node.labels.get(label) == value, remedy)


def _capable(id: str, path: str, what: str, label: str, remedy: str) -> Need:
    """A label that is empty on nodes of KubeVirt 1.3, and later "true": vmi-mutator.go, node_labeller.go."""
    return Need(id, path, what, lambda node: label in node.labels, remedy)


def _of_cpu(wanted: Wanted, nodes: list[Node]) -> Iterator[Need]:
    cpu, configuration = wanted.domain.get("cpu", {}), wanted.cluster.configuration
    # Without a model the VM gets one before it is scheduled: pkg/defaults.
    arch = wanted.spec.get("architecture") or wanted.cluster.architecture
    own = "host-passthrough" if arch == "arm64" else configuration.get("cpuModel")
    model = cpu.get("model") or own or HOST_MODEL
    if model == HOST_MODEL and (cpu.get("model") or wanted.cluster.kubevirt):
        what, remedy = "a host model that is not obsolete", "Choose a CPU model that the nodes have."
        yield Need("host-model", "domain.cpu.model", what, lambda node: OBSOLETE not in node.labels, remedy)
    elif model not in ANY_MODEL:
        obsolete = model in (configuration.get("obsoleteCPUModels") or ())
        what = f"the CPU model {model}" + (" (the KubeVirt object has it in obsoleteCPUModels)" if obsolete else "")
        there = {label.removeprefix(MODEL) for node in nodes for label in node.labels if label.startswith(MODEL)}
        near = difflib.get_close_matches(model, sorted(there), n=3, cutoff=0.3)
        remedy = f"Choose a CPU model that the nodes have{': ' + ', '.join(near) if near else ''}, or host-model."
        yield _label("cpu-model", "domain.cpu.model", what, MODEL + model, remedy)
    for feature in cpu.get("features", []):
        name, path = feature["name"], f"domain.cpu.features[{feature['name']}].policy"
        if feature.get("policy") in (None, "", "require"):
            remedy = "Make the feature optional, or add a node that has it."
            yield _label("cpu-feature", path, f"the CPU feature {name}", FEATURE + name, remedy)
        elif feature["policy"] == "forbid":
            yield _forbidden(name, path)
    if cpu.get("dedicatedCpuPlacement"):
        path, remedy = "domain.cpu.dedicatedCpuPlacement", "Give a node the static CPU manager policy, or share CPUs."
        yield Need("cpu-manager", path, "the static CPU manager policy", _manages_cpus, remedy)
    if "realtime" in cpu:
        what, label = "a realtime kernel", "kubevirt.io/realtime"
        yield _capable("realtime", "domain.cpu.realtime", what, label, "Leave realtime out.")


def _forbidden(name: str, path: str) -> Need:
    """A node without a CPU feature."""
    label, remedy = FEATURE + name, "Make the policy disable, which hides the feature, or add a node without it."
    return Need("cpu-forbidden", path, f"a CPU without {name}", lambda node: label not in node.labels, remedy)


def _manages_cpus(node: Node) -> bool:
    return any(node.labels.get(name) == "true" for name in CPU_MANAGER)


def _of_features(wanted: Wanted) -> Iterator[Need]:
    hyperv = wanted.domain.get("features", {}).get("hyperv", {})
    strict = wanted.target.enabled("HypervStrictCheck")
    for name in HYPERV_OF_HOST if strict else ():
        if is_on(hyperv.get(name)):
            path, what = f"domain.features.hyperv.{name}", f"the Hyper-V feature {name}"
            yield _label("hyperv", path, what, HYPERV + name, "Leave the feature out, or add a node that has it.")
    if strict and is_on(hyperv.get("evmcs")):
        remedy = "Leave the feature out, or add such a node."
        yield _label("hyperv", "domain.features.hyperv.evmcs", "a CPU of Intel", INTEL, remedy)
    for path, what, label in _secret(wanted):
        remedy = "Add a node whose CPU and firmware have it switched on."
        yield _capable("launch-security", path, f"the memory encryption {what}", label, remedy)


def _secret(wanted: Wanted) -> Iterator[tuple[str, str, str]]:
    """The path, the name and the node's label of each kind of memory encryption that the VM asks for."""
    security, path = wanted.domain.get("launchSecurity"), "domain.launchSecurity"
    for kind in [kind for kind in security or {} if kind in SECRET_GUESTS]:
        yield f"{path}.{kind}", kind, SECRET_GUESTS[kind]
    if expansion.at(security, "sev.policy.encryptedState"):
        yield f"{path}.sev.policy.encryptedState", "sev-es", SEV_ES
    # 1.6 is the first that knows it.
    if security is not None and wanted.spec.get("architecture") == "s390x" and wanted.target.at_least("1.6"):
        yield path, "Secure Execution", SECURE_EXECUTION


def path_of(wanted: Wanted, resource: str) -> str | None:
    """Where the VM asks for a resource, None where every VM does."""
    if resource in PATHS or resource.startswith("hugepages-"):
        return PATHS.get(resource, "domain.memory.hugepages.pageSize")
    for kind in ("hostDevices", "gpus"):
        for device in wanted.devices.get(kind, []):
            if device.get("deviceName") == resource:
                return f"domain.devices.{kind}[{device['name']}].deviceName"
    takers = (label for label, network in wanted.networks.items() if _resource_of(wanted, network) == resource)
    return next((f"networks[{label}].multus.networkName" for label in takers), None)


def _resource_of(wanted: Wanted, network: str) -> str | None:
    """The resource that a NIC on a network takes."""
    inside, _, name = network.partition("/")
    return wanted.cluster.networks.get(name, inside)


def _amount(wanted: Wanted, name: str, number: Fraction) -> Need:
    pages = name.startswith("hugepages-")
    shown = human(int(number)) if pages or name == "memory" else f"{float(number):g}"
    what = {"memory": f"{shown} of memory for the VM and its pod", "cpu": f"{shown} CPUs"}.get(
        name, f"{shown} of {name}"
    )
    id = name if name in ("memory", "cpu") else "huge-pages" if pages else "device"
    enough: Callable[[Node], bool] = lambda node: node.allocatable.get(name, Fraction(0)) >= number  # noqa: E731
    remedy = EMULATED if name in (KVM, MSHV) else "Add a node that has it, or give the VM less."
    return Need(id, path_of(wanted, name), what, enough, remedy)


def requests(wanted: Wanted) -> dict[str, Fraction]:
    """What the VM's pod asks of a node, by resource; no CPU and memory where an unread instance type gives them."""
    asked: Counter[str] = Counter()
    for kind in ("hostDevices", "gpus"):
        asked.update(device["deviceName"] for device in wanted.devices.get(kind, []) if device.get("deviceName"))
    asked.update(filter(None, (_resource_of(wanted, network) for network in wanted.networks.values())))
    asked.update(_virtual(wanted))
    found = {name: Fraction(count) for name, count in asked.items()}
    unread = wanted.named("instancetype")[1] and not wanted.instancetype
    return found if unread else found | _compute(wanted)


def _virtual(wanted: Wanted) -> Iterator[str]:
    """The devices of a node that make VMs and their NICs fast, as getRequiredResources in renderresources.go."""
    # Where no KubeVirt object was seen, it may say so.
    emulated = wanted.developer.get("useEmulation") or not wanted.cluster.kubevirt
    nics = wanted.devices.get("interfaces", [])
    if not nics and not wanted.networks and wanted.devices.get("autoattachPodInterface") is not False:
        nics = [{}]
    if nics:
        yield TUN
    if not emulated and any(nic.get("model") in (None, "", "virtio") for nic in nics):
        yield VHOST_NET
    if not emulated:
        yield _hypervisor(wanted)
    if wanted.devices.get("autoattachVSOCK"):
        yield VSOCK


def _hypervisor(wanted: Wanted) -> str:
    """The device of the hypervisor: pkg/virt-config/virt-config.go, GetHypervisorFromKvConfig."""
    named = wanted.cluster.configuration.get("hypervisors") or []
    chosen = named[0].get("name") if named and wanted.target.enabled("ConfigurableHypervisor") else "kvm"
    return MSHV if chosen == "hyperv-direct" else KVM


def _compute(wanted: Wanted) -> dict[str, Fraction]:
    """CPUs, and bytes of memory and huge pages."""
    memory = wanted.domain.get("memory", {})
    own = wanted.domain.get("resources", {}).get("requests", {})
    guest = amount(memory.get("guest")) or amount(own.get("memory")) or Fraction(0)
    asked = _of_guest(wanted)
    beside = beside_guest(wanted)
    page = memory.get("hugepages", {}).get("pageSize")
    found = {f"hugepages-{page}": guest, "memory": beside} if page else {"memory": asked + beside}
    return found | {"cpu": _cpus(wanted)}


def _cpus(wanted: Wanted) -> Fraction:
    """The CPUs that the pod asks for: renderresources.go, and setDefaultResourceRequests in pkg/defaults."""
    cpu, resources = wanted.domain.get("cpu", {}), wanted.domain.get("resources", {})
    if cpu.get("dedicatedCpuPlacement"):
        return Fraction(threads(wanted) + bool(cpu.get("isolateEmulatorThread")))
    own = [amount(resources.get(part, {}).get("cpu")) for part in ("requests", "limits")]
    default = amount(wanted.cluster.configuration.get("cpuRequest"))
    asked = own[0] or own[1] or (default if default != NO_DEFAULT else None)
    if asked is not None:
        return Fraction(asked)
    # A CPU of a node is shared by ten of guests.
    return Fraction(threads(wanted), wanted.developer.get("cpuAllocationRatio") or 10)


def threads(wanted: Wanted) -> int:
    """The threads of a VM that take CPUs: those of the guest and those in the pool of I/O threads."""
    pool = wanted.domain.get("ioThreads", {}).get("supplementalPoolThreadCount") or 0
    # 1.6 counts the pool's (getIOThreadsCount); 1.5, which has it first, may not.
    return vcpus(wanted.domain.get("cpu", {})) + (pool if wanted.target.at_least("1.6") else 0)


def _of_guest(wanted: Wanted) -> Fraction:
    """Bytes of memory that the pod asks for the guest."""
    requested = amount(wanted.domain.get("resources", {}).get("requests", {}).get("memory"))
    guest = amount(wanted.domain.get("memory", {}).get("guest")) or Fraction(0)
    return requested or guest * 100 / (wanted.developer.get("memoryOvercommit") or 100)


def vcpus(cpu: Object) -> int:
    """The CPUs of the guest."""
    sockets, cores, threads = (cpu.get(name) or 1 for name in ("sockets", "cores", "threads"))
    return sockets * cores * threads


def beside_guest(wanted: Wanted) -> Fraction:
    """Bytes of memory beside the guest's, as the newest version counts them."""
    devices, cpu = wanted.devices, wanted.domain.get("cpu", {})
    mebibytes = OF_POD + OF_VCPU * vcpus(cpu)
    mebibytes += OF_SCREEN if devices.get("autoattachGraphicsDevice", True) else 0
    mebibytes += OF_ARM if wanted.spec.get("architecture") == "arm64" else 0
    mebibytes += OF_TPM if "tpm" in devices else 0
    mebibytes += OF_DEDICATED if cpu.get("dedicatedCpuPlacement") else 0
    mebibytes += OF_SECRET if {"sev", "snp"} & set(wanted.domain.get("launchSecurity", {})) else 0
    passed_on = [*devices.get("hostDevices", []), *devices.get("gpus", [])]
    passed_on += [nic for nic in devices.get("interfaces", []) if "sriov" in nic]
    ratio = Fraction(wanted.cluster.configuration.get("additionalGuestMemoryOverheadRatio") or 1)
    return (mebibytes * MIB + _of_guest(wanted) / 512 + (GIB if passed_on else 0)) * ratio + _of_plugins(wanted)


def _of_plugins(wanted: Wanted) -> Fraction:
    """Bytes of memory that network binding plugins ask for, each once (pkg/network/resources/memory.go)."""
    named = {nic["binding"]["name"] for nic in wanted.devices.get("interfaces", []) if "binding" in nic}
    overheads = (wanted.cluster.plugins.get(name, {}).get("computeResourceOverhead") or {} for name in named)
    requests = ((overhead.get("requests") or {}).get("memory") for overhead in overheads)
    return sum((amount(memory) or Fraction(0) for memory in requests), Fraction(0))
