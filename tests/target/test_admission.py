"""What KubeVirt refuses, case by case, and that what it accepts passes."""

import copy
from fractions import Fraction

import pytest

from migrate.target.admission import refusals
from migrate.target.admission.pods import PREFERRED, REQUIRED
from migrate.target.admission.spec import amount
from migrate.target.vocabulary import BRACKETS, Target, strict, table, target, versions

UUID = "8f2a6a3e-6a0a-4c4b-9d1e-2f2a6c1b7d10"

VM = {
    "apiVersion": "kubevirt.io/v1",
    "kind": "VirtualMachine",
    "metadata": {"name": "web", "labels": {"app": "web"}, "annotations": {"kubevirt-migrate/source": "qemu:///system"}},
    "spec": {
        "runStrategy": "Halted",
        "template": {
            "metadata": {"labels": {"app.kubernetes.io/name": "web"}},
            "spec": {
                "architecture": "amd64",
                "domain": {
                    "cpu": {"sockets": 1, "cores": 2, "threads": 1, "maxSockets": 1, "model": "host-model"},
                    "memory": {"guest": "2Gi", "maxGuest": "2Gi"},
                    "machine": {"type": "pc-q35-7.2"},
                    "firmware": {"uuid": UUID, "bootloader": {"efi": {}}},
                    "features": {"smm": {}, "acpi": {}, "hyperv": {"synictimer": {}, "synic": {}, "vpindex": {}}},
                    "clock": {"utc": {}, "timer": {"pit": {"tickPolicy": "delay"}, "rtc": {"tickPolicy": "catchup"}}},
                    "devices": {
                        "disks": [
                            {
                                "name": "vda",
                                "disk": {"bus": "virtio"},
                                "bootOrder": 1,
                                "serial": "A_1.+-",
                                "io": "native",
                            },
                            {
                                "name": "sdb",
                                "disk": {"bus": "scsi", "readonly": True},
                                "cache": "none",
                                "shareable": True,
                            },
                            {"name": "sdc", "cdrom": {"bus": "sata"}},
                            {"name": "sdd", "lun": {"bus": "scsi"}, "errorPolicy": "report"},
                        ],
                        "interfaces": [
                            {"name": "net0", "masquerade": {}, "model": "e1000e", "macAddress": "52:54:00:00:00:01"},
                            {"name": "net1", "bridge": {}, "bootOrder": 2},
                        ],
                        "inputs": [{"name": "tablet", "type": "tablet", "bus": "usb"}],
                        "sound": {"name": "audio", "model": "ich9"},
                        "watchdog": {"name": "dog", "i6300esb": {"action": "reset"}},
                        "tpm": {},
                        "rng": {},
                    },
                },
                "networks": [
                    {"name": "net0", "pod": {}},
                    {"name": "net1", "multus": {"networkName": "blue"}},
                ],
                "volumes": [
                    {"name": "vda", "persistentVolumeClaim": {"claimName": "web-vda"}},
                    {"name": "sdb", "persistentVolumeClaim": {"claimName": "web-sdb"}},
                    {"name": "sdc", "cloudInitNoCloud": {"userData": "#cloud-config"}},
                    {"name": "sdd", "persistentVolumeClaim": {"claimName": "web-sdd"}},
                ],
            },
        },
    },
}
CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "web-vda"},
    "spec": {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "1Gi"}},
    },
}
ABSENT = object()
D, N, V = "domain.devices.disks", "domain.devices.interfaces", "volumes"
DISKLESS = [("domain.devices.disks", []), ("volumes", []), ("domain.devices.filesystems", [])]
SIZED = [
    ("VirtualMachine.spec.instancetype", {"name": "u1.small"}),
    ("domain.cpu", {"model": "host-model"}),
    ("domain.memory", ABSENT),
]


def changed(manifest, *changes):
    """A copy of the manifest with values put at dotted paths, where digits count list items."""
    manifest = copy.deepcopy(manifest)
    for path, value in changes:
        if manifest["kind"] == "VirtualMachine" and not path.startswith("VirtualMachine."):
            path = f"VirtualMachine.spec.template.spec.{path}"
        *above, last = path.removeprefix("VirtualMachine.").split(".")
        node = manifest
        for name in above:
            node = node[int(name)] if name.isdigit() else node.setdefault(name, {})
        if value is ABSENT:
            del node[int(last) if last.isdigit() else last]
        elif last.isdigit() and int(last) == len(node):
            node.append(copy.deepcopy(value))
        else:
            node[int(last) if last.isdigit() else last] = copy.deepcopy(value)
    return manifest


def told(vm, claims=(CLAIM,), on="1.9", gates=""):
    return refusals(vm, list(claims), target(on, gates))


def ids(vm, **options):
    return {refusal.id for refusal in told(vm, **options)}


@pytest.mark.parametrize("version", versions())
def test_a_good_vm_passes(version):
    assert strict(VM, Target(version)) == []
    assert refusals(VM, [CLAIM], Target(version)) == []


RANGE = {"start": 1, "end": 2, "protocol": "TCP"}
GPU = {"deviceName": "example.org/gpu", "virtualGPUOptions": {"display": {}}}
CLAIMED = {"name": "a", "resourceClaimName": "b"}
REQUEST = {"claimName": "a", "requestName": "b"}
ASKING = {"name": "a", **REQUEST}
SECRET = {"source": {"secret": {"secretName": "a"}}}
BY_AGENT = SECRET | {"propagationMethod": {"qemuGuestAgent": {"users": ["a"]}}}
CONFIG_DRIVE, NO_USER = {"configDrive": {}}, {"qemuGuestAgent": {"users": []}}
ONE_TWICE = {"qemuGuestAgent": {"users": ["a", "a"]}}
SECONDARY_ONLY = [("networks", [{"name": "net1", "multus": {"networkName": "a"}}]), (f"{N}.0", ABSENT)]
SPREAD = {"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"}


def node_affinity(**required):
    return (f"affinity.nodeAffinity.{REQUIRED}", required)


