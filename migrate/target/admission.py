"""What the API server and KubeVirt's webhooks refuse of a VM and its claims, or accept and then cannot start.

Single values are rows of mappings/vocabulary/admission.yaml; what ties several fields together is a function here.
Nothing is refused that KubeVirt accepts and starts with the defaults of its configuration.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from migrate.target.quantity import BINARY, DECIMAL
from migrate.target.vocabulary import API_VERSIONS, TEMPLATE, Target, lacks, needs, table

Manifest = dict[str, Any]

SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
FACTORS = {"n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 10**3), **DECIMAL, **BINARY}
AMOUNT = re.compile(r"([+-]?[0-9.]+)([eE][+-]?\d{1,2}|[a-zA-Z]{0,2})")

MIB, GIB = 2**20, 2**30
INLINE_BYTES = 2048
DISKS = NICS = VOLUMES = 256
ANNOTATION_BYTES = 256 * 1024
RESERVED_MAC = "02:00:00:00:00:00"
RESERVED_LABELS = {
    f"kubevirt.io/{name}"
    for name in (
        "created-by",
        "install-strategy",
        "migrationJobUID",
        "migrationTargetNodeName",
        "nodeName",
        "schedulable",
    )
}
BINDINGS = ("bridge", "masquerade", "sriov", "passtBinding", "binding")
# Each feature with the one it needs; KubeVirt switches that one on unless it is switched off: webhooks/hyperv.go.
HYPERV_NEEDS = {"evmcs": "vapic", "ipi": "vpindex", "tlbflush": "vpindex", "synictimer": "synic", "synic": "vpindex"}


class Refusal(NamedTuple):
    """What is refused: the path to it, the name of the reason, what happens, and what to do."""

    path: str
    id: str
    because: str
    remedy: str


def refusals(vm: Manifest, claims: list[Manifest], target: Target) -> list[Refusal]:
    """Everything about a VM and its claims that the target refuses or cannot start."""
    return [*_vm(vm, target), *_claims(claims)]


def _vm(vm: Manifest, target: Target) -> Iterator[Refusal]:
    spec = vm.get("spec", {}).get("template", {}).get("spec", {})
    arch = spec.get("architecture") or "amd64"
    found: list[Refusal] = []
    _walk(_trie(target, arch), vm, "VirtualMachine", found)
    yield from found
    yield from _metadata(vm, "VirtualMachine.metadata")
    yield from _metadata(vm.get("spec", {}).get("template", {}), "VirtualMachine.spec.template.metadata")
    every = Spec(vm, spec, spec.get("domain", {}), target, arch)
    for check in CHECKS:
        yield from check(every)


@dataclass(frozen=True, slots=True)
class Spec:
    """A VM with the parts that most checks look at."""

    vm: Manifest
    spec: Manifest
    domain: Manifest
    target: Target
    arch: str

    @property
    def devices(self) -> Manifest:
        """The devices of the domain."""
        return self.domain.get("devices", {})

    @property
    def sized_elsewhere(self) -> bool:
        """Whether an instance type gives CPUs and memory."""
        return "instancetype" in self.vm.get("spec", {})

    @property
    def live_update(self) -> bool:
        """Whether changes reach running VMs unless configured otherwise: LiveUpdate became the default in 1.5."""
        return self.target.at_least("1.5")


# --- single values


@dataclass(slots=True)
class Trie:
    """What to look at on the way down: checks of the value here, and what lies below, by field."""

    checks: list[tuple[Callable[[Any], bool], str, str, str]] = field(default_factory=list)
    below: dict[str, Trie] = field(default_factory=dict)


@lru_cache(maxsize=64)
def _trie(target: Target, arch: str) -> Trie:
    """The rows for an architecture and what the target lacks, by path."""
    root = Trie()
    for row in table("admission.yaml"):
        if row.get("arch", arch) == arch:
            _at(root, row["path"]).checks.append((_bad(row), row["id"], row["because"], row["remedy"]))
    for need in needs():
        lack = lacks(need, target)
        if lack:
            because = f"KubeVirt {target.kubevirt} refuses {need.path.rpartition('.')[2]}, which {lack}"
            remedy = "Switch the feature gate on in the cluster and name it in --feature-gates, or leave the field out."
            _at(root, need.path).checks.append((_is(need.value), "feature-gate", because, remedy))
    return root


def _at(root: Trie, path: str) -> Trie:
    full = path if path.split(".")[0] in API_VERSIONS else f"{TEMPLATE}.{path}"
    node = root
    for name in full.split(".")[1:]:
        node = node.below.setdefault(name, Trie())
    return node


def _bad(row: dict[str, Any]) -> Callable[[Any], bool]:
    if "least" in row:
        least = row["least"]
        return lambda value: isinstance(value, int) and value < least
    if "text" in row:
        allowed = re.compile(row["text"]).fullmatch
        return lambda value: isinstance(value, str) and not allowed(value)
    return lambda value: True


def _is(wanted: str | None) -> Callable[[Any], bool]:
    if wanted is None:
        return lambda value: True
    return lambda value: (str(value).lower() if isinstance(value, bool) else str(value)) == wanted


def _walk(trie: Trie, value: Any, path: str, found: list[Refusal]) -> None:
    for bad, name, because, remedy in trie.checks:
        if bad(value):
            shown = f": {value:.80}" if isinstance(value, str) else f": {value}" if isinstance(value, int) else ""
            found.append(Refusal(path.removeprefix(f"{TEMPLATE}."), name, f"{because}{shown}.", remedy))
    if not isinstance(value, dict):
        return
    for name, below in trie.below.items():
        inner = value.get(name)
        if isinstance(inner, list):
            for position, item in enumerate(inner):
                _walk(below, item, f"{path}.{name}[{_key(item, position)}]", found)
        elif inner is not None:
            _walk(below, inner, f"{path}.{name}", found)


def _key(item: Any, position: int) -> Any:
    return item.get("name", position) if isinstance(item, dict) else position


# --- names and metadata


def _metadata(manifest: Manifest, path: str) -> Iterator[Refusal]:
    metadata = manifest.get("metadata", {})
    for key, value in metadata.get("labels", {}).items():
        if not _qualified(key) or not LABEL_VALUE.fullmatch(value):
            because = "The API server refuses a label that is not made of at most 63 of A-Z, a-z, 0-9 and -_."
            yield Refusal(f"{path}.labels[{key}]", "label", because, "Use an annotation for other text.")
        elif key in RESERVED_LABELS and path.startswith("VirtualMachine.spec"):
            because = "KubeVirt refuses a label that it keeps for itself."
            yield Refusal(f"{path}.labels[{key}]", "label-reserved", because, "Leave the label out.")
    annotations = metadata.get("annotations", {})
    for key in annotations:
        if not _qualified(key.lower()):
            because = "The API server refuses an annotation whose key is no qualified name."
            yield Refusal(f"{path}.annotations[{key}]", "annotation", because, "Use PREFIX/NAME for a key.")
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > ANNOTATION_BYTES:
        because = "The API server refuses more than 256 KiB of annotations."
        yield Refusal(f"{path}.annotations", "annotation-size", because, "Shorten the longest annotation.")


@lru_cache(maxsize=1024)
def _qualified(key: str) -> bool:
    """Whether a key of labels or annotations is a name, with a DNS subdomain before its slash if it has one."""
    prefix, slash, name = key.rpartition("/")
    return bool(name and LABEL_VALUE.fullmatch(name) and (not slash or SUBDOMAIN.fullmatch(prefix)))


def _identity(every: Spec) -> Iterator[Refusal]:
    spec = every.vm.get("spec", {})
    if ("running" in spec) == ("runStrategy" in spec):
        because = "KubeVirt refuses a VM without a run strategy, and one with both runStrategy and running."
        yield Refusal("VirtualMachine.spec.runStrategy", "run-strategy", because, "Set runStrategy only.")
    name = every.vm.get("metadata", {}).get("name", "")
    tpm = every.devices.get("tpm", {})
    if len(name) > 63 and (tpm.get("persistent") or _efi(every).get("persistent")):
        because = (
            "The claim of a persistent TPM or EFI state is labelled with the VM's name, which is over 63 characters."
        )
        yield Refusal("VirtualMachine.metadata.name", "name-label", because, "Give the VM a shorter name.")


# --- disks and volumes


def _disks(every: Spec) -> Iterator[Refusal]:
    disks = every.devices.get("disks", [])
    volumes = {volume.get("name"): volume for volume in every.spec.get("volumes", [])}
    seen: set[str] = set()
    if len(disks) > DISKS:
        yield Refusal("domain.devices.disks", "disk-count", "The API server refuses more than 256 disks.", FEWER)
    for disk in disks:
        name = disk.get("name", "")
        path = f"domain.devices.disks[{name}]"
        if name in seen:
            yield Refusal(f"{path}.name", "disk-unique", "KubeVirt refuses two disks of one name.", RENAME)
        seen.add(name)
        yield from _disk_device(every, disk, path)
        yield from _disk_volume(every, disk, volumes.get(name), path)
        if "blockSize" in disk:
            yield from _block_size(disk, path)


FEWER = "Leave the excess devices out."
RENAME = "Give each its own name."


def _disk_device(every: Spec, disk: Manifest, path: str) -> Iterator[Refusal]:
    kinds = [kind for kind in ("disk", "lun", "cdrom") if kind in disk]
    if len(kinds) > 1:
        yield Refusal(
            path, "disk-kind", "KubeVirt refuses a disk that is several kinds of device.", "Keep one of them."
        )
    kind = kinds[0] if kinds else "disk"
    device = disk.get(kind, {})
    bus = device.get("bus") or ("sata" if every.arch == "amd64" else "virtio")
    if kind == "disk" and bus == "sata" and device.get("readonly"):
        because = "KubeVirt refuses a read-only disk on SATA, the bus of a disk that names none."
        yield Refusal(f"{path}.disk.readonly", "disk-read-only", because, "Put the disk on virtio or scsi.")
    if kind == "disk" and device.get("pciAddress") and device.get("bus") != "virtio":
        because = "KubeVirt refuses a PCI address on a disk that is not on virtio."
        yield Refusal(f"{path}.disk.pciAddress", "disk-pci", because, "Leave the address out.")
    if disk.get("dedicatedIOThread") and bus != "virtio":
        because = "KubeVirt refuses an I/O thread of its own for a disk that is not on virtio."
        yield Refusal(f"{path}.dedicatedIOThread", "disk-io-thread", because, "Leave dedicatedIOThread out.")
    if kind == "disk" and disk.get("shareable") and disk.get("cache", "none") not in ("", "none"):
        because = "A VM with a shareable disk that is cached does not start."
        yield Refusal(f"{path}.cache", "disk-shareable", because, "Set the cache to none.")
    if disk.get("io") == "native" and disk.get("cache") in ("writethrough", "writeback"):
        because = "A VM with native I/O on a disk that goes through the host's cache does not start."
        yield Refusal(f"{path}.io", "disk-native-io", because, "Set the cache to none or I/O to threads.")


def _disk_volume(every: Spec, disk: Manifest, volume: Manifest | None, path: str) -> Iterator[Refusal]:
    if volume is None and "cdrom" not in disk:
        because = "KubeVirt refuses a disk without a volume of its name."
        yield Refusal(f"{path}.name", "disk-volume", because, "Add the volume or leave the disk out.")
    elif volume is None and not every.target.enabled("DeclarativeHotplugVolumes"):
        because = "KubeVirt refuses an empty CD-ROM drive without feature gate DeclarativeHotplugVolumes."
        yield Refusal(f"{path}.cdrom", "cdrom-empty", because, "Switch the gate on, or leave the drive out.")
    elif volume and "lun" in disk and not {"persistentVolumeClaim", "dataVolume"} & volume.keys():
        because = "KubeVirt refuses a LUN that is no claim."
        yield Refusal(f"{path}.lun", "lun-claim", because, "Use a claim, or a disk instead of a LUN.")
    elif volume and "downwardMetrics" in volume and disk.get("disk", {}).get("bus", "virtio") != "virtio":
        because = "KubeVirt refuses downward metrics on another disk than one on virtio."
        yield Refusal(f"{path}.disk.bus", "downward-metrics", because, "Put the disk on virtio.")


def _block_size(disk: Manifest, path: str) -> Iterator[Refusal]:
    sizes = disk["blockSize"]
    custom = sizes.get("custom")
    if custom is None:
        return
    path += ".blockSize.custom"
    logical, physical = custom.get("logical", 0), custom.get("physical", 0)
    granularity = custom.get("discardGranularity")
    match = sizes.get("matchVolume")
    fits = all(512 <= size <= 2 * MIB and size & (size - 1) == 0 for size in (logical, physical))
    sata = next((disk[kind].get("bus") for kind in ("disk", "lun", "cdrom") if kind in disk), "") == "sata"
    if match is not None and match.get("enabled", True):
        because = "KubeVirt refuses a block size of its own together with that of the volume."
        yield Refusal(path, "block-size", because, "Keep one of them.")
    elif logical > physical or not fits:
        because = "KubeVirt refuses block sizes that are no powers of 2 from 512 to 2 MiB with logical <= physical."
        yield Refusal(path, "block-size", because, "Use 512 or 4096.")
    elif sata and logical != 512:
        because = "KubeVirt refuses a logical block size other than 512 on SATA."
        yield Refusal(path, "block-size", because, "Put the disk on virtio or scsi.")
    elif granularity is not None and granularity % logical:
        because = "KubeVirt refuses a discard granularity that is no multiple of the logical block size."
        yield Refusal(path, "block-size", because, "Leave the granularity out.")


def _volumes(every: Spec) -> Iterator[Refusal]:
    volumes = every.spec.get("volumes", [])
    seen: set[str] = set()
    once: set[str] = set()
    if len(volumes) > VOLUMES:
        yield Refusal("volumes", "volume-count", "The API server refuses more than 256 volumes.", FEWER)
    for volume in volumes:
        name = volume.get("name", "")
        path = f"volumes[{name}]"
        if name in seen:
            yield Refusal(f"{path}.name", "volume-unique", "KubeVirt refuses two volumes of one name.", RENAME)
        seen.add(name)
        sources = [key for key, source in volume.items() if key != "name" and source is not None]
        if len(sources) != 1:
            because = f"KubeVirt refuses a volume with {len(sources)} sources."
            yield Refusal(path, "volume-source", because, "Give the volume exactly one source.")
            continue
        source = sources[0]
        if source in once:
            yield Refusal(path, "volume-once", f"KubeVirt refuses a second volume of kind {source}.", "Keep one.")
        once.update({source} & {"serviceAccount", "downwardMetrics", "memoryDump"})
        yield from SOURCES.get(source, _nothing)(volume[source], f"{path}.{source}")


def _nothing(source: Manifest, path: str) -> Iterator[Refusal]:
    return iter(())


def _named(key: str) -> Callable[[Manifest, str], Iterator[Refusal]]:
    def check(source: Manifest, path: str) -> Iterator[Refusal]:
        if not source.get(key):
            yield Refusal(f"{path}.{key}", "volume-name", f"KubeVirt refuses a volume without {key}.", f"Set {key}.")

    return check


def _cloud_init(source: Manifest, path: str) -> Iterator[Refusal]:
    given = 0
    for data, secret in (("userData", "secretRef"), ("networkData", "networkDataSecretRef")):
        inline, encoded = source.get(data, ""), source.get(f"{data}Base64", "")
        texts = [bool(inline), bool(encoded), bool(source.get(secret, {}).get("name"))]
        given += sum(texts)
        if sum(texts) > 1:
            because = f"KubeVirt refuses {data} that is given twice."
            yield Refusal(path, "cloud-init-source", because, "Keep one of them.")
        try:
            size = (
                len(inline.encode()) if inline else len(base64.b64decode(re.sub(r"[\r\n]", "", encoded), validate=True))
            )
        except binascii.Error:
            because = f"KubeVirt refuses {data}Base64 that is no base64."
            yield Refusal(f"{path}.{data}Base64", "cloud-init-base64", because, "Encode it again.")
            continue
        if size > INLINE_BYTES:
            because = f"KubeVirt refuses inline {data} over 2048 bytes."
            yield Refusal(
                f"{path}.{data}", "cloud-init-size", because, f"Put it into a Secret and name it in {secret}."
            )
    if not given:
        because = "KubeVirt refuses a cloud-init volume without user data or network data."
        yield Refusal(path, "cloud-init-source", because, "Add the data or leave the volume out.")


def _host_disk(source: Manifest, path: str) -> Iterator[Refusal]:
    kind = source.get("type")
    if not source.get("path") or kind not in ("Disk", "DiskOrCreate"):
        because = "KubeVirt refuses a host disk without a path or of another type than Disk or DiskOrCreate."
        yield Refusal(path, "host-disk", because, "Set path and type.")
    elif kind == "Disk" and _amount(source.get("capacity")):
        because = "KubeVirt refuses a capacity for a host disk that is there already."
        yield Refusal(f"{path}.capacity", "host-disk", because, "Leave the capacity out.")


def _image_path(source: Manifest, path: str) -> Iterator[Refusal]:
    inside = source.get("path", "")
    steps = inside.rstrip("/").split("/")
    if inside and (steps[0] or len(steps) < 2 or {"", ".", ".."} & set(steps[1:])):
        because = "KubeVirt refuses a path in an image that is not absolute and plain."
        yield Refusal(f"{path}.path", "image-path", because, "Write the path from / without . and .. in it.")


SOURCES: dict[str, Callable[[Manifest, str], Iterator[Refusal]]] = {
    "cloudInitNoCloud": _cloud_init,
    "cloudInitConfigDrive": _cloud_init,
    "configMap": _named("name"),
    "containerDisk": _image_path,
    "dataVolume": _named("name"),
    "hostDisk": _host_disk,
    "secret": _named("secretName"),
    "serviceAccount": _named("serviceAccountName"),
}


def _filesystems(every: Spec) -> Iterator[Refusal]:
    filesystems = every.devices.get("filesystems", [])
    stored = {
        volume.get("name")
        for volume in every.spec.get("volumes", [])
        if filesystems and {"persistentVolumeClaim", "dataVolume"} & volume.keys()
    }
    for filesystem in filesystems:
        name = filesystem.get("name")
        gated = every.target.at_least("1.5") and not every.target.enabled("EnableVirtioFsStorageVolumes")
        if name in stored and gated:
            because = "KubeVirt refuses to share a claim by virtiofs without feature gate EnableVirtioFsStorageVolumes."
            yield Refusal(f"domain.devices.filesystems[{name}]", "virtiofs", because, "Switch the gate on.")


def _boot_order(every: Spec) -> Iterator[Refusal]:
    seen: set[int] = set()
    for family in ("disks", "interfaces"):
        for device in every.devices.get(family, []):
            order = device.get("bootOrder")
            if order in seen:
                path = f"domain.devices.{family}[{device.get('name')}].bootOrder"
                because = f"KubeVirt refuses two devices at place {order} of the boot order."
                yield Refusal(path, "boot-order", because, "Give each device its own place.")
            elif order is not None:
                seen.add(order)


# --- networks


def _nics(every: Spec) -> Iterator[Refusal]:
    nics, networks = every.devices.get("interfaces", []), every.spec.get("networks", [])
    by_name = {network.get("name"): network for network in networks}
    default = next((network for network in networks if _is_default(network)), {})
    seen: set[str] = set()
    if len(nics) > NICS:
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


def _networks(every: Spec) -> Iterator[Refusal]:
    networks = every.spec.get("networks", [])
    names = [network.get("name") for network in networks]
    pods = [network for network in networks if "pod" in network]
    defaults = [network for network in networks if network.get("multus", {}).get("default")]
    if len(pods) > 1 or len(defaults) > 1 or (pods and defaults):
        path = f"networks[{(pods + defaults)[1].get('name')}]"
        because = "KubeVirt refuses more than one pod network or default network."
        yield Refusal(path, "network-pod", because, "Connect the others with multus in the site file.")
    if len(networks) > NICS:
        yield Refusal("networks", "network-count", "The API server refuses more than 256 networks.", FEWER)
    for position, network in enumerate(networks):
        path = f"networks[{network.get('name')}]"
        if network.get("name") in names[:position]:
            yield Refusal(f"{path}.name", "network-unique", "KubeVirt refuses two networks of one name.", RENAME)
        if len({"pod", "multus", "resourceClaim"} & network.keys()) != 1:
            because = "KubeVirt refuses a network that is not exactly one of pod and multus."
            yield Refusal(path, "network-source", because, "Name its NetworkAttachmentDefinition in the site file.")


# --- memory and CPU


def _amount(quantity: Any) -> Fraction | None:
    """A quantity as an exact number; None for none and for what is no quantity."""
    parts = AMOUNT.fullmatch(str(quantity)) if quantity is not None else None
    if parts is None:
        return None
    try:
        number, suffix = Fraction(parts[1]), parts[2]
    except ValueError:
        return None
    if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei":
        return number * Fraction(10) ** int(suffix[1:])
    return number * FACTORS[suffix] if suffix in FACTORS else None if suffix else number


def _memory(every: Spec) -> Iterator[Refusal]:
    memory = every.domain.get("memory", {})
    resources = every.domain.get("resources", {})
    requested = _amount(resources.get("requests", {}).get("memory")) or 0
    limit = _amount(resources.get("limits", {}).get("memory")) or 0
    guest = _amount(memory.get("guest"))
    if every.sized_elsewhere:
        if guest is not None:
            because = "KubeVirt refuses guest memory together with an instance type."
            yield Refusal("domain.memory.guest", "memory-instancetype", because, "Keep one of them.")
        return
    if guest is None and "hugepages" not in memory and not requested:
        because = "A VM without memory does not start."
        yield Refusal("domain.memory.guest", "memory-missing", because, "Set the guest's memory.")
    if "hugepages" in memory:
        yield from _hugepages(memory["hugepages"].get("pageSize"), requested or guest or limit)
    if memory.get("maxGuest") is not None and every.live_update:
        yield from _max_guest(every, guest, _amount(memory["maxGuest"]))
    if not every.live_update and guest and 0 < limit < guest:
        because = "KubeVirt refuses guest memory over the memory limit."
        yield Refusal("domain.memory.guest", "memory-limit", because, "Leave the limit out.")


def _hugepages(size: Any, memory: Fraction | int) -> Iterator[Refusal]:
    page = _amount(size)
    if not page or page < 0:
        because = "KubeVirt refuses huge pages of a size that is no quantity."
        yield Refusal("domain.memory.hugepages.pageSize", "hugepages-size", because, "Use 2Mi or 1Gi.")
    elif memory and (memory < page or memory % page):
        because = f"KubeVirt refuses memory that is no multiple of its huge pages of {size}."
        yield Refusal("domain.memory.guest", "hugepages-multiple", because, "Use smaller pages or other memory.")


def _max_guest(every: Spec, guest: Fraction | None, most: Fraction | None) -> Iterator[Refusal]:
    """What pkg/liveupdate/memory asks of a VM that names the most memory it can grow to."""
    cpu, memory = every.domain.get("cpu", {}), every.domain.get("memory", {})
    block = GIB if memory.get("hugepages", {}).get("pageSize") == "1Gi" else 2 * MIB
    unfit = (
        "realtime" in cpu
        or "guestMappingPassthrough" in cpu.get("numa", {})
        or "launchSecurity" in every.domain
        or every.arch != "amd64"
    )
    if unfit or guest is None or most is None or guest > most or guest < GIB or guest % block or most % block:
        because = (
            "KubeVirt refuses maxGuest unless guest memory is at least 1 GiB, both are multiples of 2 MiB or of a "
            "1 GiB page, and the VM is an amd64 one without realtime, NUMA or memory encryption."
        )
        yield Refusal("domain.memory.maxGuest", "memory-max-guest", because, "Leave maxGuest out.")


def _resources(every: Spec) -> Iterator[Refusal]:
    resources = every.domain.get("resources", {})
    for name, least in (("cpu", 0), ("memory", 10**6)):
        path = f"domain.resources.requests.{name}"
        requested = _amount(resources.get("requests", {}).get(name)) or 0
        limit = _amount(resources.get("limits", {}).get(name)) or 0
        if requested < 0 or limit < 0 or 0 < requested < least:
            because = f"KubeVirt refuses {name} requests and limits below zero, and memory requests below 1M."
            yield Refusal(path, "resources", because, "Leave requests and limits to KubeVirt.")
        elif 0 < limit < requested:
            because = f"KubeVirt refuses a {name} request over its limit."
            yield Refusal(path, "resources", because, "Leave requests and limits to KubeVirt.")


def _cpu(every: Spec) -> Iterator[Refusal]:
    cpu = every.domain.get("cpu", {})
    dedicated = cpu.get("dedicatedCpuPlacement")
    numa = "guestMappingPassthrough" in cpu.get("numa", {})
    if 0 < (cpu.get("maxSockets") or 0) < (cpu.get("sockets") or 0):
        because = "KubeVirt refuses more sockets than maxSockets."
        yield Refusal("domain.cpu.maxSockets", "cpu-max-sockets", because, "Set maxSockets to the sockets.")
    if every.sized_elsewhere:
        return
    if cpu.get("isolateEmulatorThread") and not dedicated:
        because = "KubeVirt refuses isolateEmulatorThread without dedicatedCpuPlacement."
        yield Refusal("domain.cpu.isolateEmulatorThread", "cpu-isolate", because, "Set dedicatedCpuPlacement too.")
    if numa and not (dedicated and "hugepages" in every.domain.get("memory", {})):
        because = "KubeVirt refuses NUMA passthrough without dedicatedCpuPlacement and huge pages."
        yield Refusal("domain.cpu.numa.guestMappingPassthrough", "cpu-numa", because, "Set both, or leave NUMA out.")
    if "realtime" in cpu and not (dedicated and numa):
        because = "KubeVirt refuses realtime without dedicatedCpuPlacement and NUMA passthrough."
        yield Refusal("domain.cpu.realtime", "cpu-realtime", because, "Set both, or leave realtime out.")
    if dedicated:
        yield from _dedicated(every, cpu)


def _dedicated(every: Spec, cpu: Manifest) -> Iterator[Refusal]:
    """What dedicated CPUs ask for: whole CPUs that agree with each other, and at most two threads a core."""
    path = "domain.cpu.dedicatedCpuPlacement"
    resources = every.domain.get("resources", {})
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    asked = [_amount(each["cpu"]) or Fraction(0) for each in (requests, limits) if each.get("cpu") is not None]
    asked = [amount for amount in asked if amount > 0]
    counts = [cpu.get(name) or 0 for name in ("sockets", "cores", "threads")]
    vcpus = max(counts[0], 1) * max(counts[1], 1) * max(counts[2], 1) if any(counts) else 0
    if counts[2] > (1 if every.arch == "arm64" else 2):
        because = "KubeVirt refuses dedicated CPUs with more than 2 threads a core, on arm64 more than 1."
        yield Refusal("domain.cpu.threads", "cpu-threads", because, "Use more cores instead of threads.")
    if (
        any(amount.denominator != 1 for amount in asked)
        or len(set(asked)) > 1
        or (vcpus and asked and vcpus not in asked)
    ):
        because = "KubeVirt refuses dedicated CPUs whose requests and limits are not the number of vCPUs."
        yield Refusal(path, "cpu-dedicated", because, "Leave CPU requests and limits out.")
    elif not asked and not vcpus:
        because = "KubeVirt refuses dedicated CPUs without a number of CPUs."
        yield Refusal(path, "cpu-dedicated", because, "Set sockets, cores and threads.")
    memories = {_amount(each["memory"]) for each in (requests, limits) if each.get("memory") is not None}
    if len(memories) > 1:
        because = "KubeVirt refuses dedicated CPUs with a memory limit other than the request."
        yield Refusal(path, "cpu-dedicated", because, "Leave memory requests and limits out.")


# --- firmware, features and other devices


def _efi(every: Spec) -> Manifest:
    return every.domain.get("firmware", {}).get("bootloader", {}).get("efi") or {}


def _firmware(every: Spec) -> Iterator[Refusal]:
    firmware = every.domain.get("firmware", {})
    bootloader = firmware.get("bootloader", {})
    efi = bootloader.get("efi")
    smm = every.domain.get("features", {}).get("smm")
    if efi is not None and "bios" in bootloader:
        because = "KubeVirt refuses EFI together with BIOS."
        yield Refusal("domain.firmware.bootloader.bios", "firmware-efi-bios", because, "Keep one of them.")
    secure = efi is not None and efi.get("secureBoot", True)
    if secure and not _on(smm) and "tdx" not in every.domain.get("launchSecurity", {}):
        because = "KubeVirt refuses secure boot, which EFI means unless switched off, without the SMM feature."
        path = "domain.firmware.bootloader.efi.secureBoot"
        yield Refusal(path, "firmware-smm", because, "Switch smm on, or set secureBoot to false.")
    acpi, volumes = firmware.get("acpi"), {volume.get("name"): volume for volume in every.spec.get("volumes", [])}
    if acpi is not None:
        names = [name for name in (acpi.get("slicNameRef"), acpi.get("msdmNameRef")) if name]
        if not names or not all("secret" in volumes.get(name, {}) for name in names):
            because = "KubeVirt refuses ACPI tables that are not volumes of Secrets."
            yield Refusal("domain.firmware.acpi", "firmware-acpi", because, "Add the volume of the Secret.")
    yield from _kernel(firmware.get("kernelBoot"))


def _kernel(boot: Manifest | None) -> Iterator[Refusal]:
    if boot is None:
        return
    path = "domain.firmware.kernelBoot"
    container = boot.get("container")
    if container is None:
        if boot.get("kernelArgs"):
            because = "KubeVirt refuses kernel arguments without a kernel of its own."
            yield Refusal(f"{path}.kernelArgs", "kernel-boot", because, "Leave the arguments out.")
        return
    paths = [key for key in ("kernelPath", "initrdPath") if container.get(key)]
    if not container.get("image") or not paths:
        because = "KubeVirt refuses to boot a kernel without an image and a path in it."
        yield Refusal(f"{path}.container", "kernel-boot", because, "Set image and kernelPath.")
    for key in paths:
        for refusal in _image_path({"path": container[key]}, f"{path}.container"):
            yield refusal._replace(path=f"{path}.container.{key}")


def _on(state: Manifest | None) -> bool:
    """Whether a feature is switched on, which is what naming it means."""
    return state is not None and state.get("enabled") is not False


def _hyperv(every: Spec) -> Iterator[Refusal]:
    features = every.domain.get("features", {})
    hyperv = features.get("hyperv")
    if hyperv is None:
        return
    if "hypervPassthrough" in features:
        because = "A VM with both hyperv and hypervPassthrough does not start."
        yield Refusal("domain.features.hypervPassthrough", "hyperv-passthrough", because, "Keep one of them.")
    on = {name for name in HYPERV_NEEDS if _on(hyperv.get(name))}
    if "synictimer" in on and "synic" not in hyperv:
        on.add("synic")
    for name in sorted(on):
        other = HYPERV_NEEDS[name]
        if other in hyperv and not _on(hyperv[other]):
            because = f"A VM with the Hyper-V feature {name} does not start while {other} is off."
            yield Refusal(f"domain.features.hyperv.{name}", "hyperv-needs", because, f"Switch {other} on.")


def _other_devices(every: Spec) -> Iterator[Refusal]:
    devices = every.devices
    if "video" in devices and devices.get("autoattachGraphicsDevice") is False:
        because = "KubeVirt refuses a video device while autoattachGraphicsDevice is false."
        yield Refusal("domain.devices.video", "video-detached", because, "Keep one of them.")
    watchdog = devices.get("watchdog")
    if watchdog is not None and not {"i6300esb", "diag288"} & watchdog.keys():
        because = "A VM with a watchdog of no model does not start."
        yield Refusal("domain.devices.watchdog", "watchdog-model", because, "Add i6300esb.")
    threads = every.domain.get("ioThreads", {}).get("supplementalPoolThreadCount") or 0
    if every.domain.get("ioThreadsPolicy") == "supplementalPool" and threads < 1:
        because = "KubeVirt refuses a pool of I/O threads without their number."
        yield Refusal("domain.ioThreadsPolicy", "io-threads", because, "Set ioThreads.supplementalPoolThreadCount.")


def _launch_security(every: Spec) -> Iterator[Refusal]:
    """What webhooks/amd64.go asks of encrypted VMs; other architectures have none, and s390x one without fields."""
    security = every.domain.get("launchSecurity")
    if security is None or every.arch == "s390x":
        return
    path = "domain.launchSecurity"
    kinds = [kind for kind in ("sev", "snp", "tdx") if kind in security]
    efi = every.domain.get("firmware", {}).get("bootloader", {}).get("efi")
    if every.arch != "amd64" or len(kinds) != 1:
        because = "KubeVirt refuses memory encryption that is not exactly one of SEV, SNP and TDX on amd64."
        yield Refusal(path, "launch-security", because, "Keep one of them.")
        return
    (kind,) = kinds
    wrong = [
        (efi is None, "without EFI"),
        (kind != "tdx" and efi is not None and efi.get("secureBoot", True), "with secure boot"),
        (kind != "sev" and (efi or {}).get("persistent"), "with persistent EFI variables"),
        (kind == "tdx" and _on(every.domain.get("features", {}).get("smm")), "with SMM"),
        (
            "attestation" in (security.get("sev") or {}) and every.spec.get("startStrategy") != "Paused",
            "that is not Paused",
        ),
        (
            any("bootOrder" in nic for nic in every.devices.get("interfaces", [])),
            "with a network interface to boot from",
        ),
    ]
    for is_wrong, what in wrong:
        if is_wrong:
            because = f"KubeVirt refuses a VM encrypted by {kind.upper()} {what}."
            yield Refusal(f"{path}.{kind}", "launch-security", because, "Change that, or leave the encryption out.")


def _data_volumes(every: Spec) -> Iterator[Refusal]:
    used = set()
    for volume in every.spec.get("volumes", []):
        used.add(volume.get("persistentVolumeClaim", {}).get("claimName"))
        used.add(volume.get("dataVolume", {}).get("name"))
    for position, template in enumerate(every.vm.get("spec", {}).get("dataVolumeTemplates", [])):
        name, spec = template.get("metadata", {}).get("name"), template.get("spec", {})
        sources = (spec.get("source") is not None) + (spec.get("sourceRef") is not None)
        target = spec.get("pvc") or spec.get("storage") or {}
        populated = "dataSource" in target or "dataSourceRef" in target
        named = spec.get("source") is None or len(spec["source"]) == 1
        if (
            not name
            or name not in used
            or ("pvc" in spec) == ("storage" in spec)
            or not named
            or bool(sources) == populated
        ):
            because = (
                "KubeVirt refuses a data volume that no volume uses, or without exactly one source and one target."
            )
            path = f"VirtualMachine.spec.dataVolumeTemplates[{name or position}]"
            yield Refusal(path, "data-volume", because, "Use a claim of its own.")


CHECKS = (
    _identity,
    _disks,
    _volumes,
    _filesystems,
    _boot_order,
    _nics,
    _networks,
    _memory,
    _resources,
    _cpu,
    _firmware,
    _hyperv,
    _other_devices,
    _launch_security,
    _data_volumes,
)


# --- claims


def _claims(claims: list[Manifest]) -> Iterator[Refusal]:
    seen: set[str] = set()
    for claim in claims:
        name = claim.get("metadata", {}).get("name", "")
        path = f"PersistentVolumeClaim[{name}]"
        if not SUBDOMAIN.fullmatch(name):
            because = "The API server refuses a claim whose name is no DNS subdomain of at most 253 characters."
            yield Refusal(f"{path}.metadata.name", "claim-name", because, "Give the claim another name.")
        if name in seen:
            because = "Two disks of the VM have one claim."
            yield Refusal(f"{path}.metadata.name", "claim-unique", because, RENAME)
        seen.add(name)
        yield from _metadata(claim, f"{path}.metadata")
        yield from _claim_spec(claim.get("spec", {}), f"{path}.spec")


def _claim_spec(spec: Manifest, path: str) -> Iterator[Refusal]:
    modes = spec.get("accessModes", [])
    if not modes or ("ReadWriteOncePod" in modes and len(modes) > 1):
        because = "The API server refuses a claim without access modes, and ReadWriteOncePod among others."
        yield Refusal(f"{path}.accessModes", "claim-access", because, "Name the access mode in the site file.")
    size = _amount(spec.get("resources", {}).get("requests", {}).get("storage"))
    if size is None or size <= 0:
        because = "The API server refuses a claim without a size."
        yield Refusal(f"{path}.resources.requests.storage", "claim-size", because, "Find out the disk's capacity.")
    if spec.get("storageClassName") and not SUBDOMAIN.fullmatch(spec["storageClassName"]):
        because = "The API server refuses a storage class whose name is no DNS subdomain."
        yield Refusal(f"{path}.storageClassName", "claim-class", because, "Correct the name in the site file.")
