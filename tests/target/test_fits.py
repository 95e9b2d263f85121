"""A VM that asks for much, and a cluster that has all of it: each thing taken away is one finding."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from lxml import etree

from migrate.mapping import paths
from migrate.model import VM, PlannedDisk, Translation
from migrate.target import vocabulary
from migrate.target.cluster import Address, Cluster, Limit, Listing, Modes, Namespace, Node, Origin, Quota, Scope
from migrate.target.fits import Misfit, misfits
from migrate.target.fits.nodes import beside_guest
from migrate.target.fits.wanted import Wanted

TARGET = vocabulary.target("1.9", "+HypervStrictCheck")
GIB = 2**30
MAC = "52:54:00:ab:cd:01"
SPEC: dict[str, Any] = {
    "architecture": "amd64",
    "nodeSelector": {"zone": "a"},
    "networks": [{"name": "default", "pod": {}}, {"name": "lan", "multus": {"networkName": "lan"}}],
    "volumes": [
        {"name": "vda", "persistentVolumeClaim": {"claimName": "web-vda"}},
        {"name": "www", "persistentVolumeClaim": {"claimName": "www-files"}},
    ],
    "domain": {
        "machine": {"type": "q35"},
        "cpu": {
            "model": "Skylake-Client",
            "features": [{"name": "vmx"}, {"name": "avx", "policy": "disable"}],
            "sockets": 2,
            "cores": 2,
            "dedicatedCpuPlacement": True,
            "realtime": {},
        },
        "memory": {"guest": "4Gi", "hugepages": {"pageSize": "1Gi"}},
        "features": {"hyperv": {"vpindex": {"enabled": True}, "ipi": {"enabled": False}}},
        "launchSecurity": {"sev": {}},
        "devices": {
            "autoattachVSOCK": True,
            "tpm": {},
            "filesystems": [{"name": "www", "virtiofs": {}}],
            "hostDevices": [{"name": "nic0", "deviceName": "intel.com/x710"}],
            "gpus": [
                {"name": "gpu0", "deviceName": "nvidia.com/a40"},
                {"name": "gpu1", "deviceName": "nvidia.com/a40"},
            ],
            "interfaces": [
                {"name": "default", "masquerade": {}},
                {"name": "lan", "sriov": {}, "macAddress": MAC.upper()},
            ],
        },
    },
}
LABELS = {
    "kubevirt.io/schedulable": "true",
    "kubernetes.io/arch": "amd64",
    "zone": "a",
    "cpu-model.node.kubevirt.io/Skylake-Client": "true",
    "cpu-feature.node.kubevirt.io/vmx": "true",
    "machine-type.node.kubevirt.io/q35": "true",
    "machine-type.node.kubevirt.io/pc-q35-8.2": "true",
    "hyperv.node.kubevirt.io/vpindex": "true",
    "cpumanager": "true",
    "kubevirt.io/realtime": "true",
    "kubevirt.io/sev": "true",
}
ALLOCATABLE = {
    "memory": 3 * GIB,
    "cpu": 4,
    "hugepages-1Gi": 4 * GIB,
    "intel.com/x710": 1,
    "intel.com/vf": 1,
    "nvidia.com/a40": 2,
    "devices.kubevirt.io/kvm": 1000,
    "devices.kubevirt.io/tun": 1000,
    "devices.kubevirt.io/vhost-net": 1000,
    "devices.kubevirt.io/vhost-vsock": 1,
}
FULL = Node(LABELS, (), {name: Fraction(number) for name, number in ALLOCATABLE.items()})
CLASS, MODES = {("", "fast"): False}, (Modes(("ReadWriteMany", "ReadWriteOnce"), "Filesystem"),)
CLUSTER = Cluster(
    context="c",
    kubevirt="v1.9.0",
    configuration={
        "permittedHostDevices": {
            "pciHostDevices": [{"resourceName": "intel.com/x710"}],
            "mediatedDevices": [{"resourceName": "nvidia.com/a40"}],
        }
    },
    nodes=Listing({("", "n1"): FULL}),
    namespaces=Listing({("", "vms"): Namespace("baseline")}),
    storage_classes=Listing(CLASS),
    storage_profiles=Listing({("", "fast"): MODES}),
    claims=Listing({("vms", "www-files"): None}),
    networks=Listing({("vms", "lan"): "intel.com/vf"}),
    preferences=Listing({("", "VirtualMachineClusterPreference/rhel.9"): {}}),
)


def wanted(size: str = "10Gi", **spec: Any) -> Translation:
    """SPEC with some of its fields changed, and one claim."""
    vm = VM("web", "u", "libvirt", "qemu://h/system", "qemu://h/system", folder="web")
    template = {"spec": copy.deepcopy(SPEC) | spec}
    claim = {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "web-vda", "namespace": "vms"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": "Filesystem",
            "storageClassName": "fast",
            "resources": {"requests": {"storage": size}},
        },
    }
    found = Translation(vm, [], claims=[claim])
    found.disks = [PlannedDisk("vda", "vms", "web-vda", ["file"], None, None, None, None, None)]
    found.manifest = {
        "kind": "VirtualMachine",
        "metadata": {"name": "web", "namespace": "vms"},
        "spec": {"preference": {"name": "rhel.9"}, "template": template},
    }
    return found


def found(translation: Translation, cluster: Cluster) -> list[Misfit]:
    return list(misfits(translation, cluster, TARGET, Counter()))


def without(label: str = "", resource: str = "", number: int = 0) -> Cluster:
    """The cluster, whose node lacks a label or has less of a resource."""
    labels = {name: value for name, value in LABELS.items() if name != label}
    allocatable = FULL.allocatable | ({resource: Fraction(number)} if resource else {})
    return replace(CLUSTER, nodes=Listing({("", "n1"): Node(labels, (), allocatable)}))


def configured(**fields: Any) -> Cluster:
    return replace(CLUSTER, configuration=CLUSTER.configuration | fields)


def limited(kind: str, **most: int) -> Cluster:
    row = Limit(kind, {}, {name: Fraction(number) for name, number in most.items()})
    return replace(CLUSTER, limits=Listing({("vms", "l"): (row,)}))


def test_a_vm_that_has_all_it_asks_for_fits() -> None:
    assert found(wanted(), CLUSTER) == []


MACHINE, MODEL, DEVICE = "domain.machine.type", "domain.cpu.model", "domain.devices.hostDevices[nic0].deviceName"
STORAGE_CLASS = "PersistentVolumeClaim[vda].spec.storageClassName"
NAME, NAMESPACE = "VirtualMachine.metadata.name", "VirtualMachine.metadata.namespace"
LAN = "networks[lan].multus.networkName"
ADDRESS = "domain.devices.interfaces[lan].macAddress"
SIZE = "PersistentVolumeClaim[vda].spec.resources.requests.storage"
CASES = [
    ("unread", None, replace(CLUSTER, unread=("nodes",))),
    ("namespace", NAMESPACE, replace(CLUSTER, namespaces=Listing())),
    ("pod-security", NAMESPACE, replace(CLUSTER, namespaces=Listing({("", "vms"): Namespace("restricted")}))),
    ("name-taken", NAME, replace(CLUSTER, machines=Listing({("vms", "web"): Origin()}))),
    ("there-already", NAME, replace(CLUSTER, machines=Listing({("vms", "web"): Origin("qemu://h/system", "u")}))),
    (
        "claim-taken",
        "PersistentVolumeClaim[vda].metadata.name",
        replace(CLUSTER, claims=Listing({("vms", "web-vda"): None, ("vms", "www-files"): None})),
    ),
    ("claim-missing", "volumes[www].persistentVolumeClaim.claimName", replace(CLUSTER, claims=Listing())),
    ("mac-taken", ADDRESS, replace(CLUSTER, addresses={MAC: (Address("x/y", ""), Address("a/b", "vms/lan"))})),
    ("mac-elsewhere", ADDRESS, replace(CLUSTER, addresses={MAC: (Address("a/b", "a/lan"),)})),
    ("machine-type", MACHINE, without(label="machine-type.node.kubevirt.io/q35")),
    ("preference", "VirtualMachine.spec.preference", replace(CLUSTER, preferences=Listing())),
    ("default-class", STORAGE_CLASS, replace(CLUSTER, storage_classes=Listing({("", "slow"): False}))),
    ("storage-class", STORAGE_CLASS, replace(CLUSTER, storage_classes=Listing({("", "slow"): True}))),
    (
        "storage-modes",
        "PersistentVolumeClaim[vda].spec.accessModes",
        replace(CLUSTER, storage_profiles=Listing({("", "fast"): (Modes(("ReadWriteOnce",), "Block"),)})),
    ),
    ("limit-claim", SIZE, limited("PersistentVolumeClaim", storage=GIB)),
    ("limit-container", "domain.cpu.sockets", limited("Container", cpu=1)),
    ("limit-pod", "domain.memory.guest", limited("Pod", memory=GIB)),
    ("no-nodes", None, without(label="kubevirt.io/schedulable")),
    ("no-nodes", None, replace(CLUSTER, nodes=Listing({("", "n1"): replace(FULL, taints=("gpu",))}))),
    ("architecture", "architecture", without(label="kubernetes.io/arch")),
    ("node-selector", "nodeSelector[zone]", without(label="zone")),
    ("cpu-model", MODEL, without(label="cpu-model.node.kubevirt.io/Skylake-Client")),
    ("cpu-feature", "domain.cpu.features[vmx].policy", without(label="cpu-feature.node.kubevirt.io/vmx")),
    ("cpu-manager", "domain.cpu.dedicatedCpuPlacement", without(label="cpumanager")),
    ("realtime", "domain.cpu.realtime", without(label="kubevirt.io/realtime")),
    ("hyperv", "domain.features.hyperv.vpindex", without(label="hyperv.node.kubevirt.io/vpindex")),
    ("launch-security", "domain.launchSecurity.sev", without(label="kubevirt.io/sev")),
    ("memory", "domain.memory.guest", without(resource="memory", number=GIB)),
    ("cpu", "domain.cpu.sockets", without(resource="cpu", number=3)),
    ("huge-pages", "domain.memory.hugepages.pageSize", without(resource="hugepages-1Gi", number=3 * GIB)),
    ("device", DEVICE, without(resource="intel.com/x710")),
    ("device", "domain.devices.gpus[gpu0].deviceName", without(resource="nvidia.com/a40", number=1)),
    ("device", LAN, without(resource="intel.com/vf")),
    ("device", "domain.devices.autoattachVSOCK", without(resource="devices.kubevirt.io/vhost-vsock")),
    ("device", None, without(resource="devices.kubevirt.io/kvm")),
    ("device", "domain.devices.autoattachPodInterface", without(resource="devices.kubevirt.io/tun")),
    ("device", "domain.devices.interfaces", without(resource="devices.kubevirt.io/vhost-net")),
]


@pytest.mark.parametrize(("id", "path", "cluster"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_what_is_taken_away_is_found(id: str, path: str | None, cluster: Cluster) -> None:
    translation = wanted()
    if id == "default-class":
        del translation.claims[0]["spec"]["storageClassName"]
    (misfit,) = found(translation, cluster)
    assert (misfit.id, misfit.target) == (id, path)


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_sentences_are_whole(case: tuple[str, str | None, Cluster]) -> None:
    for misfit in found(wanted(), case[2]):
        assert misfit.because.endswith(".") and "None" not in misfit.because.replace("None of", "")
        assert misfit.remedy


def on_node(spec: dict[str, Any], labels: dict[str, str], target: Any = TARGET, **fields: Any) -> list[str]:
    """The ids of what keeps a small VM off a node with more labels; `spec` is that of its domain."""
    domain = {"memory": {"guest": "1Gi"}, **spec}
    node = Node(LABELS | labels, (), FULL.allocatable)
    cluster = replace(CLUSTER, nodes=Listing({("", "n1"): node}), **fields)
    return [misfit.id for misfit in misfits(wanted(domain=domain, networks=[]), cluster, target, Counter())]


@pytest.mark.parametrize(
    ("cpu", "configuration", "architecture", "expected"),
    [
        ({"model": "host-model"}, {}, "amd64", ["host-model"]),
        ({}, {}, "amd64", ["host-model"]),
        ({}, {"cpuModel": "host-model"}, "amd64", ["host-model"]),
        ({}, {"cpuModel": "Skylake-Client"}, "amd64", []),
        ({"model": "host-passthrough"}, {}, "amd64", []),
        ({"model": "Skylake-Client"}, {}, "amd64", []),
        ({}, {}, "arm64", []),
    ],
)
def test_the_host_model_of_an_obsolete_cpu_starts_nowhere(
    cpu: dict[str, Any], configuration: dict[str, Any], architecture: str, expected: list[str]
) -> None:
    spec = {"domain": {"memory": {"guest": "1Gi"}, "cpu": cpu}, "networks": [], "architecture": architecture}
    labels = {"node-labeller.kubevirt.io/obsolete-host-model": "true", "kubernetes.io/arch": architecture}
    node = Node(LABELS | labels, (), FULL.allocatable)
    cluster = replace(CLUSTER, nodes=Listing({("", "n1"): node}), configuration=configuration)
    assert [misfit.id for misfit in found(wanted(**spec), cluster)] == expected
    other = replace(node, labels=LABELS | {"kubernetes.io/arch": architecture})
    assert found(wanted(**spec), replace(cluster, kubevirt=None)) == [] or "model" in cpu
    there = replace(cluster, nodes=Listing({("", "n1"): node, ("", "n2"): other}))
    assert found(wanted(**spec), there) == []


@pytest.mark.parametrize("cpu", [{}, {"model": "Skylake-Client"}])
@pytest.mark.parametrize(
    ("name", "policy", "expected"),
    [
        ("svm", "forbid", []),
        ("vmx", "forbid", ["cpu-forbidden"]),
        ("vmx", "disable", []),
        ("vmx", "require", []),
        ("svm", "require", ["cpu-feature"]),
        ("svm", "optional", []),
    ],
)
def test_cpu_features_choose_nodes(cpu: dict[str, Any], name: str, policy: str, expected: list[str]) -> None:
    assert on_node({"cpu": cpu | {"features": [{"name": name, "policy": policy}]}}, {}) == expected


ES = {"launchSecurity": {"sev": {"policy": {"encryptedState": True}}}}
PLAIN_SEV = {"launchSecurity": {"sev": {"policy": {"encryptedState": False}}}}
EVMCS = {"features": {"hyperv": {"evmcs": {}}}}
STRICT = "+HypervStrictCheck"


@pytest.mark.parametrize(
    ("version", "gates", "spec", "label", "expected"),
    [
        ("1.9", "", ES, "kubevirt.io/sev-es", ["launch-security"]),
        ("1.3", "", ES, "kubevirt.io/sev-es", ["launch-security"]),
        ("1.9", "", PLAIN_SEV, "kubevirt.io/sev-es", []),
        ("1.9", STRICT, EVMCS, "cpu-vendor.node.kubevirt.io/Intel", ["hyperv"]),
        ("1.3", STRICT, EVMCS, "cpu-vendor.node.kubevirt.io/Intel", ["hyperv"]),
        ("1.9", "", EVMCS, "cpu-vendor.node.kubevirt.io/Intel", []),
        (
            "1.9",
            STRICT,
            {"features": {"hyperv": {"evmcs": {"enabled": False}}}},
            "cpu-vendor.node.kubevirt.io/Intel",
            [],
        ),
    ],
)
def test_labels_by_which_kubevirt_chooses_nodes(
    version: str, gates: str, spec: dict[str, Any], label: str, expected: list[str]
) -> None:
    target = vocabulary.target(version, gates)
    assert on_node(spec, {}, target) == expected
    assert on_node(spec, {label: "true"}, target) == []


@pytest.mark.parametrize(
    ("version", "expected"), [("1.9", ["launch-security"]), ("1.6", ["launch-security"]), ("1.5", [])]
)
def test_secure_execution_needs_a_node_that_has_it(version: str, expected: list[str]) -> None:
    domain = {"memory": {"guest": "1Gi"}, "launchSecurity": {}}
    for label, ids in ({}, expected), ({"kubevirt.io/s390-pv": "true"}, []):
        labels = LABELS | label | {"kubernetes.io/arch": "s390x"}
        cluster = replace(CLUSTER, nodes=Listing({("", "n1"): Node(labels, (), FULL.allocatable)}))
        vm = wanted(domain=domain, networks=[], architecture="s390x")
        assert [each.id for each in misfits(vm, cluster, vocabulary.target(version), Counter())] == ids


def test_labels_of_kubevirt_1_3_are_empty() -> None:
    labels = {"kubevirt.io/realtime": "", "kubevirt.io/sev": ""}
    assert on_node({"cpu": {"realtime": {}}, "launchSecurity": {"sev": {}}}, labels, vocabulary.target("1.3")) == []


KVM, MSHV, TUN, NET = (f"devices.kubevirt.io/{name}" for name in ("kvm", "mshv", "tun", "vhost-net"))
EMULATION = {"developerConfiguration": {"useEmulation": True}}
HYPERVISORS = {"hypervisors": [{"name": "hyperv-direct"}]}


@pytest.mark.parametrize(
    ("devices", "configuration", "gates", "expected"),
    [
        ({}, {}, "", [TUN, NET, KVM]),
        ({}, EMULATION, "", [TUN]),
        ({"autoattachPodInterface": False}, {}, "", [KVM]),
        ({"autoattachPodInterface": False, "interfaces": [{"name": "a", "model": "e1000"}]}, {}, "", [TUN, KVM]),
        ({"interfaces": [{"name": "a", "model": "e1000"}, {"name": "b"}]}, {}, "", [TUN, NET, KVM]),
        ({}, HYPERVISORS, "", [TUN, NET, KVM]),
        ({}, HYPERVISORS, "+ConfigurableHypervisor", [TUN, NET, MSHV]),
    ],
)
def test_vms_ask_for_devices_of_nodes(
    devices: dict[str, Any], configuration: dict[str, Any], gates: str, expected: list[str]
) -> None:
    bare = wanted(domain={"memory": {"guest": "1Gi"}, "devices": devices}, networks=[], nodeSelector={})
    allocatable = {name: number for name, number in FULL.allocatable.items() if "/" not in name}
    cluster = replace(CLUSTER, nodes=Listing({("", "n1"): Node(LABELS, (), allocatable)}), configuration=configuration)
    target = vocabulary.target("1.9", gates)
    for each, names in ((cluster, expected), (replace(cluster, kubevirt=None), [TUN] if TUN in expected else [])):
        said = [misfit.because for misfit in misfits(bare, each, target, Counter())]
        assert said == [f"No node of the cluster has 1 of {name}, so the VM never starts." for name in names]


def test_a_network_that_is_missing_is_named_with_what_there_is() -> None:
    cluster = replace(CLUSTER, networks=Listing({("vms", "lan2"): "intel.com/vf"}))
    (misfit,) = found(wanted(), cluster)
    assert (misfit.id, misfit.target) == ("network", LAN)
    assert "there is vms/lan2" in misfit.because


def test_host_devices_have_to_be_permitted() -> None:
    ids = [misfit.id for misfit in found(wanted(), configured(permittedHostDevices={"pciHostDevices": None}))]
    assert ids == ["host-device"] * 3


def test_needs_that_only_different_nodes_meet_are_one_finding() -> None:
    small = replace(FULL, allocatable=FULL.allocatable | {"cpu": Fraction(1)})
    other = replace(FULL, labels={name: value for name, value in LABELS.items() if name != "zone"})
    (misfit,) = found(wanted(), replace(CLUSTER, nodes=Listing({("", "n1"): small, ("", "n2"): other})))
    assert misfit.id == "no-node" and misfit.severity == "blocker"
    assert "4 CPUs" in misfit.because


def test_what_was_not_read_is_not_judged() -> None:
    nothing: Any = Listing(scope=None)
    names = ("nodes", "namespaces", "storage_classes", "networks", "preferences")
    blind = replace(CLUSTER, **dict.fromkeys(names, nothing))
    assert found(wanted(), blind) == []
    elsewhere = replace(CLUSTER, networks=Listing(scope="other"))
    assert found(wanted(), elsewhere) == []


def test_tolerated_taints_keep_no_vm_off() -> None:
    tainted = replace(CLUSTER, nodes=Listing({("", "n1"): replace(FULL, taints=("gpu",))}))
    assert found(wanted(tolerations=[{"key": "gpu", "operator": "Exists"}]), tainted) == []


def test_a_bridge_on_the_pod_network_can_be_forbidden() -> None:
    devices = SPEC["domain"]["devices"] | {
        "interfaces": [{"name": "default", "bridge": {}}, {"name": "lan", "sriov": {}}]
    }
    bridged = wanted(domain=SPEC["domain"] | {"devices": devices})
    assert found(bridged, CLUSTER) == []
    (misfit,) = found(bridged, configured(network={"permitBridgeInterfaceOnPodNetwork": False}))
    assert (misfit.id, misfit.target) == ("pod-bridge", "domain.devices.interfaces[default].bridge")
    assert found(wanted(), configured(network={"permitBridgeInterfaceOnPodNetwork": False})) == []


def bound() -> Translation:
    """The VM with two of its interfaces by a plugin."""
    nics = [{"name": "default", "masquerade": {}}]
    nics += [{"name": name, "binding": {"name": "macvtap"}} for name in ("lan", "second")]
    networks = [*SPEC["networks"], {"name": "second", "multus": {"networkName": "lan"}}]
    devices = SPEC["domain"]["devices"] | {"interfaces": nics}
    return wanted(domain=SPEC["domain"] | {"devices": devices}, networks=networks)


BINDING = "domain.devices.interfaces[lan].binding.name"


@pytest.mark.parametrize(
    ("plugins", "id", "says"),
    [
        (None, "plugin", "no network binding plugin macvtap, so the VM never starts; there is none."),
        ({"passt": {}, "mactap": {}}, "plugin", "so the VM never starts; there is mactap."),
        (
            {"macvtap": {"networkAttachmentDefinition": "cni"}},
            "plugin-network",
            "lacks the NetworkAttachmentDefinition vms/cni of the plugin macvtap,",
        ),
        ({"macvtap": {"networkAttachmentDefinition": "kube/lan"}}, "plugin-network", "kube/lan"),
        ({"macvtap": {"networkAttachmentDefinition": "lan"}}, None, ""),
        ({"macvtap": {"networkAttachmentDefinition": "vms/lan"}}, None, ""),
        ({"macvtap": None}, None, ""),
    ],
)
def test_a_plugin_has_to_be_registered_and_its_network_there(
    plugins: dict[str, Any] | None, id: str | None, says: str
) -> None:
    roomy = without(resource="intel.com/vf", number=2)
    cluster = replace(configured(network={"binding": plugins}), nodes=roomy.nodes)
    seen = found(bound(), cluster)
    assert [(misfit.id, misfit.severity) for misfit in seen] == ([(id, "blocker")] * 2 if id else [])
    assert not id or (seen[0].target == BINDING and says in seen[0].because)
    unseen = replace(cluster, kubevirt=None, configuration=CLUSTER.configuration)
    assert found(bound(), unseen) == []


def test_the_memory_of_a_plugin_is_counted_once_and_as_it_is() -> None:
    plugin = {"computeResourceOverhead": {"requests": {"memory": "256Mi"}}}
    for rest in ({}, {"additionalGuestMemoryOverheadRatio": "2"}):
        without_one, with_one = (
            beside_guest(Wanted(bound(), configured(network={"binding": {"macvtap": each}}, **rest), TARGET))
            for each in ({}, plugin)
        )
        assert with_one - without_one == GIB / 4


def test_restricted_pod_security_lets_vms_with_a_seccomp_profile_run() -> None:
    profile = {"virtualMachineInstanceProfile": {"customProfile": {"runtimeDefaultProfile": True}}}
    cluster = configured(seccompConfiguration=profile)
    assert found(wanted(), replace(cluster, namespaces=Listing({("", "vms"): Namespace("restricted")}))) == []


def test_an_instance_type_brings_its_own_cpus_and_memory() -> None:
    translation = wanted()
    translation.manifest["spec"]["instancetype"] = {"name": "u1.large"}
    cluster = without(resource="cpu", number=1)
    types = Listing({("", "VirtualMachineClusterInstancetype/u1.large"): {}})
    assert found(translation, replace(cluster, instancetypes=types)) == []
    assert [misfit.id for misfit in found(translation, cluster)] == ["instancetype"]


@pytest.mark.parametrize(
    ("version", "then"),
    [("1.3", "so it refuses the VM;"), ("1.6", "so the VM never starts;"), ("1.9", "so the VM never starts;")],
)
def test_what_a_missing_preference_does_is_said_by_version(version: str, then: str) -> None:
    preferences = Listing({("", "VirtualMachineClusterPreference/rhel.8"): {}})
    cluster = replace(CLUSTER, preferences=preferences)
    (misfit,) = misfits(wanted(networks=[]), cluster, vocabulary.target(version), Counter())
    because = "The cluster has no VirtualMachineClusterPreference rhel.9"
    assert misfit.because == f"{because}, {then} there is rhel.8."


def typed(spec: dict[str, Any], preference: dict[str, Any] | None = None, **domain: Any) -> tuple[Translation, Cluster]:
    """A VM of 4 vCPUs and 8 GiB that leaves both to an instance type, and a cluster that has that and a preference."""
    translation = wanted(domain={"machine": {"type": "q35"}, **domain}, networks=[])
    translation.manifest["spec"]["instancetype"] = {"kind": "VirtualMachineInstancetype", "name": "small"}
    leaves = {"vcpu": "4", "memory": "8", "memory.unit": "GiB"}
    root = paths.Node(etree.Element("domain"), "", "", "domain", 0, 0, ())
    translation.entries = [paths.Leaf(path, path, value, root) for path, value in leaves.items()]
    preferences = Listing({("", "VirtualMachineClusterPreference/rhel.9"): preference or {}})
    types = Listing({("vms", "VirtualMachineInstancetype/small"): spec})
    return translation, replace(CLUSTER, instancetypes=types, preferences=preferences)


SMALL = {"cpu": {"guest": 4}, "memory": {"guest": "2Gi"}}


def test_an_instance_type_of_the_sources_size_fits_and_another_is_said() -> None:
    translation, cluster = typed({"cpu": {"guest": 4}, "memory": {"guest": "8Gi"}})
    (given,) = found(translation, replace(cluster, nodes=Listing(scope=None)))
    assert (given.id, given.severity) == ("expanded", "note")
    assert '"guest": "8Gi"' in given.because
    for small in ({"cpu": {"guest": 2}, "memory": {"guest": "8Gi"}}, SMALL):
        translation, cluster = typed(small)
        misfit, given = found(translation, replace(cluster, nodes=Listing(scope=None)))
        assert (misfit.id, misfit.severity, given.id) == ("instancetype-size", "warning", "expanded")
        assert "the source has 4 and 8" in misfit.because


@pytest.mark.parametrize(("overcommit", "short"), [(0, True), (50, False)])
def test_the_memory_of_a_known_instance_type_needs_a_node(overcommit: int, short: bool) -> None:
    spec = {"cpu": {"guest": 4}, "memory": {"guest": "4Gi", "overcommitPercent": overcommit}}
    translation, cluster = typed(spec)
    assert ("memory" in [misfit.id for misfit in found(translation, cluster)]) is short


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"cpu": {"guest": 4, "model": "EPYC"}}, {"cpu": {"model": "host-model"}}),
        ({"launchSecurity": {"snp": {}}}, {"launchSecurity": {"sev": {}}}),
        ({"gpus": [{"name": "g"}]}, {"devices": {"gpus": [{"name": "gpu0", "deviceName": "nvidia.com/a40"}]}}),
        ({"hostDevices": [{}]}, {"devices": {"hostDevices": [{"name": "nic0", "deviceName": "intel.com/x710"}]}}),
        ({"nodeSelector": {"a": "b"}}, {}),
        ({"cpu": {"guest": 4, "realtime": {}}}, {"cpu": {"realtime": {}}}),
        ({"cpu": {"guest": 4, "dedicatedCPUPlacement": False}}, {"cpu": {"dedicatedCpuPlacement": True}}),
        ({"memory": {"guest": "2Gi", "maxGuest": "4Gi"}}, {"memory": {"maxGuest": "4Gi"}}),
        ({"ioThreadsPolicy": "auto"}, {"ioThreadsPolicy": "shared"}),
    ],
)
def test_what_an_instance_type_and_the_vm_both_say_is_refused(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    assert "instancetype-conflict" not in [misfit.id for misfit in found(*typed(SMALL))]
    translation, cluster = typed(SMALL | theirs, **ours)
    assert "instancetype-conflict" in [misfit.id for misfit in found(translation, cluster)]


@pytest.mark.parametrize(
    ("preference", "refused"),
    [
        ({}, False),
        ({"requirements": {"cpu": {"guest": 2}}}, False),
        ({"requirements": {"cpu": {"guest": 3}}}, True),
        ({"requirements": {"cpu": {"guest": 4}}, "cpu": {"preferredCPUTopology": "any"}}, False),
        ({"requirements": {"cpu": {"guest": 3}}, "cpu": {"preferredCPUTopology": "preferCores"}}, True),
        ({"requirements": {"cpu": {"guest": 4}}, "cpu": {"preferredCPUTopology": "spread"}}, False),
        (
            {
                "requirements": {"cpu": {"guest": 4}},
                "cpu": {"preferredCPUTopology": "spread", "spreadOptions": {"across": "CoresThreads"}},
            },
            True,
        ),
        ({"requirements": {"memory": {"guest": "4Gi"}}}, False),
        ({"requirements": {"memory": {"guest": "5Gi"}}}, True),
        ({"requirements": {"architecture": "amd64"}}, False),
        ({"requirements": {"architecture": "arm64"}}, True),
    ],
)
def test_a_preference_refuses_a_vm_that_has_less_than_it_asks_for(preference: dict[str, Any], refused: bool) -> None:
    cluster = replace(CLUSTER, preferences=Listing({("", "VirtualMachineClusterPreference/rhel.9"): preference}))
    assert [misfit.id for misfit in found(wanted(), cluster)] == ["preference-requires"] * refused


@pytest.mark.parametrize(
    ("devices", "refused"),
    [
        ({"autoattachGraphicsDevice": False}, True),
        ({"autoattachGraphicsDevice": True}, False),
        ({"video": {"type": "vga"}}, False),
        ({}, False),
    ],
)
def test_a_preference_with_a_graphics_adapter_is_refused_for_a_vm_without_a_screen(
    devices: dict[str, Any], refused: bool
) -> None:
    preference = {"devices": {"preferredVideoType": "virtio"}}
    cluster = replace(CLUSTER, preferences=Listing({("", "VirtualMachineClusterPreference/rhel.9"): preference}))
    misfits = [misfit.id for misfit in found(wanted(domain=SPEC["domain"] | {"devices": devices}), cluster)]
    assert ("expanded-refused" in misfits) is refused


PINNED = {"cpu": {"guest": 2, "dedicatedCPUPlacement": True}, "memory": {"guest": "2Gi"}, "ioThreadsPolicy": "auto"}


@pytest.mark.parametrize(("volumes", "refused"), [([], True), (SPEC["volumes"], False)])
def test_an_instance_type_with_a_policy_for_io_threads_does_not_start_a_vm_without_disks(
    volumes: list[Any], refused: bool
) -> None:
    translation, cluster = typed(PINNED)
    translation.manifest["spec"]["template"]["spec"]["volumes"] = volumes
    said = [misfit.because for misfit in found(translation, cluster) if misfit.target == "domain.ioThreadsPolicy"]
    assert [text[:61] for text in said] == ["With the instance type small: A VM with dedicated CPUs and a "] * refused


def test_what_kubevirt_refuses_of_the_vm_with_its_preference_is_said_once() -> None:
    preference = {"devices": {"preferredDiskBus": "sata", "preferredDiskIO": "dream"}}
    disks = [{"name": "vda", "disk": {}}, {"name": "www", "disk": {}, "io": "dream"}]
    cluster = replace(CLUSTER, preferences=Listing({("", "VirtualMachineClusterPreference/rhel.9"): preference}))
    misfits = found(wanted(domain=SPEC["domain"] | {"devices": {"disks": disks}}), cluster)
    assert [misfit.target for misfit in misfits if misfit.id == "expanded-refused"] == ["domain.devices.disks[vda].io"]


@pytest.mark.parametrize(
    ("gpu", "devices", "refused"),
    [
        ({}, {"autoattachGraphicsDevice": False}, True),
        ({"virtualGPUOptions": {"display": {"enabled": False}}}, {"autoattachGraphicsDevice": False}, False),
        ({"deviceName": "intel.com/x710"}, {"autoattachGraphicsDevice": False}, False),
        ({}, {}, False),
    ],
)
def test_a_vgpu_of_an_instance_type_shows_nothing_in_a_vm_without_a_screen(
    gpu: dict[str, Any], devices: dict[str, Any], refused: bool
) -> None:
    gpus = [{"name": "g", "deviceName": "nvidia.com/a40"} | gpu]
    translation, cluster = typed(SMALL | {"gpus": gpus}, devices=devices)
    assert ("gpu-detached" in [misfit.id for misfit in found(translation, cluster)]) is refused


def test_vcpus_that_a_preference_cannot_spread_are_refused() -> None:
    spread = {"cpu": {"preferredCPUTopology": "spread", "spreadOptions": {"ratio": 3}}}
    assert "instancetype-conflict" in [misfit.id for misfit in found(*typed(SMALL, spread))]
    spread["cpu"]["spreadOptions"] = {"ratio": 4}
    assert "instancetype-conflict" not in [misfit.id for misfit in found(*typed(SMALL, spread))]


def test_a_preference_counts_the_cpus_and_memory_of_the_instance_type() -> None:
    needs = {
        "requirements": {"cpu": {"guest": 4}, "memory": {"guest": "2Gi"}},
        "cpu": {"preferredCPUTopology": "cores"},
    }
    assert "preference-requires" not in [misfit.id for misfit in found(*typed(SMALL, needs))]
    needs["requirements"]["cpu"] = {"guest": 5}
    assert "preference-requires" in [misfit.id for misfit in found(*typed(SMALL, needs))]


def test_memory_is_the_guests_and_what_runs_beside_it() -> None:
    domain = {"memory": {"guest": "1Gi"}, "cpu": {"sockets": 1}}
    beside = (248 + 8 + 32) * 2**20 + GIB // 512
    bare: dict[str, Any] = {"architecture": "amd64", "domain": domain, "networks": [], "nodeSelector": {}}
    assert found(wanted(**bare), without(resource="memory", number=GIB + beside)) == []
    (misfit,) = found(wanted(**bare), without(resource="memory", number=GIB + beside - 1))
    assert misfit.id == "memory"


POOL = {"ioThreadsPolicy": "supplementalPool", "ioThreads": {"supplementalPoolThreadCount": 8}}
DEDICATED = {"cpu": {"sockets": 4, "dedicatedCpuPlacement": True}}


@pytest.mark.parametrize(
    ("domain", "configuration", "version", "cpus"),
    [
        ({}, {}, "1.9", Fraction(4, 10)),
        (POOL, {}, "1.9", Fraction(12, 10)),
        (POOL, {}, "1.5", Fraction(4, 10)),
        (POOL | DEDICATED, {}, "1.9", Fraction(12)),
        (POOL | {"cpu": DEDICATED["cpu"] | {"isolateEmulatorThread": True}}, {}, "1.9", Fraction(13)),
        ({}, {"developerConfiguration": {"cpuAllocationRatio": 2}}, "1.9", Fraction(2)),
        (POOL, {"cpuRequest": "3"}, "1.9", Fraction(3)),
        ({}, {"cpuRequest": "100m"}, "1.9", Fraction(4, 10)),
        ({"resources": {"requests": {"cpu": "200m"}}}, {"cpuRequest": "3"}, "1.9", Fraction(2, 10)),
        ({"resources": {"limits": {"cpu": "2"}}}, {"cpuRequest": "3"}, "1.9", Fraction(2)),
        (DEDICATED, {"cpuRequest": "3"}, "1.9", Fraction(4)),
    ],
)
def test_cpus_are_those_of_the_pod(
    domain: dict[str, Any], configuration: dict[str, Any], version: str, cpus: Fraction
) -> None:
    vm = wanted(domain={"memory": {"guest": "1Gi"}, "cpu": {"sockets": 4}} | domain, networks=[])
    for offered, expected in ((cpus, []), (cpus - Fraction(1, 1000), ["cpu"])):
        node = replace(FULL, allocatable=FULL.allocatable | {"cpu": offered})
        cluster = replace(CLUSTER, nodes=Listing({("", "n1"): node}), configuration=configuration)
        assert [each.id for each in misfits(vm, cluster, vocabulary.target(version), Counter())] == expected


TPM = {"devices": {"tpm": {"persistent": True}}}
KEPT_EFI = {"firmware": {"bootloader": {"efi": {"persistent": True}}}}
SLOW: Any = Listing({("", "fast"): False, ("", "slow"): True})
STATE = {"configuration": {"vmStateStorageClass": "fast"}}
NO_STATE = {"configuration": {"vmStateStorageClass": "gone"}, "virt_class": "fast"}


@pytest.mark.parametrize(
    ("domain", "fields", "version", "expected"),
    [
        (TPM, {}, "1.9", ["state-class"]),
        (KEPT_EFI, {}, "1.9", ["state-class"]),
        ({"devices": {"tpm": {}}}, {}, "1.9", []),
        ({"devices": {"tpm": {"persistent": False}}}, {}, "1.9", []),
        (TPM, {"storage_classes": SLOW}, "1.9", []),
        (TPM, {"virt_class": "fast"}, "1.9", []),
        (TPM, {"virt_class": "fast"}, "1.3", ["state-class"]),
        (TPM, STATE, "1.9", []),
        (TPM, NO_STATE, "1.9", ["state-class"]),
        (TPM, {"kubevirt": None}, "1.9", []),
        ({"devices": {"tpm": {"persistent": True, "enabled": False}}}, {}, "1.9", []),
        (TPM, NO_STATE | {"storage_classes": Listing(scope=None)}, "1.9", []),
    ],
)
def test_the_state_of_a_vm_needs_a_storage_class(
    domain: dict[str, Any], fields: dict[str, Any], version: str, expected: list[str]
) -> None:
    vm = wanted(domain={"memory": {"guest": "1Gi"}} | domain, networks=[])
    cluster = replace(CLUSTER, **fields)
    assert [each.id for each in misfits(vm, cluster, vocabulary.target(version), Counter())] == expected


PREFIX = "fast.storageclass.storage.k8s.io/"


@pytest.mark.parametrize(
    ("hard", "expected"),
    [
        ({"persistentvolumeclaims": 1}, ["quota"]),
        ({"persistentvolumeclaims": 2}, []),
        ({"count/persistentvolumeclaims": 1}, ["quota"]),
        ({"requests.storage": 10 * GIB}, ["quota"]),
        ({"requests.storage": 10 * GIB + 10 * 2**20}, []),
        ({f"{PREFIX}persistentvolumeclaims": 1}, ["quota"]),
        ({f"{PREFIX}requests.storage": 10 * GIB}, ["quota"]),
        ({"slow.storageclass.storage.k8s.io/persistentvolumeclaims": 0}, []),
    ],
)
@pytest.mark.parametrize("domain", [TPM, KEPT_EFI])
def test_the_claim_of_a_vms_state_counts_in_quotas(
    domain: dict[str, Any], hard: dict[str, int], expected: list[str]
) -> None:
    quota = Quota({name: Fraction(number) for name, number in hard.items()})
    cluster = replace(configured(vmStateStorageClass="fast"), quotas=Listing({("vms", "q"): quota}))
    bare = wanted(domain={"memory": {"guest": "1Gi"}}, networks=[])
    assert found(bare, cluster) == []
    vm = wanted(domain={"memory": {"guest": "1Gi"}} | domain, networks=[])
    assert [misfit.id for misfit in found(vm, cluster)] == expected


def test_the_class_of_a_vms_state_is_not_guessed_where_no_kubevirt_object_was_seen() -> None:
    vm = wanted(domain={"memory": {"guest": "1Gi"}} | TPM, networks=[])
    slow = "slow.storageclass.storage.k8s.io/persistentvolumeclaims"
    for hard, expected in (({"persistentvolumeclaims": 1}, ["quota"]), ({slow: 0}, [])):
        quota = Quota({name: Fraction(number) for name, number in hard.items()})
        cluster = replace(CLUSTER, kubevirt=None, storage_classes=SLOW, quotas=Listing({("vms", "q"): quota}))
        assert [misfit.id for misfit in found(vm, cluster)] == expected


@pytest.mark.parametrize(
    ("domain", "row", "least", "expected"),
    [
        (TPM, {"least": {"storage": GIB}}, {}, ["domain.devices.tpm.persistent"]),
        (KEPT_EFI, {"least": {"storage": GIB}}, {}, ["domain.firmware.bootloader.efi.persistent"]),
        (TPM, {"least": {"storage": 10 * 2**20}}, {}, []),
        ({}, {"least": {"storage": GIB}}, {}, []),
        # CDI enlarges it where it is told to.
        (TPM, {"least": {"storage": GIB}}, {"fast": Fraction(4 * GIB)}, []),
        (TPM, {"least": {"storage": GIB}}, {"fast": Fraction(GIB / 2)}, ["domain.devices.tpm.persistent"]),
        (TPM, {"least": {"storage": GIB}}, {"slow": Fraction(4 * GIB)}, ["domain.devices.tpm.persistent"]),
        (TPM, {"most": {"storage": 10 * GIB}}, {"fast": Fraction(40 * GIB)}, []),
    ],
)
def test_the_claim_of_a_vms_state_is_held_against_limit_ranges(
    domain: dict[str, Any], row: dict[str, Any], least: dict[str, Fraction], expected: list[str]
) -> None:
    vm = wanted(domain={"memory": {"guest": "1Gi"}} | domain, networks=[])
    rows = {("vms", "l"): (per("PersistentVolumeClaim", **row),)}
    cluster = replace(configured(vmStateStorageClass="fast"), limits=Listing(rows), least_sizes=least)
    misfits_of = found(vm, cluster)
    assert [misfit.target for misfit in misfits_of] == expected
    assert {misfit.id for misfit in misfits_of} <= {"limit-claim"}


def test_overcommitted_memory_is_asked_for_in_part() -> None:
    bare: dict[str, Any] = {"domain": {"memory": {"guest": "4Gi"}, "cpu": {}}, "networks": [], "nodeSelector": {}}
    cluster = without(resource="memory", number=3 * GIB)
    assert [misfit.id for misfit in found(wanted(**bare), cluster)] == ["memory"]
    overcommitted = replace(cluster, configuration={"developerConfiguration": {"memoryOvercommit": 200}})
    assert found(wanted(**bare), overcommitted) == []


@pytest.mark.parametrize(("labels", "ids"), [({"zone": "b"}, []), ({"kind": "vms"}, ["node-selector"])])
def test_the_clusters_own_node_selector_counts_unless_the_vm_says_otherwise(
    labels: dict[str, str], ids: list[str]
) -> None:
    cluster = replace(
        CLUSTER, configuration=CLUSTER.configuration | {"developerConfiguration": {"nodeSelectors": labels}}
    )
    assert [misfit.id for misfit in found(wanted(), cluster)] == ids


def test_a_quota_counts_over_all_vms_of_the_plan() -> None:
    quota = Quota({"requests.storage": Fraction(25 * GIB)}, {"requests.storage": Fraction(0)})
    cluster, used = replace(CLUSTER, quotas=Listing({("vms", "disks"): quota})), Counter()
    sizes = {"a": "10Gi", "b": "20Gi", "c": "10Gi", "d": "10Gi"}
    results = [list(misfits(with_claim(name, size), cluster, TARGET, used)) for name, size in sizes.items()]
    assert [[misfit.id for misfit in result] for result in results] == [[], ["quota"], [], ["quota"]]
    assert "20 GiB of requests.storage is taken" in results[-1][0].because


def with_claim(name: str, size: str = "10Gi") -> Translation:
    """The VM with a claim of another name."""
    found = wanted(size)
    found.claims[0]["metadata"]["name"] = name
    return found


def test_a_claim_that_vms_share_counts_once() -> None:
    quota = Quota({"requests.storage": Fraction(15 * GIB)})
    cluster, used = replace(CLUSTER, quotas=Listing({("vms", "disks"): quota})), Counter()
    assert [list(misfits(with_claim("shared"), cluster, TARGET, used)) for _ in range(3)] == [[], [], []]
    assert [misfit.id for misfit in misfits(with_claim("own"), cluster, TARGET, used)] == ["quota"]


@pytest.mark.parametrize(
    ("scope", "priority", "expected"),
    [
        (Scope("NotTerminating"), "", ["quota"]),
        (Scope("NotBestEffort"), "", ["quota"]),
        (Scope("Terminating"), "", []),
        (Scope("BestEffort"), "", []),
        (Scope("PriorityClass", "In", ("high",)), "high", ["quota"]),
        (Scope("PriorityClass", "In", ("high",)), "", []),
        (Scope("PriorityClass", "NotIn", ("high",)), "high", []),
        (Scope("PriorityClass", "NotIn", ("high",)), "low", ["quota"]),
        (Scope("PriorityClass", "Exists"), "", []),
        (Scope("PriorityClass", "DoesNotExist"), "", ["quota"]),
    ],
)
def test_a_quota_counts_the_pods_in_its_scopes(scope: Scope, priority: str, expected: list[str]) -> None:
    quota = Quota({"requests.cpu": Fraction(1)}, scopes=(scope,))
    cluster = replace(CLUSTER, quotas=Listing({("vms", "pods"): quota}))
    assert [misfit.id for misfit in found(wanted(priorityClassName=priority), cluster)] == expected


PLAIN: dict[str, Any] = {
    "domain": {"memory": {"guest": "1Gi"}, "cpu": {"sockets": 2}, "resources": {}},
    "networks": [],
    "nodeSelector": {},
}
CAPPED = PLAIN | {"domain": PLAIN["domain"] | {"resources": {"limits": {"memory": "2Gi", "cpu": "1"}}}}


@pytest.mark.parametrize(
    ("version", "spec", "hard", "expected"),
    [
        ("1.9", PLAIN, {"limits.cpu": 2, "limits.memory": 3 * GIB}, []),
        ("1.9", PLAIN, {"limits.cpu": 1}, ["quota"]),
        ("1.9", PLAIN | {"domain": PLAIN["domain"] | POOL}, {"limits.cpu": 9}, ["quota"]),
        ("1.9", PLAIN, {"limits.memory": 2 * GIB}, ["quota"]),
        ("1.9", CAPPED, {"limits.cpu": 1, "limits.memory": 3 * GIB}, []),
        ("1.9", CAPPED, {"limits.memory": 2 * GIB}, ["quota"]),
        ("1.4", PLAIN, {"limits.cpu": 9, "limits.memory": 9 * GIB}, ["quota-limits", "quota-limits"]),
        ("1.4", CAPPED, {"limits.cpu": 1, "limits.memory": 3 * GIB}, []),
    ],
)
def test_quotas_on_limits(version: str, spec: dict[str, Any], hard: dict[str, int], expected: list[str]) -> None:
    quota = Quota({name: Fraction(number) for name, number in hard.items()})
    cluster = replace(CLUSTER, quotas=Listing({("vms", "limits"): quota}))
    assert [misfit.id for misfit in misfits(wanted(**spec), cluster, vocabulary.target(version), Counter())] == expected


def ranged(*rows: Limit, **fields: Any) -> Cluster:
    """A cluster whose namespace has a limit range of each row."""
    return replace(CLUSTER, limits=Listing({("vms", f"l{n}"): (row,) for n, row in enumerate(rows)}), **fields)


def per(kind: str, **fields: dict[str, Any]) -> Limit:
    given = {"least": {}, "most": {}} | fields
    return Limit(kind, **{name: {key: Fraction(number) for key, number in row.items()} for name, row in given.items()})


QUIET = PLAIN | {"domain": PLAIN["domain"] | {"devices": {"autoattachSerialConsole": False}}}
PINNED_CPUS = PLAIN | {"domain": PLAIN["domain"] | {"cpu": {"sockets": 2, "dedicatedCpuPlacement": True}}}
LIMITED = {"quotas": Listing({("vms", "q"): Quota({"limits.memory": Fraction(99 * GIB)})})}
UNREAD: dict[str, Any] = {"quotas": Listing(scope=None)}
NO_CPU = {"configuration": {"cpuRequest": "0"}}
LABELLED = {"configuration": {"autoCPULimitNamespaceLabelSelector": {"matchLabels": {"a": "b"}}}}


@pytest.mark.parametrize(
    ("spec", "rows", "fields", "expected"),
    [
        # A pod of one container with requests and no limits: 0.2 CPUs and 1.3 GiB.
        (QUIET, [per("Pod", most={"memory": 64 * GIB})], {}, ["limit-pod"]),
        (QUIET, [per("Pod", ratios={"cpu": 20})], {}, ["limit-pod"]),
        (QUIET, [per("Pod", most={"memory": 64 * GIB}), per("Container", defaults={"memory": 2 * GIB})], {}, []),
        (QUIET, [per("Pod", least={"memory": 2 * GIB})], {}, ["limit-pod"]),
        # The console's log has limits, which are the pod's then.
        (PLAIN, [per("Pod", most={"memory": 64 * GIB})], {}, []),
        (PLAIN, [per("Pod", ratios={"cpu": 2})], {}, []),
        (PLAIN, [per("Pod", least={"memory": 2 * GIB})], {}, []),
        (PLAIN, [per("Pod", most={"memory": GIB})], {}, ["limit-pod"]),
        (PLAIN, [per("Pod", most={"ephemeral-storage": GIB})], {}, ["limit-pod"]),
        # What KubeVirt sets itself.
        (QUIET, [per("Pod", most={"memory": 64 * GIB})], LIMITED, []),
        (QUIET, [per("Pod", most={"memory": 2 * GIB})], LIMITED, ["limit-pod"]),
        (QUIET, [per("Pod", most={"memory": 64 * GIB})], UNREAD, []),
        (QUIET, [per("Pod", most={"memory": GIB})], UNREAD, ["limit-pod"]),
        (QUIET, [per("Pod", most={"cpu": 4})], LABELLED, []),
        (QUIET, [per("Pod", most={"cpu": 1})], LABELLED, ["limit-pod"]),
        (PINNED_CPUS, [per("Container", defaults={"cpu": 1}, ratios={"cpu": 1, "memory": 1})], {}, []),
        # What Kubernetes gives containers.
        (PLAIN, [per("Container", defaults={"memory": GIB})], {}, ["limit-container"]),
        (PLAIN, [per("Container", defaults={"memory": 2 * GIB})], {}, []),
        (PLAIN, [per("Container", defaults={"memory": GIB})], LIMITED, []),
        (PLAIN, [per("Container", defaults={"cpu": 4}, ratios={"cpu": 20})], {}, []),
        (PLAIN, [per("Container", defaults={"cpu": 4}, ratios={"cpu": 19})], {}, ["limit-container"]),
        (PLAIN, [per("Container", defaults={"cpu": 4}, ratios={"cpu": 9})], NO_CPU, ["limit-container"]),
        (PLAIN, [per("Container", defaults={"cpu": 4}, most={"cpu": 2})], {}, ["limit-container"]),
        (PLAIN, [per("Container", ratios={"cpu": 4})], {}, ["limit-container"]),
        (PLAIN, [per("Container", defaults={"memory": 512 * 2**20 * n}) for n in (1, 4)], {}, []),
        (PLAIN, [per("Container", defaults={"memory": 512 * 2**20 * n}) for n in (1, 2)], {}, ["limit-container"] * 2),
        (CAPPED, [per("Container", defaults={"memory": GIB}, ratios={"memory": 2})], {}, []),
        (CAPPED, [per("Container", most={"memory": 2 * GIB})], {}, ["limit-container"]),
    ],
)
def test_limit_ranges_count_limits(
    spec: dict[str, Any], rows: list[Limit], fields: dict[str, Any], expected: list[str]
) -> None:
    assert [misfit.id for misfit in found(wanted(**spec), ranged(*rows, **fields))] == expected


@pytest.mark.parametrize(
    ("spec", "ratio", "expected"),
    [
        (QUIET, "2", ["limit-pod", "quota"]),
        (QUIET, "1.5", []),
        (QUIET, "9", ["limit-pod", "quota"]),
        (CAPPED, "9", ["limit-pod", "quota"]),
        (CAPPED, "1", ["limit-pod", "quota"]),
    ],
)
def test_a_namespace_sets_the_ratio_of_automatic_limits(spec: dict[str, Any], ratio: str, expected: list[str]) -> None:
    labelled = {("", "vms"): Namespace("", Fraction(ratio))}
    quota = Quota({"limits.memory": Fraction(2 * GIB)})
    cluster = ranged(
        per("Pod", most={"memory": 2 * GIB}), quotas=Listing({("vms", "q"): quota}), namespaces=Listing(labelled)
    )
    assert [misfit.id for misfit in found(wanted(**spec), cluster)] == expected


def test_a_quota_on_limits_takes_what_a_limit_range_gives() -> None:
    quota = {"quotas": Listing({("vms", "q"): Quota({"limits.memory": Fraction(99 * GIB)})})}
    for rows, expected in (([], ["quota-limits"]), ([per("Container", defaults={"memory": 2 * GIB})], [])):
        misfits_of = misfits(wanted(**PLAIN), ranged(*rows, **quota), vocabulary.target("1.4"), Counter())
        assert [misfit.id for misfit in misfits_of] == expected


def test_blocked_vms_take_nothing_of_a_quota() -> None:
    quota = Quota({"persistentvolumeclaims": Fraction(1)})
    full = replace(CLUSTER, quotas=Listing({("vms", "disks"): quota}))
    used: Counter[Any] = Counter()
    (misfit,) = misfits(wanted(), replace(full, namespaces=Listing()), TARGET, used)
    assert misfit.id == "namespace"
    assert list(misfits(wanted(), full, TARGET, used)) == []


@pytest.mark.parametrize(("hard", "expected"), [(4, []), (3, ["quota-running"]), (1, ["quota"] * 2)])
def test_quotas_of_what_runs_warn_unless_one_vm_is_too_much(hard: int, expected: list[str]) -> None:
    quota = Quota({"requests.nvidia.com/a40": Fraction(hard)})
    cluster, used = replace(CLUSTER, quotas=Listing({("vms", "gpus"): quota})), Counter()
    ids = [misfit.id for _ in range(2) for misfit in misfits(wanted(), cluster, TARGET, used)]
    assert ids == expected