ACCEPTED = [
    [("domain.devices.watchdog", {"name": "dog"})],
    [("domain.memory", ABSENT), ("domain.resources", {"limits": {"memory": "1Gi"}})],
    [("domain.memory", {"maxGuest": "2Gi"}), ("domain.resources.requests", {"memory": "2Gi"})],
    [("domain.memory", {"hugepages": {"pageSize": "2Mi"}})],
    [(f"{V}.4", {"name": "unused", "emptyDisk": {"capacity": "1Gi"}})],
    [(f"{V}.2", {"name": "sdc", "containerDisk": {"image": "a", "path": "/a/"}})],
    [("domain.features.hypervPassthrough", {"enabled": False}), ("domain.features.hyperv", ABSENT)],
    [(f"{N}.0.ports", [{"port": 80, "name": "http"}, {"port": 80, "protocol": "UDP"}])],
    [(f"{N}.1.ports", [{"port": 0}])],
    [(f"{N}.0.dhcpOptions", {"ntpServers": ["192.0.2.1"], "privateOptions": [{"option": 224, "value": "a"}]})],
    [("readinessProbe", {"httpGet": {"port": 80}}), ("livenessProbe", {"exec": {"command": ["a"]}})],
    [("readinessProbe", {"tcpSocket": {"port": 80}}), (N, ABSENT), ("networks", ABSENT)],
    [("dnsPolicy", "None"), ("dnsConfig", {"nameservers": ["192.0.2.1", "2001:db8::1"], "searches": ["a.b"]})],
    [("accessCredentials", [{"sshPublicKey": SECRET | {"propagationMethod": {"noCloud": {}}}}])],
    [("accessCredentials", [{"userPassword": SECRET | {"propagationMethod": {"qemuGuestAgent": {}}}}])],
    [("nodeSelector", {"a": ""}), ("tolerations", [{"operator": "Exists"}, {"key": "a", "value": "b"}])],
    [("topologySpreadConstraints", [SPREAD, SPREAD | {"whenUnsatisfiable": "ScheduleAnyway"}])],
    [node_affinity(nodeSelectorTerms=[{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}])],
    [(f"affinity.podAffinity.{REQUIRED}", [{"topologyKey": "a", "labelSelector": {"matchLabels": {"a": "b"}}}])],
    [*SIZED],
    [("domain.machine", ABSENT)],
    [("domain.machine.type", "")],
    [(f"{D}.0.disk.bus", "")],
    [(f"{D}.0", {"name": "vda"})],
    [(f"{D}.2", {"name": "sdc", "cdrom": {}})],
    [("domain.firmware.bootloader", {"efi": {"secureBoot": False}}), ("domain.features.smm", ABSENT)],
    [("domain.firmware.bootloader", {"bios": {}})],
    [("domain.firmware.bootloader", {"bios": {"useSerial": True}}), ("domain.features.smm", {"enabled": False})],
    [("domain.memory", {"guest": "500Mi"})],
    [("domain.memory", {"hugepages": {"pageSize": "2Mi"}, "guest": "1Gi"})],
    [("domain.memory", ABSENT), ("domain.resources", {"requests": {"memory": "1Gi"}})],
    [("domain.memory", {"maxGuest": "4Gi", "guest": "1024Mi"})],
    [("domain.features.hyperv", {"synictimer": {}})],
    [("domain.features.hyperv", ABSENT)],
    [(f"{D}.0.blockSize", {"matchVolume": {}})],
    [("domain.features.hyperv", {"ipi": {"enabled": False}, "vpindex": {"enabled": False}})],
    [("domain.features.hyperv", {"evmcs": {}})],
    [(f"{N}.1.state", "down")],
    [(f"{N}.1.state", "absent")],
    [(f"{N}.0.macAddress", "52-54-00-00-00-01")],
    [(f"{N}.1.macAddress", "02:00:00:00:00:00")],
    [(f"{N}.0.ports", [{"port": 80, "protocol": "TCP", "name": "http"}, {"port": 81}])],
    [(f"{N}", ABSENT), ("networks", ABSENT)],
    [(f"{V}.4", {"name": "extra", "persistentVolumeClaim": {"claimName": "x"}})],
    [(f"{V}.2", ABSENT)],
    [(f"{V}.2", {"name": "sdc", "cloudInitNoCloud": {"userData": "x" * 2048}})],
    [(f"{V}.2", {"name": "sdc", "cloudInitNoCloud": {"userDataBase64": "eA==", "networkData": "y"}})],
    [(f"{V}.2", {"name": "sdc", "containerDisk": {"image": "x", "path": "/disk/a.img"}})],
    [("VirtualMachine.spec.runStrategy", ABSENT), ("VirtualMachine.spec.running", False)],
    [("VirtualMachine.metadata.name", "a" * 64)],
    [("domain.cpu", {"dedicatedCpuPlacement": True, "cores": 2}), ("domain.memory", {"guest": "1Gi"})],
    [("domain.cpu", {"dedicatedCpuPlacement": True}), ("domain.resources", {"limits": {"cpu": "2"}})],
    [
        ("domain.cpu", {"dedicatedCpuPlacement": True, "cores": 2, "threads": 2}),
        ("domain.resources", {"requests": {"memory": "1Gi", "cpu": 4}, "limits": {"memory": "1024Mi", "cpu": "4"}}),
    ],
    [(f"{D}.0.blockSize", {"custom": {"logical": 512, "physical": 4096}})],
    [("domain.firmware.uuid", UUID.replace("-", "").upper())],
    [(f"{D}.1.cache", "writeback"), (f"{D}.1.shareable", False)],
]


@pytest.mark.parametrize("changes", ACCEPTED)
def test_what_kubevirt_accepts_passes(changes):
    vm = changed(VM, *changes)
    assert strict(vm, Target("1.9")) == []
    assert refusals(vm, [CLAIM], target("1.9", "+CPUManager")) == []


