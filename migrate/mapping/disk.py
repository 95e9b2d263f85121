"""Disks: the device and bus the guest finds, the claim that holds the bytes, and what of a disk stays behind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from migrate.decisions import Lun, Storage
from migrate.mapping.guests import Driver, judged
from migrate.mapping.paths import Leaf, Node
from migrate.mapping.signs import Context, Sign, View, default, flag, ignore, write
from migrate.mapping.tuning import dedicated
from migrate.model import Disk, short_hash
from migrate.target.admission.compute import pins_io_threads
from migrate.target.quantity import from_bytes
from migrate.target.vocabulary import missing

if TYPE_CHECKING:
    from migrate.mapping.ledger import Writes

# KubeVirt has virtio, sata, scsi and usb; of these arm64 and s390x guests have virtio and scsi.
BUSES = {
    "virtio": "virtio",
    "sata": "sata",
    "scsi": "scsi",
    "usb": "usb",
    "ide": "sata",
    "fdc": "sata",
    "xen": "sata",
    "sd": "sata",
    "nvme": "sata",
}
DRIVERS: dict[str, Driver] = {"sata": "ahci", "scsi": "virtio_scsi"}
WITHOUT_SATA = ("aarch64", "s390x")

# The leaves that say where the bytes are, by the disk's type. libvirt reads no others.
SOURCES = {
    "file": ("source.file",),
    "block": ("source.dev",),
    "network": (
        "source.protocol",
        "source.name",
        "source.host.name",
        "source.host.port",
        "source.host.socket",
        "source.host.transport",
    ),
    "volume": ("source.pool", "source.volume"),
}
DIRECT = ("none", "directsync")
CACHES = {
    **{mode: mode for mode in ("none", "writethrough", "writeback")},
    "directsync": "none",
    "unsafe": "writeback",
}
CHOSEN = (
    "KubeVirt goes past the node's cache where the storage can, and the guest sees a disk that caches writes, here as "
    "there; where it cannot, writes are done when they are on the storage, and the guest sees a disk without a cache "
    "(converter/converter.go SetDriverCacheMode)."
)
UNREACHABLE = ("nvme", "vhostuser", "vhostvdpa", "dir")
DEV = re.compile(r"(?:[fhsv]d|xvd|ubd)([a-z]+)\d*")
HOST_DRIVE = re.compile(r"/dev/(cdrom|dvd|scd\d|sr\d)")
SERIAL = re.compile(r"[A-Za-z0-9_.+-]{1,256}")
NAME_LENGTH = 63
# The numbers of an address that give devices on one bus their order, of whatever kind it is.
PLACE = ("domain", "controller", "bus", "slot", "function", "target", "unit", "cssid", "ssid", "devno")
NUMBER = re.compile("0x[0-9a-fA-F]{1,8}|[0-9]{1,9}")
# Heads, and sectors of 4 KiB a track, of an ECKD DASD.
DASD = ("15", "12")
# Where a volume names its claim, and the leaves that it comes from.
CLAIMS = ("volumes.persistentVolumeClaim.claimName", "volumes.ephemeral.persistentVolumeClaim.claimName")
LEAF = re.compile(r"devices\.disk\[(\d+)\]")
SECTOR = 512
SECTORS = tuple(SECTOR << shift for shift in range(13))
SECTORS_S390X = tuple(size for size in SECTORS if size <= 4096)


def claim_name(folder: str, key: str) -> str:
    """The name of the claim for one disk of one VM, a DNS label of at most 63 characters: FOLDER-KEY.

    Where that is longer the folder is cut and six hex digits of a hash keep the name apart from others.
    """
    name = f"{folder}-{key}"
    if len(name) <= NAME_LENGTH:
        return name
    end = f"-{short_hash(folder, digits=6)}-{key}"
    return folder[: NAME_LENGTH - len(end)].rstrip("-") + end


def target_bus(device: str, bus: str, arch: str) -> str | None:
    """KubeVirt's bus for a disk on libvirt's bus, None where no bus carries it.

    A virtio CD-ROM drive is refused, and a USB one alone gets no USB controller. Only SCSI passes a LUN through.
    """
    if bus not in BUSES:
        return None
    if device == "lun":
        return "scsi"
    if arch in WITHOUT_SATA:
        return "virtio" if bus == "virtio" and device != "cdrom" else "scsi"
    if device == "cdrom":
        return "scsi" if bus == "scsi" else "sata"
    return BUSES[bus]


def gate(view: View, context: Context) -> str | None:
    """Which disks are not carried at all, and why."""
    device, kind = view.text("device"), view.text("type")
    if device == "floppy":
        return "floppy"
    if kind in UNREACHABLE:
        return kind
    if not _filled(view):
        if device != "cdrom":
            return "no-source"
        return None if context.target.enabled("DeclarativeHotplugVolumes") else "empty-cdrom"
    return None


def item(view: View, context: Context) -> Iterator[Sign]:
    """The disk's name in the manifest, from its target dev."""
    yield write(view.owned, "domain.devices.disks.name", view.key)
    dev = view.text("target.dev")
    if not dev:
        yield flag(view.owned, "no-target")
    elif context.once(_devs)[dev] > 1:
        yield flag(view.owned, "twice")
    elif view.node in context.once(_out_of_order):
        yield flag(view.owned, "order")
    if view.text("device") not in ("disk", "cdrom", "lun"):
        yield flag(view.owned, "device")


