"""Disks, volumes and boot order: pkg/storage/admitters and vmi-create-admitter.go."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from posixpath import normpath

from migrate.target.admission.spec import FEWER, MIB, MOST, RENAME, Manifest, Refusal, Spec, amount

INLINE_BYTES = 2048
# Since 1.9 a setting of the cluster, which counts as the feature gate that it was before.
RESERVATION = "+PersistentReservation"
# What virtiofs shares, by the feature gate that it needs.
SHARED = (
    ({"persistentVolumeClaim", "dataVolume"}, "EnableVirtioFsStorageVolumes"),
    ({"configMap", "secret", "serviceAccount", "downwardAPI"}, "EnableVirtioFsConfigVolumes"),
)
# In bytes, where it is not 2 MiB: virtwrap/converter/converter.go, and QEMU before KubeVirt 1.9.
LARGEST_BLOCK = {"s390x": 4096}
KUBEVIRTS_OWN = ("/var/run/kubevirt", "/var/run/libvirt")


def of_disks(every: Spec) -> Iterator[Refusal]:
    """Disks: names, devices, their volumes."""
    disks = every.disks
    volumes = {volume.get("name"): volume for volume in every.volumes}
    seen: set[str] = set()
    if len(disks) > MOST:
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
            yield from _block_size(every, disk, path)


def _kind(disk: Manifest) -> str:
    """What kind of device a disk is."""
    return next((kind for kind in ("disk", "lun", "cdrom") if kind in disk), "disk")


def _bus(every: Spec, disk: Manifest) -> str:
    """The bus of a disk, that of its architecture where it names none: pkg/defaults."""
    return disk.get(_kind(disk), {}).get("bus") or ("sata" if every.arch == "amd64" else "virtio")


def _disk_device(every: Spec, disk: Manifest, path: str) -> Iterator[Refusal]:
    if sum(kind in disk for kind in ("disk", "lun", "cdrom")) > 1:
        yield Refusal(
            path, "disk-kind", "KubeVirt refuses a disk that is several kinds of device.", "Keep one of them."
        )
    kind, bus = _kind(disk), _bus(every, disk)
    device = disk.get(kind, {})
    if kind == "cdrom" and bus == "virtio" and not device.get("bus"):
        because = "A VM does not start with a CD-ROM drive on virtio, the bus of a disk that names none."
        yield Refusal(f"{path}.cdrom.bus", "disk-bus", because, "Use scsi.")
    if device.get("reservation") and every.target.at_least("1.9") and RESERVATION not in every.target.gates:
        because = "KubeVirt refuses a reservation unless persistentReservationConfiguration of its object enables them."
        remedy = f"Have it enabled there and say so by --feature-gates {RESERVATION}, or leave the reservation out."
        yield Refusal(f"{path}.lun.reservation", "lun-reservation", because, remedy)
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
    elif volume and "downwardMetrics" in volume and ("disk" not in disk or _bus(every, disk) != "virtio"):
        because = "KubeVirt refuses downward metrics on another disk than one on virtio."
        yield Refusal(f"{path}.disk.bus", "downward-metrics", because, "Put the disk on virtio.")


def _block_size(every: Spec, disk: Manifest, path: str) -> Iterator[Refusal]:
    sizes = disk["blockSize"]
    custom = sizes.get("custom")
    if custom is None:
        return
    path += ".blockSize.custom"
    logical, physical = custom.get("logical", 0), custom.get("physical", 0)
    granularity = custom.get("discardGranularity")
    match = sizes.get("matchVolume")
    most = LARGEST_BLOCK.get(every.arch, 2 * MIB)
    fits = all(512 <= size <= most and size & (size - 1) == 0 for size in (logical, physical))
    if match is not None and match.get("enabled", True):
        because = "KubeVirt refuses a block size of its own together with that of the volume."
        yield Refusal(path, "block-size", because, "Keep one of them.")
    elif logical > physical or not fits:
        because = f"KubeVirt refuses block sizes that are no powers of 2 from 512 to {most} with logical <= physical."
        yield Refusal(path, "block-size", because, "Use 512 or 4096.")
    elif _bus(every, disk) == "sata" and logical != 512 and every.target.at_least("1.7"):
        because = "KubeVirt refuses a logical block size other than 512 on SATA."
        yield Refusal(path, "block-size", because, "Put the disk on virtio or scsi.")
    elif granularity is not None and granularity % logical:
        because = "KubeVirt refuses a discard granularity that is no multiple of the logical block size."
        yield Refusal(path, "block-size", because, "Leave the granularity out.")


def of_volumes(every: Spec) -> Iterator[Refusal]:
    """Volumes: names and sources."""
    volumes = every.volumes
    seen: set[str] = set()
    once: set[str] = set()
    if len(volumes) > MOST:
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
    elif kind == "Disk" and amount(source.get("capacity")):
        because = "KubeVirt refuses a capacity for a host disk that is there already."
        yield Refusal(f"{path}.capacity", "host-disk", because, "Leave the capacity out.")


def image_path(source: Manifest, path: str) -> Iterator[Refusal]:
    inside = source.get("path", "")
    if inside and (inside == "/" or normpath(f"/{inside.lstrip('/')}") != inside.removesuffix("/")):
        because = "KubeVirt refuses a path in an image that is not absolute and plain."
        yield Refusal(f"{path}.path", "image-path", because, "Write the path from / without . and .. in it.")


def _container_path(source: Manifest, path: str) -> Iterator[Refusal]:
    inside = source.get("path", "")
    if not inside.startswith("/") or ".." in inside or len(inside) > 4096 or inside.startswith(KUBEVIRTS_OWN):
        because = "KubeVirt refuses a path in a container that is not absolute and plain, and the paths of its own."
        yield Refusal(f"{path}.path", "container-path", because, "Name another path.")
    if source.get("readOnly") is False:
        because = "KubeVirt refuses to write to a path in a container."
        yield Refusal(f"{path}.readOnly", "container-path", because, "Set readOnly to true.")


SOURCES: dict[str, Callable[[Manifest, str], Iterator[Refusal]]] = {
    "cloudInitNoCloud": _cloud_init,
    "cloudInitConfigDrive": _cloud_init,
    "configMap": _named("name"),
    "containerDisk": image_path,
    "containerPath": _container_path,
    "dataVolume": _named("name"),
    "hostDisk": _host_disk,
    "secret": _named("secretName"),
    "serviceAccount": _named("serviceAccountName"),
}


def of_filesystems(every: Spec) -> Iterator[Refusal]:
    """Claims shared by virtiofs, and paths in containers, which are shared by nothing else."""
    filesystems = every.devices.get("filesystems", [])
    shared = {filesystem.get("name") for filesystem in filesystems}
    for volume in every.volumes:
        if "containerPath" in volume and volume.get("name") not in shared:
            because = "KubeVirt refuses a path in a container as a disk."
            path = f"volumes[{volume.get('name')}].containerPath"
            yield Refusal(path, "container-path", because, "Add a virtiofs filesystem of the volume's name.")
    volumes = {volume.get("name"): volume for volume in every.volumes}
    for name in sorted(shared & volumes.keys()):
        for sources, gate in SHARED:
            if sources & volumes[name].keys() and _gated(every, gate):
                because = f"KubeVirt refuses to share such a volume by virtiofs without feature gate {gate}."
                yield Refusal(f"domain.devices.filesystems[{name}]", "virtiofs", because, "Switch the gate on.")


def _gated(every: Spec, gate: str) -> bool:
    """Whether virtiofs is refused for want of a gate; the one for all volumes does as well while it is known."""
    return every.target.at_least("1.5") and not any(map(every.target.enabled, (gate, "ExperimentalVirtiofsSupport")))


def of_boot_order(every: Spec) -> Iterator[Refusal]:
    """Devices at one place of the boot order."""
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


def of_data_volumes(every: Spec) -> Iterator[Refusal]:
    """Templates of data volumes."""
    used = set()
    for volume in every.volumes:
        used.add(volume.get("persistentVolumeClaim", {}).get("claimName"))
        used.add(volume.get("dataVolume", {}).get("name"))
    for position, template in enumerate(every.vm.get("spec", {}).get("dataVolumeTemplates", [])):
        name, spec = template.get("metadata", {}).get("name"), template.get("spec", {})
        sources = (spec.get("source") is not None) + (spec.get("sourceRef") is not None)
        target = spec.get("pvc") or spec.get("storage") or {}
        populated = "dataSource" in target or "dataSourceRef" in target
        typed = "apiGroup" in target.get("dataSource", {"apiGroup": ""})
        elsewhere = {template.get("metadata", {}).get("namespace"), every.vm["metadata"].get("namespace")} - {None, ""}
        named = spec.get("source") is None or len(spec["source"]) == 1
        if (
            not name
            or name not in used
            or ("pvc" in spec) == ("storage" in spec)
            or not named
            or not typed
            or len(elsewhere) > 1
            or bool(sources) == populated
        ):
            because = (
                "KubeVirt refuses a data volume that no volume uses, of another namespace, or without one source "
                "(with its API group) and one target."
            )
            path = f"VirtualMachine.spec.dataVolumeTemplates[{name or position}]"
            yield Refusal(path, "data-volume", because, "Use a claim of its own.")