REFUSED = [
    ("vm-name", [("VirtualMachine.metadata.name", "Web")]),
    ("vm-name", [("VirtualMachine.metadata.name", "web.-a")]),
    ("vm-name", [("VirtualMachine.metadata.name", "a" * 254)]),
    ("name-label", [("VirtualMachine.metadata.name", "a" * 64), ("domain.devices.tpm", {"persistent": True})]),
    (
        "name-label",
        [("VirtualMachine.metadata.name", "a" * 64), ("domain.firmware.bootloader.efi", {"persistent": True})],
    ),
    ("run-strategy", [("VirtualMachine.spec.runStrategy", "Off")]),
    ("run-strategy", [("VirtualMachine.spec.runStrategy", ABSENT)]),
    ("run-strategy", [("VirtualMachine.spec.running", False)]),
    ("feature-gate", [("VirtualMachine.spec.runStrategy", "WaitAsReceiver")]),
    ("feature-gate", [("domain.devices.hostDevices", [{"name": "gpu", "deviceName": "a/b"}])]),
    ("feature-gate", [("domain.cpu.dedicatedCpuPlacement", True)]),
    ("device-resource", [("domain.devices.gpus", [{"name": "a", "deviceName": "Dev"}])]),
    ("device-resource", [("domain.devices.gpus", [{"name": "a", "deviceName": "a.b/c d"}])]),
    ("device-resource", [("domain.devices.gpus", [{"name": "a", "deviceName": "a/b/c"}])]),
    ("cpu-feature-twice", [("domain.cpu.features", [{"name": "pbe"}, {"name": "pbe", "policy": "disable"}])]),
    ("architecture", [("architecture", "ppc64le")]),
    ("hostname", [("hostname", "a.b")]),
    ("subdomain", [("subdomain", "a_b")]),
    ("service-account", [("serviceAccountName", "A")]),
    ("eviction-strategy", [("evictionStrategy", "Never")]),
    ("start-strategy", [("startStrategy", "Running")]),
    ("utility-volumes", [("utilityVolumes", [{"name": "a", "claimName": "b"}])]),
    ("label", [("VirtualMachine.metadata.labels", {"a": "a b"})]),
    ("label", [("VirtualMachine.metadata.labels", {"a": "b" * 64})]),
    ("label", [("VirtualMachine.metadata.labels", {"A/b": "c"})]),
    ("label-reserved", [("VirtualMachine.spec.template.metadata.labels", {"kubevirt.io/nodeName": "a"})]),
    ("annotation", [("VirtualMachine.metadata.annotations", {"a b": ""})]),
    ("annotation-size", [("VirtualMachine.metadata.annotations", {"a": "b" * 2**18})]),
    ("machine-type", [("domain.machine.type", "pc-i440fx-7.2")]),
    ("machine-type", [("domain.machine.type", "virt"), ("architecture", "s390x")]),
    ("machine-type", [("domain.machine.type", "q35"), ("architecture", "arm64")]),
    ("io-threads-policy", [("domain.ioThreadsPolicy", "many")]),
    ("io-threads", [("domain.ioThreadsPolicy", "supplementalPool")]),
    ("reboot-policy", [("domain.rebootPolicy", "Never")]),
    ("memory-lock", [("domain.memory.reservedOverhead", {"memLock": "Perhaps"})]),
    ("firmware-uuid", [("domain.firmware.uuid", "not-a-uuid")]),
    ("firmware-bios", [("domain.firmware.bootloader", {"bios": {}}), ("architecture", "arm64")]),
    ("firmware-efi-bios", [("domain.firmware.bootloader.bios", {})]),
    ("firmware-smm", [("domain.features.smm", ABSENT)]),
    (
        "gpu-detached",
        [
            ("domain.devices.autoattachGraphicsDevice", False),
            ("domain.devices.gpus", [GPU]),
        ],
    ),
    ("firmware-smm", [("domain.features.smm", {"enabled": False})]),
    ("firmware-acpi", [("domain.firmware.acpi", {"slicNameRef": "vda"})]),
    ("firmware-acpi", [("domain.firmware.acpi", {})]),
    ("kernel-boot", [("domain.firmware.kernelBoot", {"kernelArgs": "quiet"})]),
    ("kernel-boot", [("domain.firmware.kernelBoot", {"container": {"image": "a"}})]),
    ("image-path", [("domain.firmware.kernelBoot", {"container": {"image": "a", "kernelPath": "a/../b"}})]),
    ("cpu-count", [("domain.cpu.sockets", -1)]),
    ("cpu-count", [("domain.cpu.sockets", 2**32)]),
    ("cpu-count", [("domain.cpu.cores", -1)]),
    ("cpu-count", [("domain.cpu.threads", -1)]),
    ("cpu-model", [("domain.cpu.model", "host-model"), ("architecture", "arm64")]),
    ("cpu-feature-policy", [("domain.cpu.features", [{"name": "vmx", "policy": "on"}])]),
    ("cpu-label", [("domain.cpu.model", "a/b")]),
    ("cpu-label", [("domain.cpu.model", "a" * 64)]),
    ("cpu-label", [("domain.cpu.features", [{"name": "a b", "policy": "optional"}])]),
    ("cpu-label", [("domain.cpu.features", [{"name": ""}])]),
    ("cpu-label", [("domain.cpu.features", [{"name": "a" * 64, "policy": "forbid"}])]),
    ("cpu-max-sockets", [("domain.cpu.sockets", 2)]),
    ("cpu-isolate", [("domain.cpu.isolateEmulatorThread", True)]),
    ("cpu-numa", [("domain.cpu.numa", {"guestMappingPassthrough": {}})]),
    ("cpu-realtime", [("domain.cpu.realtime", {})]),
    ("cpu-threads", [("domain.cpu", {"dedicatedCpuPlacement": True, "threads": 4})]),
    ("cpu-dedicated", [("domain.cpu.dedicatedCpuPlacement", True), ("domain.resources.requests", {"cpu": "1500m"})]),
    ("cpu-dedicated", [("domain.cpu.dedicatedCpuPlacement", True), ("domain.resources.limits", {"cpu": "3"})]),
    (
        "cpu-dedicated",
        [
            ("domain.cpu.dedicatedCpuPlacement", True),
            ("domain.resources", {"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}}),
        ],
    ),
    (
        "cpu-dedicated",
        [
            ("domain.cpu", {"dedicatedCpuPlacement": True}),
            ("domain.resources", {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}),
        ],
    ),
    ("cpu-threads", [("domain.cpu", {"dedicatedCpuPlacement": True, "threads": 2}), ("architecture", "arm64")]),
    ("memory-max-guest", [("domain.cpu.numa", {"guestMappingPassthrough": {}})]),
    ("memory-missing", [("domain.memory", ABSENT)]),
    ("memory-max-guest", [("domain.memory.guest", "500Mi")]),
    ("memory-max-guest", [("domain.memory.maxGuest", "2049Mi")]),
    ("memory-max-guest", [("domain.memory.guest", "3Gi")]),
    ("memory-max-guest", [("architecture", "arm64")]),
    ("hugepages-size", [("domain.memory.hugepages", {"pageSize": "big"})]),
    ("hugepages-multiple", [("domain.memory", {"guest": "1536Mi", "hugepages": {"pageSize": "1Gi"}})]),
    ("memory-instancetype", [("VirtualMachine.spec.instancetype", {"name": "u1.small"})]),
    ("memory-instancetype", [*SIZED, ("domain.resources.requests", {"memory": "1Gi"})]),
    ("memory-instancetype", [*SIZED, ("domain.resources.limits", {"memory": "1Gi"})]),
    ("cpu-instancetype", [*SIZED, ("domain.cpu.sockets", 1)]),
    ("cpu-instancetype", [*SIZED, ("domain.cpu.cores", 1)]),
    ("cpu-instancetype", [*SIZED, ("domain.cpu.threads", 1)]),
    ("cpu-instancetype", [*SIZED, ("domain.resources.requests", {"cpu": "1"})]),
    ("cpu-instancetype", [*SIZED, ("domain.resources.limits", {"cpu": "1"})]),
    ("resources", [("domain.resources.requests", {"memory": "1000"})]),
    ("resources", [("domain.resources", {"requests": {"cpu": 2}, "limits": {"cpu": "1"}})]),
    ("timer-policy", [("domain.clock.timer.hpet", {"tickPolicy": "never"})]),
    ("timer-policy", [("domain.clock.timer.pit", {"tickPolicy": "merge"})]),
    ("timer-policy", [("domain.clock.timer.rtc", {"tickPolicy": "discard"})]),
    ("timer-track", [("domain.clock.timer.rtc", {"track": "boot"})]),
    ("disk-name", [(f"{D}.0.name", "VDA")]),
    ("disk-name", [(f"{D}.0.name", "a" * 64)]),
    ("disk-unique", [(f"{D}.0.name", "sdb")]),
    ("disk-volume", [(f"{D}.0.name", "vdz")]),
    ("disk-count", [(D, [{"name": f"d{number}"} for number in range(257)])]),
    ("disk-kind", [(f"{D}.0.lun", {})]),
    ("disk-bus", [(f"{D}.0.disk.bus", "ide")]),
    ("disk-bus", [(f"{D}.2.cdrom.bus", "virtio")]),
    ("disk-bus", [(f"{D}.3.lun.bus", "fdc")]),
    ("disk-bus-arm64", [("architecture", "arm64"), (f"{D}.2.cdrom.bus", "sata")]),
    ("disk-read-only", [(f"{D}.1.disk.bus", "sata")]),
    ("disk-read-only", [(f"{D}.1.disk.bus", "")]),
    ("disk-pci", [(f"{D}.1.disk.pciAddress", "0000:01:00.0")]),
    ("pci-address", [(f"{D}.0.disk.pciAddress", "01:00.0")]),
    ("pci-address", [(f"{N}.0.pciAddress", "0000:01:00.8")]),
    ("disk-io-thread", [(f"{D}.1.dedicatedIOThread", True)]),
    ("disk-shareable", [(f"{D}.1.cache", "writeback")]),
    ("disk-native-io", [(f"{D}.0.cache", "writeback")]),
    ("disk-serial", [(f"{D}.0.serial", "a b")]),
    ("disk-serial", [(f"{D}.0.serial", "a" * 257)]),
    ("disk-cache", [(f"{D}.0.cache", "directsync")]),
    ("disk-io", [(f"{D}.0.io", "io_uring")]),
    ("disk-error-policy", [(f"{D}.0.errorPolicy", "retry")]),
    ("disk-tray", [(f"{D}.2.cdrom.tray", "ajar")]),
    ("block-size", [(f"{D}.0.blockSize", {"custom": {"logical": 513, "physical": 513}})]),
    ("block-size", [(f"{D}.0.blockSize", {"custom": {"logical": 4096, "physical": 512}})]),
    ("block-size", [(f"{D}.0.blockSize", {"matchVolume": {}, "custom": {"logical": 512, "physical": 512}})]),
    ("block-size", [(f"{D}.2.blockSize", {"custom": {"logical": 4096, "physical": 4096}})]),
    (
        "block-size",
        [(f"{D}.0.blockSize", {"custom": {"logical": 512, "physical": 512, "discardGranularity": 100}})],
    ),
    ("lun-claim", [(f"{V}.3", {"name": "sdd", "emptyDisk": {"capacity": "1Gi"}})]),
    ("boot-order", [(f"{D}.0.bootOrder", 0)]),
    ("boot-order", [(f"{D}.0.bootOrder", 2)]),
    ("boot-order", [(f"{N}.0.bootOrder", 0)]),
    ("volume-name", [(f"{V}.4", {"name": "A_b", "emptyDisk": {"capacity": "1Gi"}})]),
    ("volume-name", [(f"{V}.2", {"name": "sdc", "secret": {}})]),
    ("volume-unique", [(f"{V}.3.name", "vda")]),
    ("volume-count", [(V, [{"name": f"d{number}", "emptyDisk": {"capacity": "1"}} for number in range(257)])]),
    ("volume-source", [(f"{V}.0.emptyDisk", {"capacity": "1Gi"})]),
    ("volume-source", [(f"{V}.0", {"name": "vda"})]),
    (
        "volume-once",
        [
            (f"{V}.0", {"name": "vda", "serviceAccount": {"serviceAccountName": "a"}}),
            (f"{V}.1", {"name": "sdb", "serviceAccount": {"serviceAccountName": "b"}}),
        ],
    ),
    ("cloud-init-size", [(f"{V}.2.cloudInitNoCloud.userData", "x" * 2049)]),
    ("cloud-init-source", [(f"{V}.2.cloudInitNoCloud", {})]),
    ("cloud-init-source", [(f"{V}.2.cloudInitNoCloud.secretRef", {"name": "a"})]),
    ("cloud-init-base64", [(f"{V}.2.cloudInitNoCloud", {"userDataBase64": "!"})]),
    ("host-disk", [(f"{V}.0", {"name": "vda", "hostDisk": {"path": "/a", "type": "File"}})]),
    ("host-disk", [(f"{V}.0", {"name": "vda", "hostDisk": {"path": "/a", "type": "Disk", "capacity": "1Gi"}})]),
    ("image-path", [(f"{V}.2", {"name": "sdc", "containerDisk": {"image": "a", "path": "/"}})]),
    ("downward-metrics", [(f"{V}.1", {"name": "sdb", "downwardMetrics": {}})]),
    ("virtiofs", [("domain.devices.filesystems", [{"name": "vda", "virtiofs": {}}])]),
    ("nic-name", [(f"{N}.0.name", "a.b")]),
    ("nic-unique", [(f"{N}.1.name", "net0")]),
    ("nic-network", [(f"{N}.1.name", "net2")]),
    ("network-nic", [(f"{N}.1", ABSENT)]),
    ("nic-count", [(N, [{"name": f"n{number}", "bridge": {}} for number in range(257)])]),
    ("network-count", [("networks", [{"name": f"n{n}", "multus": {"networkName": "a"}} for n in range(257)])]),
    ("nic-model", [(f"{N}.0.model", "vmxnet3")]),
    ("nic-mac", [(f"{N}.0.macAddress", "52:54:00:00:00")]),
    ("nic-mac-reserved", [(f"{N}.0.macAddress", "02:00:00:00:00:00")]),
    ("nic-binding", [(f"{N}.0.bridge", {})]),
    ("nic-binding", [(f"{N}.1", {"name": "net1"})]),
    ("nic-pod-network", [(f"{N}.1", {"name": "net1", "masquerade": {}})]),
    ("nic-pod-network", [(f"{N}.1", {"name": "net1", "passtBinding": {}})]),
    ("nic-ports", [(f"{N}.0.ports", [{"port": 0}])]),
    ("nic-ports", [(f"{N}.0.ports", [{"port": 80, "protocol": "tcp"}])]),
    ("nic-ports", [(f"{N}.0.ports", [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}])]),
    ("nic-state", [(f"{N}.0.state", "off")]),
    ("nic-state", [(f"{N}.0.state", "absent")]),
    ("nic-state", [(f"{N}.1", {"name": "net1", "sriov": {}, "state": "down"})]),
    ("nic-discontinued", [(f"{N}.1", {"name": "net1", "slirp": {}})]),
    ("nic-discontinued", [(f"{N}.1", {"name": "net1", "passt": {}})]),
    ("nic-discontinued", [(f"{N}.1", {"name": "net1", "macvtap": {}})]),
    ("network-name", [("networks.1.multus.networkName", "")]),
    ("network-pod", [("networks.1", {"name": "net1", "pod": {}})]),
    ("network-pod", [("networks.1.multus.default", True)]),
    ("network-unique", [("networks.1.name", "net0")]),
    ("network-source", [("networks.1", {"name": "net1"})]),
    ("network-source", [("networks.1.pod", {})]),
    ("input-bus", [("domain.devices.inputs.0.bus", "ps2")]),
    ("input-type", [("domain.devices.inputs.0.type", "mouse")]),
    ("sound-model", [("domain.devices.sound.model", "es1370")]),
    ("sound-name", [("domain.devices.sound.name", "")]),
    ("sound-arm64", [("architecture", "arm64")]),
    ("panic-model", [("domain.devices.panicDevices", [{"model": "pseries"}])]),
    ("panic-s390x", [("domain.devices.panicDevices", [{"model": "isa"}]), ("architecture", "s390x")]),
    ("video-type", [("domain.devices.video", {"type": "qxl"})]),
    ("video-type", [("domain.devices.video", {"type": "vga"}), ("architecture", "arm64")]),
    ("video-type", [("domain.devices.video", {"type": "vga"}), ("architecture", "s390x")]),
    ("video-detached", [("domain.devices.video", {"type": "vga"}), ("domain.devices.autoattachGraphicsDevice", False)]),
    ("watchdog-arch", [("domain.devices.watchdog", {"name": "dog", "diag288": {}})]),
    ("watchdog-arch", [("architecture", "s390x")]),
    ("watchdog-arch", [("architecture", "arm64")]),
    ("watchdog-action", [("domain.devices.watchdog.i6300esb.action", "bark")]),
    ("hyperv-needs", [("domain.features.hyperv", {"ipi": {}, "vpindex": {"enabled": False}})]),
    ("hyperv-needs", [("domain.features.hyperv", {"synictimer": {}, "vpindex": {"enabled": False}})]),
    ("hyperv-passthrough", [("domain.features.hypervPassthrough", {})]),
    ("launch-security", [("domain.launchSecurity", {"sev": {}})]),
    ("launch-security", [("domain.launchSecurity", {"sev": {}, "tdx": {}})]),
    ("data-volume", [("VirtualMachine.spec.dataVolumeTemplates", [{"metadata": {"name": "a"}, "spec": {}}])]),
    ("data-volume-content", [("VirtualMachine.spec.dataVolumeTemplates", [{"spec": {"contentType": "iso"}}])]),
    ("memory-missing", [("domain.memory", {"guest": "-1Gi"})]),
    ("hyperv-passthrough", [("domain.features", {"smm": {}, "hypervPassthrough": {}})]),
    ("video-type", [("domain.devices.video", {})]),
    ("gpu-displays", [("domain.devices.gpus", [GPU | {"name": name} for name in "ab"])]),
    ("instancetype-name", [("VirtualMachine.spec.instancetype", {})]),
    ("preference-name", [("VirtualMachine.spec.preference", {"kind": "VirtualMachinePreference"})]),
    ("disk-bus", [("architecture", "arm64"), (f"{D}.2.cdrom", {})]),
    ("block-size", [(f"{D}.0", {"name": "vda", "blockSize": {"custom": {"logical": 4096, "physical": 4096}}})]),
    ("lun-reservation", [(f"{D}.3.lun.reservation", True)]),
    ("downward-metrics", [(f"{V}.0", {"name": "vda", "downwardMetrics": {}}), (f"{D}.0", {"name": "vda"})]),
    ("container-path", [(f"{V}.4", {"name": "a", "containerPath": {"path": "/a"}})]),
    ("container-path", [(f"{V}.4", {"name": "a", "containerPath": {"path": "/a/../b"}})]),
    ("container-path", [(f"{V}.4", {"name": "a", "containerPath": {"path": "/var/run/kubevirt/a"}})]),
    ("container-path", [(f"{V}.4", {"name": "a", "containerPath": {"path": "/a", "readOnly": False}})]),
    ("image-path", [(f"{V}.2", {"name": "sdc", "containerDisk": {"image": "a", "path": "/a//"}})]),
    ("nic-ports", [(f"{N}.0.ports", [{"port": 80, "name": "HTTP"}])]),
    ("nic-ports", [(f"{N}.0.ports", [{"port": 80, "name": "80"}])]),
    ("nic-ports", [(f"{N}.0.ports", [{"port": 80, "name": "a" * 16}])]),
    ("nic-port-ranges", [(f"{N}.0.portRanges", [RANGE | {"start": 3}])]),
    ("nic-port-ranges", [(f"{N}.0.portRanges", [RANGE | {"end": 65536}])]),
    ("nic-port-ranges", [(f"{N}.0.portRanges", [RANGE | {"protocol": "SCTP"}])]),
    ("nic-port-ranges", [(f"{N}.0.portRanges", [RANGE, RANGE | {"start": 2}])]),
    ("nic-port-ranges", [(f"{N}.0.portRanges", [RANGE]), (f"{N}.0.ports", [{"port": 80}])]),
    ("nic-port-ranges", [(f"{N}.0.portRanges", [RANGE | {"start": n, "end": n} for n in range(1, 12)])]),
    ("nic-dhcp", [(f"{N}.0.dhcpOptions", {"privateOptions": [{"option": 223, "value": "a"}]})]),
    ("nic-dhcp", [(f"{N}.1.dhcpOptions", {"privateOptions": [{"option": 224, "value": v} for v in "ab"]})]),
    ("nic-dhcp", [(f"{N}.0.dhcpOptions", {"ntpServers": ["::1"]})]),
    ("nic-dhcp", [(f"{N}.0.dhcpOptions", {"ntpServers": ["pool.ntp.org"]})]),
    ("resource-claim", [("resourceClaims", [CLAIMED, CLAIMED])]),
    ("resource-claim", [("resourceClaims", [CLAIMED | {"name": "A"}])]),
    ("resource-claim", [("resourceClaims", [{"name": "a"}])]),
    ("resource-claim", [("resourceClaims", [CLAIMED | {"resourceClaimTemplateName": "b"}])]),
    ("resource-claim", [("resourceClaims", [CLAIMED | {"resourceClaimName": "A_"}])]),
    ("claim-request", [("domain.devices.gpus", [ASKING])]),
    ("claim-request", [("resourceClaims", [CLAIMED]), ("domain.devices.gpus", [{"name": "a", "claimName": "a"}])]),
    ("claim-request", [("resourceClaims", [CLAIMED]), ("domain.devices.gpus", [ASKING, ASKING])]),
    ("claim-request", [("networks.1", {"name": "net1", "resourceClaim": {"claimName": "a", "requestName": "b"}})]),
    ("claim-request", [("resourceClaims", [CLAIMED]), ("networks.1", {"name": "net1", "resourceClaim": REQUEST})]),
    ("networks-mixed", [("networks.0", {"name": "net0", "resourceClaim": REQUEST})]),
    ("device-name", [("domain.devices.hostDevices", [{"name": "a"}])]),
    ("device-name", [("domain.devices.gpus", [ASKING | {"deviceName": "a"}])]),
    ("gpus-mixed", [("domain.devices.gpus", [ASKING, {"name": "b", "deviceName": "c"}])]),
    ("credential-kind", [("accessCredentials", [{}])]),
    ("credential-kind", [("accessCredentials", [{"sshPublicKey": BY_AGENT, "userPassword": BY_AGENT}])]),
    ("credential-source", [("accessCredentials", [{"userPassword": BY_AGENT | {"source": {}}}])]),
    ("credential-way", [("accessCredentials", [{"userPassword": BY_AGENT | {"propagationMethod": {}}}])]),
    ("credential-way", [("accessCredentials", [{"sshPublicKey": BY_AGENT | {"propagationMethod": CONFIG_DRIVE}}])]),
    ("credential-users", [("accessCredentials", [{"sshPublicKey": BY_AGENT | {"propagationMethod": NO_USER}}])]),
    ("credential-users", [("accessCredentials", [{"sshPublicKey": BY_AGENT | {"propagationMethod": ONE_TWICE}}])]),
    ("credential-count", [("accessCredentials", [{"userPassword": BY_AGENT}] * 257)]),
    ("probe", [("livenessProbe", {})]),
    ("probe", [("readinessProbe", {"exec": {"command": ["a"]}, "guestAgentPing": {}})]),
    ("probe-network", [*SECONDARY_ONLY, ("readinessProbe", {"httpGet": {"port": 80}})]),
    ("probe-paused", [("livenessProbe", {"guestAgentPing": {}}), ("startStrategy", "Paused")]),
    ("dns-servers", [("dnsPolicy", "None")]),
    ("dns-servers", [("dnsConfig.nameservers", ["192.0.2.1"] * 4)]),
    ("dns-servers", [("dnsConfig.nameservers", ["a"])]),
    ("dns-searches", [("dnsConfig.searches", ["a"] * 7)]),
    ("dns-searches", [("dnsConfig.searches", ["a" * 200, "b" * 60])]),
    ("dns-searches", [("dnsConfig.searches", ["A"])]),
    ("dns-options", [("dnsConfig.options", [{"value": "a"}])]),
    ("service-account", [("serviceAccountName", "A")]),
    (
        "service-account",
        [("serviceAccountName", "a"), (f"{V}.2", {"name": "sdc", "serviceAccount": {"serviceAccountName": "b"}})],
    ),
    ("feature-gate", [("VirtualMachine.spec.template.metadata.annotations", {"kubevirt.io/ignitiondata": "{}"})]),
    ("affinity", [node_affinity(nodeSelectorTerms=[])]),
    *(
        ("affinity", [node_affinity(nodeSelectorTerms=[{"matchExpressions": [expression]}])])
        for expression in [
            {"key": "a", "operator": "In"},
            {"key": "a", "operator": "Exists", "values": ["b"]},
            {"key": "a", "operator": "Gt", "values": ["1", "2"]},
            {"key": "a b", "operator": "Exists"},
        ]
    ),
    *(
        ("affinity", [node_affinity(nodeSelectorTerms=[{"matchFields": [requirement]}])])
        for requirement in [
            {"key": "metadata.name", "operator": "In", "values": ["a", "b"]},
            {"key": "metadata.uid", "operator": "In", "values": ["a"]},
            {"key": "metadata.name", "operator": "In", "values": ["A_"]},
        ]
    ),
    ("affinity", [(f"affinity.nodeAffinity.{PREFERRED}", [{"weight": 0, "preference": {}}])]),
    ("affinity", [(f"affinity.podAffinity.{PREFERRED}", [{"weight": 101, "podAffinityTerm": {"topologyKey": "a"}}])]),
    *(
        ("affinity", [(f"affinity.podAntiAffinity.{REQUIRED}", [{"topologyKey": "a"} | term])])
        for term in [
            {"topologyKey": ""},
            {"namespaces": ["A"]},
            {"labelSelector": {"matchLabels": {"a b": "c"}}},
            {"labelSelector": {"matchLabels": {"a": "b c"}}},
            {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}},
        ]
    ),
    *(
        ("topology-spread", [("topologySpreadConstraints", [SPREAD | wrong])])
        for wrong in [
            {"maxSkew": 0},
            {"topologyKey": "a b"},
            {"labelSelector": {"matchLabels": {"a b": "c"}}},
            {"minDomains": 0},
            {"minDomains": 2, "whenUnsatisfiable": "ScheduleAnyway"},
        ]
    ),
    ("topology-spread", [("topologySpreadConstraints", [SPREAD, SPREAD])]),
    ("node-selector", [("nodeSelector", {"a": "b c"})]),
    *(
        ("toleration", [("tolerations", [toleration])])
        for toleration in [
            {"key": "a b", "operator": "Exists"},
            {"value": "a"},
            {"key": "a", "operator": "Exists", "value": "b"},
            {"key": "a", "value": "b c"},
            {"key": "a", "effect": "NoSchedule", "tolerationSeconds": 3},
        ]
    ),
]