def bus(view: View, context: Context) -> Iterator[Sign]:
    """The bus as KubeVirt has it, with the driver that the guest needs where it changes."""
    device, old = view.text("device"), view.text("target.bus")
    new = target_bus(device, old, context.arch)
    if new is None:
        yield flag(view.owned, "unknown", f"{device} on {old}")
        return
    yield write(view.owned, f"domain.devices.disks.{_kind(device)}.bus", new)
    if new != old:
        known = {"cdrom": "cdrom", "lun": "lun"}.get(device)
        row = known or ("arch" if context.arch in WITHOUT_SATA else old)
        yield flag(view.owned, row, judged(context.osinfo, DRIVERS[new]) if new in DRIVERS else None)
    elif old == "scsi" and context.arch in ("x86_64", "i686") and not _has_scsi_controller(view):
        yield flag(view.owned, "no-controller", judged(context.osinfo, "virtio_scsi"))


def ordered(context: Context) -> list[Node]:
    """The disks as libvirt orders them: buses by their first disk, on each vda, vdb, ..., vdz, vdaa."""
    text = context.document.text
    buses: dict[str, list[Node]] = {}
    for node in context.document.nodes.get("devices.disk", ()):
        buses.setdefault(text(f"{node.path}.target.bus"), []).append(node)
    return [
        node
        for disks in buses.values()
        for node in sorted(disks, key=lambda disk: _place(text(f"{disk.path}.target.dev")))
    ]


def _place(dev: str) -> tuple[int, str]:
    letters = DEV.fullmatch(dev)
    return (len(letters[1]), letters[1]) if letters else (0, "")


def _devs(context: Context) -> Counter[str]:
    """How many disks have each target dev."""
    return Counter(leaf.value for leaf in context.document.by_pattern.get("devices.disk.target.dev", ()))


def _out_of_order(context: Context) -> set[Node]:
    """The virtio disks to which libvirt gives another place among them, where none of them has an address."""
    text = context.document.text
    virtio = [disk for disk in context.once(ordered) if text(f"{disk.path}.target.bus") == "virtio"]
    if len(virtio) < 2 or any(text(f"{disk.path}.address.type") for disk in virtio):
        return set()
    written = sorted(virtio, key=lambda disk: disk.index)
    return {disk for disk, other in zip(virtio, written, strict=True) if disk is not other}


def _has_scsi_controller(view: View) -> bool:
    return any(leaf.value == "scsi" for leaf in view.every("/devices.controller.type"))