@pytest.mark.parametrize(("name", "changes"), REFUSED)
def test_what_kubevirt_refuses_is_refused(name, changes):
    assert name in ids(changed(VM, *changes))


CLAIMS = [
    ("claim-name", [("metadata.name", "A")]),
    ("claim-access", [("spec.accessModes", [])]),
    ("claim-access", [("spec.accessModes", ["ReadWriteOncePod", "ReadWriteMany"])]),
    ("claim-mode", [("spec.volumeMode", "FromStorageProfile")]),
    ("claim-size", [("spec.resources.requests.storage", "0")]),
    ("claim-size", [("spec.resources", ABSENT)]),
    ("claim-class", [("spec.storageClassName", "A b")]),
    ("label", [("metadata.labels", {"a": " "})]),
]


@pytest.mark.parametrize(("name", "changes"), CLAIMS)
def test_claims(name, changes):
    assert ids(VM, claims=[changed(CLAIM, *changes)]) == {name}


def test_one_claim_twice():
    assert ids(VM, claims=[CLAIM, CLAIM]) == {"claim-unique"}


def test_an_empty_cdrom_needs_its_gate():
    vm = changed(VM, (f"{V}.2", ABSENT))
    assert ids(vm, on="1.9") == set()
    assert ids(vm, on="1.9", gates="-DeclarativeHotplugVolumes") == {"cdrom-empty"}
    assert ids(vm, on="1.8", gates="+DeclarativeHotplugVolumes") == set()
    assert ids(vm, on="1.5") == {"cdrom-empty"}


def test_versions_and_gates_matter():
    panic = changed(VM, ("domain.devices.panicDevices", [{"model": "isa"}]))
    assert ids(panic, on="1.6") == {"feature-gate"}
    assert ids(panic, on="1.6", gates="+PanicDevices") == ids(panic) == set()
    assert ids(changed(VM, ("domain.memory.maxGuest", "2049Mi")), on="1.4") == set()
    limited = changed(VM, ("domain.memory", {"guest": "2Gi"}), ("domain.resources.limits", {"memory": "1Gi"}))
    assert ids(limited, on="1.4") == {"memory-limit"} and ids(limited) == set()


@pytest.mark.parametrize(
    ("path", "value", "on", "because"),
    [
        (
            "domain.cpu.dedicatedCpuPlacement",
            True,
            "1.6",
            "KubeVirt 1.6 never starts a VM with dedicatedCpuPlacement: true (needs feature gate CPUManager).",
        ),
        (
            "VirtualMachine.spec.runStrategy",
            "WaitAsReceiver",
            "1.6",
            "KubeVirt 1.6 refuses runStrategy: WaitAsReceiver (needs feature gate DecentralizedLiveMigration).",
        ),
        (
            "domain.devices.hostDevices",
            [{"name": "gpu", "deviceName": "a/b"}],
            "1.9",
            "KubeVirt 1.9 refuses hostDevices (needs feature gate HostDevices).",
        ),
        (
            "domain.devices.interfaces.0.macvtap",
            {},
            "1.9",
            "KubeVirt 1.9 refuses macvtap (its feature gate Macvtap is discontinued).",
        ),
    ],
)
def test_what_a_missing_gate_does_is_said(path, value, on, because):
    found = refusals(changed(VM, (path, value)), [], target(on))
    assert [refusal.because for refusal in found if refusal.id == "feature-gate"] == [because]