def _kind(device: str) -> str:
    return device if device in ("cdrom", "lun") else "disk"


def claim(view: View, context: Context) -> Iterator[Sign]:
    """The volume and the claim that take the place of the disk's storage."""
    kind = view.text("type")
    if kind not in SOURCES:
        yield flag(view.owned, "type")
        return
    if not _filled(view):
        yield ignore(view.owned, "The drive has no disc, so there is nothing to copy and no claim.")
        return
    used = [leaf for leaf in view.owned if _used(leaf, kind)]
    mode = [leaf for leaf in view.owned if leaf.attribute == "mode"]
    if mode:
        yield ignore(mode, "How the source host reaches the volume; the bytes are the same.")
    other = [leaf for leaf in view.owned if leaf not in used and leaf not in mode]
    if other:
        yield ignore(other, f"libvirt does not read it for a disk of type {kind}.")
    facts = _facts(view, context)
    shared = _sharing(view, context, facts)
    name = _shared_name(view, context, facts) if shared else claim_name(context.vm.folder, view.key)
    ephemeral = "ephemeral." if view.leaf("transient") else ""
    yield write(used, "volumes.name", view.key)
    yield write(used, f"volumes.{ephemeral}persistentVolumeClaim.claimName", name)
    yield from _claim_object(view, context, used, facts, name, shared is not None)
    yield from _remarks(view, used, kind, shared, _lun(view, facts, context))


def cache(view: View, context: Context) -> Iterator[Sign]:
    """The cache mode, but for a transient disk that goes past the cache: its overlay may not be able to.

    For a Block claim SetDriverCacheMode (converter/converter.go) looks for a file below the overlay and finds none.
    """
    (leaf,) = view.owned
    if leaf.value in DIRECT and view.leaf("transient"):
        yield flag(leaf, "transient")
    elif leaf.value in CACHES:
        yield write(leaf, "domain.devices.disks.cache", CACHES[leaf.value])
        if leaf.value != CACHES[leaf.value]:
            yield flag(leaf, leaf.value)
    elif leaf.value == "default":
        yield default(leaf, CHOSEN)
    else:
        yield flag(leaf, "unknown")


def _used(leaf: Leaf, kind: str) -> bool:
    name = leaf.pattern.removeprefix("devices.disk.")
    return name in ("type", "transient") or name in SOURCES[kind]


def _sharing(view: View, context: Context, facts: Disk | None) -> str | None:
    """Why VMs have one claim for a disk, as a row: they write to it together, or only read a disc that nodes share."""
    if view.leaf("shareable") is not None:
        return "shared"
    medium = view.text("device") == "cdrom" and "ReadWriteMany" in _storage(facts, context).access_modes
    return "medium" if medium else None


def _lun(view: View, facts: Disk | None, context: Context) -> Lun | None:
    """How nodes reach the LUN itself, None where it is copied."""
    return context.site.lun(facts.path or "") if facts and view.text("device") == "lun" else None


def _storage(facts: Disk | None, context: Context) -> Storage:
    return context.site.storage_of(facts) or Storage()


def _claim_object(
    view: View, context: Context, used: list[Leaf], facts: Disk | None, name: str, shared: bool
) -> Iterator[Sign]:
    if facts is None or facts.capacity is None:
        yield flag(used, "size", facts.problem if facts else None)
        return
    if not facts.capacity:
        yield flag(used, "image", "it has 0 bytes")
        return
    if facts.problem:
        yield flag(used, "image", facts.problem)
    from migrate.target.luns import volume_name
    from migrate.target.sizes import claim_size

    storage = _storage(facts, context)
    mode = "Block" if view.text("device") == "lun" else storage.volume_mode
    lun = _lun(view, facts, context)
    claim = "PersistentVolumeClaim"
    yield write(used, f"{claim}.metadata.name", name)
    yield write(used, f"{claim}.metadata.namespace", context.site.namespace)
    if not shared:
        yield write(used, f"{claim}.metadata.labels[kubevirt-migrate/vm]", context.vm.folder)
        yield write(used, f"{claim}.metadata.annotations[kubevirt-migrate/disk]", view.key)
    for number, access in enumerate(access_modes(shared, facts, context)):
        yield write(used, f"{claim}.spec.accessModes[{number}]", access)
    yield write(used, f"{claim}.spec.volumeMode", mode)
    if lun:
        yield write(used, f"{claim}.spec.storageClassName", "")
        yield write(used, f"{claim}.spec.volumeName", volume_name(lun))
    elif storage.storage_class:
        yield write(used, f"{claim}.spec.storageClassName", storage.storage_class)
    size = facts.capacity if lun else claim_size(facts.capacity, mode)
    yield write(used, f"{claim}.spec.resources.requests.storage", from_bytes(size))