BLOCKS = {"name": "sdc", "cdrom": {"bus": "sata"}, "blockSize": {"custom": {"logical": 4096, "physical": 4096}}}
SHARED = [("domain.devices.filesystems", [{"name": "a", "virtiofs": {}}])]
CONFIG = [*SHARED, (f"{V}.4", {"name": "a", "configMap": {"name": "b"}})]
CLAIM_SHARED = [*SHARED, (f"{V}.4", {"name": "a", "persistentVolumeClaim": {"claimName": "b"}})]
ON_S390X = [
    ("architecture", "s390x"),
    ("domain.machine.type", "s390-ccw-virtio"),
    ("domain.firmware.bootloader", ABSENT),
    ("domain.memory.maxGuest", ABSENT),
    ("domain.devices.watchdog", ABSENT),
    ("domain.devices.tpm", ABSENT),
    ("domain.devices.inputs.0.bus", "virtio"),
    ("domain.features.hyperv", ABSENT),
    (f"{D}.2.cdrom.bus", "scsi"),
]
ON_ARM64 = [
    ("architecture", "arm64"),
    ("domain.machine.type", "virt"),
    ("domain.firmware.bootloader.efi.secureBoot", False),
    ("domain.cpu.model", "host-passthrough"),
    ("domain.cpu.maxSockets", ABSENT),
    ("domain.memory.maxGuest", ABSENT),
    ("domain.devices.sound", ABSENT),
    ("domain.devices.watchdog", ABSENT),
    (f"{D}.2.cdrom.bus", "scsi"),
]
TDX = [
    ("domain.launchSecurity", {"tdx": {}}),
    ("domain.features.smm", ABSENT),
    ("domain.memory.maxGuest", ABSENT),
    (f"{N}.1.bootOrder", ABSENT),
]


# On the pod network a plugin takes the address that masquerade keeps for itself.
ON_PLUGINS = [
    (f"{N}.0", {"name": "net0", "binding": {"name": "passt"}, "macAddress": "02:00:00:00:00:00"}),
    (f"{N}.1", {"name": "net1", "binding": {"name": "macvtap"}, "bootOrder": 2}),
]


BY_VERSION = [
    ([("domain.firmware.serial", "a b")], "", {"1.4": "firmware-serial", "1.5": None}),
    ([(f"{D}.2", BLOCKS)], "", {"1.6": None, "1.7": "block-size"}),
    ([(f"{N}.0.bridge", {})], "", {"1.8": None, "1.9": "nic-binding"}),
    ([(f"{N}.0.binding", {"name": "a"})], "+NetworkBindingPlugins", {"1.4": "nic-binding", "1.8": "nic-binding"}),
    ([(f"{N}.1", {"name": "net1"})], "", {"1.3": "nic-binding"}),
    (ON_PLUGINS, "", {"1.3": "feature-gate", "1.4": "feature-gate", "1.5": None, "1.9": None}),
    (ON_PLUGINS, "+NetworkBindingPlugins", {"1.3": None, "1.4": None}),
    ([*ON_PLUGINS, (f"{N}.1.sriov", {})], "", {"1.5": "nic-binding", "1.9": "nic-binding"}),
    ([*ON_PLUGINS, (f"{N}.1.state", "absent")], "", {"1.5": "nic-state", "1.9": "nic-state"}),
    ([*ON_PLUGINS, (f"{N}.1.state", "down")], "", {"1.5": None, "1.9": None}),
    (CONFIG, "", {"1.4": None, "1.5": "virtiofs", "1.7": "virtiofs", "1.8": None}),
    (CONFIG, "+EnableVirtioFsConfigVolumes", {"1.5": None}),
    (CONFIG, "+ExperimentalVirtiofsSupport", {"1.7": None}),
    (CLAIM_SHARED, "", {"1.4": None, "1.5": "virtiofs", "1.9": "virtiofs"}),
    ([("domain.firmware.acpi", {})], "", {"1.4": None, "1.5": "firmware-acpi"}),
    ([("domain.memory", {"guest": "1Ki"})], "", {"1.5": "resources", "1.6": None}),
    ([("domain.memory.guest", "500Mi")], "", {"1.5": None, "1.6": "memory-max-guest"}),
    (
        [("domain.memory", {"guest": "2Gi"}), ("domain.resources.limits", {"memory": "1Gi"})],
        "",
        {"1.5": "memory-limit", "1.6": None},
    ),
    ([("domain.cpu.maxSockets", 128)], "", {"1.4": "cpu-count", "1.5": None}),
    ([("domain.cpu.maxSockets", 2049)], "", {"1.9": "cpu-count"}),
    ([*ON_S390X, ("domain.cpu.maxSockets", 125)], "", {"1.9": "cpu-count"}),
    ([*ON_ARM64, ("domain.cpu.sockets", 257)], "", {"1.9": "cpu-count"}),
    ([*ON_ARM64, ("domain.cpu.maxSockets", 1)], "+MultiArchitecture", {"1.4": None, "1.8": None}),
    (
        [*ON_ARM64, ("domain.cpu.sockets", 2), ("domain.cpu.maxSockets", 2)],
        "+MultiArchitecture",
        {"1.4": "cpu-room-arm64", "1.5": None},
    ),
    (
        [*ON_ARM64, ("domain.cpu.maxSockets", 1), ("domain.cpu.dedicatedCpuPlacement", True)],
        "+CPUManager,+MultiArchitecture",
        {"1.5": "cpu-room-arm64", "1.8": "cpu-room-arm64", "1.9": None},
    ),
    (
        [(f"{D}.0.dedicatedIOThread", True), ("domain.cpu.dedicatedCpuPlacement", True)],
        "+CPUManager",
        {"1.4": None, "1.5": "cpu-io-threads", "1.7": "cpu-io-threads", "1.8": None},
    ),
    (
        [("domain.ioThreadsPolicy", "auto"), ("domain.cpu.dedicatedCpuPlacement", True)],
        "+CPUManager",
        {"1.7": "cpu-io-threads", "1.8": None},
    ),
    (
        [*DISKLESS, ("domain.ioThreadsPolicy", "shared"), ("domain.cpu.dedicatedCpuPlacement", True)],
        "+CPUManager",
        {"1.3": "cpu-io-threads", "1.6": "cpu-io-threads", "1.9": "cpu-io-threads"},
    ),
    ([*DISKLESS, ("domain.cpu.dedicatedCpuPlacement", True)], "+CPUManager", {"1.3": None, "1.9": None}),
    ([*SIZED[:2], ("domain.memory", {"maxGuest": "4Gi"})], "", {"1.6": "memory-instancetype", "1.7": None}),
    ([*ON_S390X, (f"{D}.0.blockSize", {"custom": {"logical": 512, "physical": 8192}})], "", {"1.9": "block-size"}),
    (ON_S390X, "", {"1.7": "feature-gate", "1.8": None}),
    ([*ON_S390X, ("domain.devices.autoattachVSOCK", True)], "+VSOCK", {"1.8": "vsock-s390x", "1.9": "vsock-s390x"}),
    (ON_S390X, "+MultiArchitecture", {"1.3": None, "1.7": None}),
    ([*ON_S390X, ("domain.launchSecurity", {})], "", {"1.8": "feature-gate", "1.9": None}),
    (TDX, "+WorkloadEncryptionTDX", {"1.8": "firmware-smm", "1.9": None}),
    ([("VirtualMachine.spec.runStrategy", "WaitAsReceiver")], "", {"1.5": "feature-gate", "1.6": "feature-gate"}),
    ([(f"{D}.3.lun.reservation", True)], "+PersistentReservation", {"1.8": None, "1.9": None}),
    (
        [("VirtualMachine.spec.template.metadata.annotations", {"hooks.kubevirt.io/hookSidecars": "[]"})],
        "+Sidecar",
        {"1.3": None, "1.9": None},
    ),
]


@pytest.mark.parametrize(("changes", "gates", "expected"), BY_VERSION)
def test_refusals_by_version(changes, gates, expected):
    vm = changed(VM, *changes)
    assert {version: next(iter(ids(vm, on=version, gates=gates)), None) for version in expected} == expected


def test_an_administrator_says_which_machine_types_are_allowed():
    old = changed(VM, ("domain.machine.type", "pc-i440fx-7.2"))
    widened = Target("1.9", machines=frozenset({"amd64/pc-i440fx*", "arm64/virt*"}))
    assert ids(old) == {"machine-type"}
    assert refusals(old, [CLAIM], widened) == []
    assert {refusal.id for refusal in refusals(VM, [CLAIM], widened)} == {"machine-type"}


@pytest.mark.parametrize("version", versions())
def test_an_obsolete_cpu_model_starts_on_no_node(version):
    for model in ("qemu64", "kvm32", "486", "pentium3-v1", "Conroe", "Opteron_G2-v1"):
        assert ids(changed(VM, ("domain.cpu.model", model)), on=version) == {"cpu-obsolete"}
    for model in ("Penryn", "Opteron_G3", "EPYC-v4", "host-model", "host-passthrough"):
        assert ids(changed(VM, ("domain.cpu.model", model)), on=version) == set()
    sized = changed(VM, ("VirtualMachine.spec.instancetype", {"name": "u1.small"}), ("domain.cpu", {"model": "n270"}))
    assert "cpu-obsolete" in ids(sized, on=version)