def access_modes(shared: bool, facts: Disk | None, context: Context) -> tuple[str, ...]:
    """How nodes use the claim of a disk: all at once where guests share it, else as the site file says."""
    return ("ReadWriteMany",) if shared else _storage(facts, context).access_modes


def _remarks(view: View, used: list[Leaf], kind: str, shared: str | None, lun: Lun | None) -> Iterator[Sign]:
    device = view.text("device")
    if shared:
        yield flag(used, shared)
    if device == "lun":
        yield flag(used, "handed-over" if lun else "lun")
    if device == "cdrom" and kind == "block" and HOST_DRIVE.match(view.text("source.dev")):
        yield flag(used, "host-drive")
    if kind == "network" and not lun:
        yield flag(used, "network", view.text("source.protocol"))


def _filled(view: View) -> bool:
    """Whether the disk has a medium: a source that its type reads, which of types unknown here every disk has."""
    first = {"network": "source.protocol", "volume": "source.volume"}
    kind = view.text("type")
    return kind not in SOURCES or bool(view.text(first.get(kind) or SOURCES[kind][0]))


def _facts(view: View, context: Context) -> Disk | None:
    """What the source knows of the disk. A VM's disks are recorded in document order."""
    disks = context.vm.disks
    return disks[view.node.index] if view.node.index < len(disks) else None


def _shared_name(view: View, context: Context, facts: Disk | None) -> str:
    """One name for all VMs that share a disk, whichever host they are on: a hash of where its bytes are.

    Volumes of pools have a meaning on their own host only, unless their path is known. A disc that is only read is one
    for each host, namespace and storage: nothing is lost where there are several.
    """
    path = facts.path if facts else None
    if path is None and view.text("type") == "volume":
        path = f"{context.vm.host}:{view.text('source.pool')}/{view.text('source.volume')}"
    elif path is None:
        path = "\n".join(leaf.value for name in SOURCES[view.text("type")] for leaf in view.every(name))
    if view.leaf("shareable") is None:
        storage = _storage(facts, context)
        return f"disc-{short_hash(context.vm.host, context.site.namespace, path, repr(storage))}"
    return f"shared-{short_hash(path)}"


def read_only(view: View, context: Context) -> Iterator[Sign]:
    """Read-only disks stay so, but for those that move to SATA."""
    device = view.text("device")
    if device == "cdrom":
        yield default(view.owned, "A CD-ROM drive is read-only unless told otherwise (converter/converter.go).")
    elif target_bus(device, view.text("target.bus"), context.arch) == "sata":
        yield flag(view.owned, "sata")
    else:
        yield write(view.owned, f"domain.devices.disks.{_kind(device)}.readonly", True)


def serial(view: View, context: Context) -> Iterator[Sign]:
    """The serial as KubeVirt takes it; udev turns a blank into the underscore that is written for it."""
    text = "_".join(view.text("serial").split())
    if not text:
        yield flag(view.owned, "unset")
    elif not SERIAL.fullmatch(text):
        yield flag(view.owned, "charset")
    else:
        yield write(view.owned, "domain.devices.disks.serial", text)
        if text != view.text("serial"):
            yield flag(view.owned, "blanks")