def test_an_administrator_says_which_cpu_models_are_obsolete():
    narrowed = Target("1.9", obsolete=frozenset({"Penryn"}))
    verdicts = {
        model: {refusal.id for refusal in refusals(changed(VM, ("domain.cpu.model", model)), [CLAIM], narrowed)}
        for model in ("qemu64", "Penryn")
    }
    assert verdicts == {"qemu64": set(), "Penryn": {"cpu-obsolete"}}


def test_a_data_volume_of_another_namespace():
    template = {"metadata": {"name": "web-vda", "namespace": "a"}, "spec": {"storage": {}, "source": {"blank": {}}}}
    vm = changed(VM, ("VirtualMachine.spec.dataVolumeTemplates", [template]))
    assert ids(changed(vm, ("VirtualMachine.metadata.namespace", "a"))) == set()
    assert ids(changed(vm, ("VirtualMachine.metadata.namespace", "b"))) == {"data-volume"}


def test_other_architectures():
    assert ids(changed(VM, *ON_ARM64)) == set()
    s390x = changed(VM, *ON_S390X, ("domain.devices.watchdog", {"name": "dog", "diag288": {}}))
    assert ids(s390x) == set()


X86_ONLY = [
    (ON_ARM64, ("domain.devices.tpm", {"persistent": True}), "tpm-arm64"),
    (ON_ARM64, ("domain.devices.panicDevices", [{"model": "isa"}]), "panic-arm64"),
    (ON_ARM64, ("domain.devices.panicDevices", [{"model": "pvpanic"}]), None),
    (ON_ARM64, ("domain.features.pvspinlock", {}), "pvspinlock-arch"),
    (ON_ARM64, ("domain.clock.timer.pit.tickPolicy", "catchup"), "timer-policy"),
    (ON_ARM64, ("domain.clock.timer.hpet", {}), "timer-arch"),
    (ON_ARM64, ("domain.clock.timer.kvm", {"present": False}), None),
    (ON_ARM64, (f"{D}.0.disk.bus", "sata"), "disk-bus-arm64"),
    (ON_ARM64, (f"{D}.3.lun.bus", "usb"), "disk-bus-arm64"),
    (ON_S390X, ("domain.clock.timer.hyperv", {"present": True}), "timer-arch"),
    (ON_S390X, ("domain.clock.timer.pit.tickPolicy", "discard"), "timer-policy"),
    (ON_S390X, ("domain.features.pvspinlock", {"enabled": False}), "pvspinlock-arch"),
    (ON_S390X, ("domain.features.hyperv", {"relaxed": {}}), "hyperv-s390x"),
    (ON_S390X, ("domain.devices.tpm", {}), "tpm-s390x"),
    (ON_S390X, ("domain.firmware.bootloader", {"efi": {"secureBoot": False}}), "firmware-s390x"),
    (ON_ARM64, ("domain.firmware.bootloader.efi", {}), "firmware-arm64"),
    (ON_S390X, ("domain.devices.inputs.0.bus", "usb"), "input-bus-s390x"),
    (ON_S390X, ("domain.devices.clientPassthrough", {}), "redirect-s390x"),
    (ON_S390X, (f"{N}.0.acpiIndex", 1), "nic-acpi-s390x"),
    (ON_S390X, (f"{D}.0.disk.bus", "sata"), "disk-bus-s390x"),
    (ON_S390X, (f"{D}.2.cdrom.bus", "sata"), "disk-bus-s390x"),
    (ON_S390X, (f"{D}.3.lun.bus", "usb"), "disk-bus-s390x"),
]


@pytest.mark.parametrize(("machine", "change", "expected"), X86_ONLY)
def test_what_only_x86_machines_have_keeps_others_from_starting(machine, change, expected):
    assert ids(changed(VM, *machine, change)) == {expected} - {None}


def test_encrypted_vms_that_are_right():
    sev = changed(
        VM,
        ("domain.launchSecurity", {"sev": {}}),
        ("domain.firmware.bootloader.efi", {"secureBoot": False}),
        ("domain.memory.maxGuest", ABSENT),
        (f"{N}.1.bootOrder", ABSENT),
    )
    assert ids(sev) == set()
    for change in [
        (f"{N}.1.bootOrder", 2),
        ("domain.firmware", {}),
        ("domain.launchSecurity.sev", {"attestation": {}}),
    ]:
        assert ids(changed(sev, change)) == {"launch-security"}
    snp = changed(sev, ("domain.launchSecurity", {"snp": {}}))
    assert ids(snp) == set()
    assert ids(changed(snp, ("domain.firmware.bootloader.efi.persistent", True))) == {"launch-security"}
    tdx = changed(snp, ("domain.launchSecurity", {"tdx": {}}))
    assert ids(tdx, gates="+WorkloadEncryptionTDX") == {"launch-security"}
    assert ids(changed(tdx, ("domain.features.smm", ABSENT)), gates="+WorkloadEncryptionTDX") == set()


def test_data_volume_templates_that_are_right():
    template = {"metadata": {"name": "web-vda"}, "spec": {"storage": {}, "source": {"blank": {}}}}
    vm = changed(VM, ("VirtualMachine.spec.dataVolumeTemplates", [template]))
    assert ids(vm) == set()
    for wrong in [
        {"storage": {}, "source": {}},
        {"storage": {}},
        {"storage": {}, "pvc": {}, "source": {"blank": {}}},
        {"storage": {"dataSourceRef": {}}, "source": {"blank": {}}},
        {"storage": {"dataSource": {"kind": "VolumeSnapshot", "name": "a"}}},
    ]:
        assert ids(changed(VM, ("VirtualMachine.spec.dataVolumeTemplates", [template | {"spec": wrong}]))) == {
            "data-volume"
        }


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        ("1Gi", 2**30),
        ("1.5Ki", 1536),
        ("500m", Fraction(1, 2)),
        ("1e3", 1000),
        ("12E2", 1200),
        ("2E", 2 * 10**18),
        ("1Ei", 2**60),
        (4, 4),
        (None, None),
        ("1.2.3", None),
        ("1Xi", None),
        ("much", None),
    ],
)
def test_amount(quantity, number):
    assert amount(quantity) == number


def test_refusals_say_where():
    (refusal,) = refusals(changed(VM, (f"{D}.0.disk.bus", "ide")), [], target("1.9"))
    assert refusal.path == "domain.devices.disks[vda].disk.bus"
    assert refusal.because == "KubeVirt refuses the bus of a disk: ide."


def told_alone():
    """The rows without which a case would not be refused under the name that it expects."""
    cases = [(name, changes, {}) for name, changes in REFUSED]
    cases += [(name, [*machine, change], {}) for machine, change, name in X86_ONLY]
    for changes, gates, expected in BY_VERSION:
        cases += [(name, changes, {"on": version, "gates": gates}) for version, name in expected.items()]
    rows = table("admission.yaml")
    for name, changes, options in cases:
        found = [refusal for refusal in told(changed(VM, *changes), **options) if refusal.id == name]
        for row in rows if found else ():
            if all(
                BRACKETS.sub("", each.path) == row["path"] and each.because.startswith(row["because"]) for each in found
            ):
                yield row["id"], row["path"], row["because"]


def test_no_row_of_the_table_can_go_unnoticed():
    rows = [(row["id"], row["path"], row["because"]) for row in table("admission.yaml")]
    assert len(set(rows)) == len(rows)
    assert set(rows) - set(told_alone()) == set()
    assert all(Target("1.9").vocabulary.field(path) for _, path, _ in rows)