def errors(view: View, context: Context) -> Iterator[Sign]:
    """One policy for writing and reading. After `enospace` QEMU reports errors of reading, else both are the same."""
    writing = view.text("driver.error_policy", "enospace")
    reading = view.text("driver.rerror_policy")
    if writing not in ("stop", "ignore", "report", "enospace"):
        yield flag(view.owned, "unknown")
        return
    yield write(view.owned, "domain.devices.disks.errorPolicy", writing)
    if reading and reading != ("report" if writing == "enospace" else writing):
        yield flag(view.owned, "reading")


def io_thread(view: View, context: Context) -> Iterator[Sign]:
    """A thread of its own for a virtio disk."""
    several = [leaf for leaf in view.owned if ".iothreads." in leaf.pattern]
    if target_bus(view.text("device"), view.text("target.bus"), context.arch) != "virtio":
        yield flag(view.owned, "bus")
    elif dedicated(view, context) and not pins_io_threads(context.target):
        yield flag(view.owned, "dedicated")
    else:
        yield write(view.owned, "domain.devices.disks.dedicatedIOThread", True)
        if several:
            yield flag(several, "several")


def sectors(view: View, context: Context) -> Iterator[Sign]:
    """Sector sizes in bytes; QEMU takes 512 where one is left out, and never a physical one below the logical."""
    allowed = SECTORS_S390X if context.arch == "s390x" else SECTORS
    logical = _number(view.text("blockio.logical_block_size"), SECTOR)
    physical = _number(view.text("blockio.physical_block_size"), max(SECTOR, logical))
    if logical not in allowed or physical not in allowed or logical > physical:
        yield flag(view.owned, "size")
    elif logical != SECTOR and target_bus(view.text("device"), view.text("target.bus"), context.arch) == "sata":
        yield flag(view.owned, "sata")
    else:
        yield write(view.owned, "domain.devices.disks.blockSize.custom.logical", logical)
        yield write(view.owned, "domain.devices.disks.blockSize.custom.physical", physical)
        yield from _granularity(view, context, logical)


def _granularity(view: View, context: Context, logical: int) -> Iterator[Sign]:
    """The unit in which the guest frees blocks, whole sectors; 0 is libvirt's way to leave it open."""
    path, leaf = "domain.devices.disks.blockSize.custom.discardGranularity", view.leaf("blockio.discard_granularity")
    if leaf:
        size = _number(leaf.value, 0)
        if size > 0 and size % logical == 0 and missing(path, size, context.target) is None:
            yield write(leaf, path, size)
        else:
            yield flag(leaf, "granularity")


def _number(text: str, otherwise: int) -> int:
    """A size as a number; 0 and nothing are QEMU's default, what is no number is no size."""
    if not text or text == "0":
        return otherwise
    return int(text) if re.fullmatch(r"\d{1,10}", text) else -1


def reservation(view: View, context: Context) -> Iterator[Sign]:
    """SCSI persistent reservations, which a LUN alone has."""
    if view.text("device") != "lun":
        yield flag(view.owned, "no-lun")
        return
    helper = [leaf for leaf in view.owned if ".reservations.source." in leaf.pattern]
    asked = [leaf for leaf in view.owned if leaf not in helper]
    if asked and helper:
        yield ignore(helper, "Where the source host's own reservation helper listens; KubeVirt runs one on each node.")
    yield write(asked or helper, "domain.devices.disks.lun.reservation", True)


def reservation_migration(view: View, context: Context) -> Iterator[Sign]:
    """Whether the reservations go along when the guest moves live, as they do in KubeVirt since 1.9."""
    along = view.text("source.reservations.migration") == "yes"
    if along == context.target.at_least("1.9"):
        says = "KubeVirt takes them along" if along else "A guest that can reserve its LUNs does not move live"
        yield default(view.owned, f"{says} (converter/converter.go setReservation, pkg/virt-handler/vm.go).")
    else:
        yield flag(view.owned, "stays" if along else "moves")


def shared_lun(view: View, context: Context) -> Iterator[Sign]:
    """Guests that share a LUN, which KubeVirt keeps on different nodes since 1.9 where they can reserve it."""
    apart = context.target.at_least("1.9") and view.leaf("source.reservations.managed") is not None
    yield flag(view.owned, "apart" if apart else "locked")


def startup(view: View, context: Context) -> Iterator[Sign]:
    """What happens where the image is missing."""
    if not _filled(view):
        yield ignore(view.owned, "The drive has no disc, so there is no image that could be missing.")
    elif view.text("source.startupPolicy") == "mandatory":
        yield default(view.owned, "A VM whose claim is missing does not start (pkg/virt-controller/watch/vmi).")
    else:
        yield flag(view.owned, "waits")


def geometry(view: View, context: Context) -> Iterator[Sign]:
    """Cylinders, heads and sectors: those of an ECKD DASD, or those of a PC."""
    shape = view.text("geometry.heads"), view.text("geometry.secs")
    yield flag(view.owned, "dasd" if context.arch == "s390x" and shape == DASD else "lost")


def address(view: View, context: Context) -> Iterator[Sign]:
    """Where the guest finds the disk; whether the order of the disks on its bus changes is worth a warning."""
    yield flag(view.owned, "order" if view.node.index in context.once(_moved) else "place")


def _moved(context: Context) -> set[int]:
    """The indices of the disks that change places with others of their bus, as KubeVirt places them in their order.

    Drives count for nothing: systems name them apart. A bus with a disk that has no address is left out.
    """
    every = context.document.by_pattern
    drives = {_index(leaf) for leaf in every.get("devices.disk.device", ()) if leaf.value in ("cdrom", "floppy")}
    buses: dict[str, list[int]] = {}
    for leaf in every.get("devices.disk.target.bus", ()):
        if _index(leaf) not in drives:
            buses.setdefault(leaf.value, []).append(_index(leaf))
    places: dict[int, list[int]] = {}
    for position, name in enumerate(PLACE):
        for leaf in every.get(f"devices.disk.address.{name}", ()):
            if NUMBER.fullmatch(leaf.value):
                place = places.setdefault(_index(leaf), [0] * len(PLACE))
                place[position] = int(leaf.value, 16 if leaf.value[:2] == "0x" else 10)
    moved: set[int] = set()
    for indices in buses.values():
        if all(index in places for index in indices):
            now = sorted(indices)
            before = sorted(now, key=lambda index: places[index])
            moved |= {old for old, new in zip(before, now, strict=True) if old != new}
    return moved


def _index(leaf: Leaf) -> int:
    return leaf.node.trail[1].index


def encryption(view: View, context: Context) -> Iterator[Sign]:
    """Encryption by the host, and by which of its secrets."""
    named = [leaf.value for leaf in view.owned if leaf.pattern.endswith((".secret.uuid", ".secret.usage"))]
    yield flag(view.owned, "lost", f"secret {', '.join(named)}" if named else None)


def lost(view: View, context: Context) -> Iterator[Sign]:
    """Leaves that are lost together and make one finding."""
    yield flag(view.owned, "lost")


def gained_size(context: Context, writes: Writes) -> str | None:
    """The disks that CDI can make larger than they were, by the name of their item; a LUN is handed over as it is.

    CDI's resizeImage fills a file system, as does KubeVirt at each start with ExpandDisks (virt-handler), and a device
    is as large as its storage made it.
    """
    fills = any(method.startswith("cdi-") for method in context.site.methods) or context.target.enabled("ExpandDisks")
    if not fills:
        return None
    handed_over = {made.key for made in writes.every("PersistentVolumeClaim.spec.volumeName")}
    claims = [made.key for made in writes.every("PersistentVolumeClaim.spec.volumeMode")]
    return ", ".join(key for key in claims if key not in handed_over) or None
