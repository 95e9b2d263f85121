"""A VM on its source: what has to end before its disks are copied, what starts it, where its running guest differs."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

from migrate.mapping.ledger import Ledger, Write
from migrate.mapping.paths import printable
from migrate.model import VM, BlockJob, Disk, Severity

if TYPE_CHECKING:
    from lxml.etree import _Element

DEVICE = re.compile(r"(devices\.[^.\[]+|cpu\.feature)(\[\d+\])?")
NAMES = {"devices.disk": "target.dev", "devices.interface": "mac.address"}
INTERFACE = re.compile(r"(domain\.devices\.interfaces|networks)\[")
MAC = "domain.devices.interfaces.macAddress"
CPU = ("cpu.mode", "cpu.model")
CLOCK = ("clock.offset", "clock.adjustment", "clock.basis")
INDEX = re.compile(r"\[\d+\]")
NUMBER = re.compile(r"\s*\+?\d+", re.ASCII)
# libvirt rounds amounts of memory up to whole MiB when it starts a guest: qemu_domain.c qemuDomainAlignMemorySizes.
AMOUNT = re.compile(r"\b(memory|currentMemory|maxMemory)=(\d+)")
# What libvirt fills in for a running guest, whatever the definition says.
FILLED_IN = re.compile(r"cpu(\.(vendor|check|match|model\.|maxphysaddr).*)?|seclabel.*|resource.*")
# Features that libvirt takes out of a running guest's CPU: qemu_capabilities.c virQEMUCapsCPUFilterFeatures, and what
# QEMU has no name for where it is disabled: qemu_process.c qemuProcessDropUnknownCPUFeatures.
TAKEN_OUT = ("cmt", "mbm_total", "mbm_local", "osxsave", "ospke", "pconfig", "cvt16")
QUARTER = 900  # seconds; the zones of the world are apart by whole quarters of an hour
IMAGE = ("source", "driver", "backingStore")
# What an interface has of its network.
ADDED = ("vlan", "virtualport", "bandwidth", "port")
SHOWN = 3
Name = TypeVar("Name")


@dataclass(frozen=True, slots=True)
class Remark:
    """A finding about the state. `path` is a leaf of the definition, or of the running guest where it has more."""

    id: str
    severity: Severity
    because: str
    remedy: str
    target: str | None = None
    path: str | None = None
    value: str | None = None


def remarks(vm: VM) -> Iterator[Remark]:
    """What the source keeps beside the disks or does with them, with the command that ends it."""
    # virsh takes a name of digits for the id of whichever VM has that.
    name = vm.uuid if NUMBER.fullmatch(vm.name) else shlex.quote(printable(vm.name))
    if vm.managed_save:
        because = "The VM was saved while it ran: its memory lies in a file on the host and belongs to the disks."
        remedy = (
            f"virsh start {name}, then virsh shutdown {name}; or virsh managedsave-remove {name} to lose the memory."
        )
        yield Remark("managed-save", "blocker", because, f"{remedy} Then collect again.")
    if vm.state == "migrated":
        because = "libvirt has moved this VM to another host, where it can run on the disks that are copied here."
        remedy = f"Collect it from there. Where it is at rest, virsh start {name}, then virsh shutdown {name} here."
        yield Remark("migrated", "blocker", because, remedy)
    if vm.state in SUSPENDED:
        because = f"The VM is {vm.state}: what its guest has in memory is not on the disks."
        yield Remark("suspended", "blocker", because, f"{SUSPENDED[vm.state].format(name)} Then collect again.")
    for job in vm.jobs:
        because = f"A block job ({job.kind}{', ready' * job.ready}) works on the disk {job.disk}, so its image changes."
        yield Remark("block-job", "blocker", because, f"{_ends(job, name)} Then collect again.", job.disk)
    if vm.snapshots:
        because = f"{len(vm.snapshots)} snapshot(s) stay behind: the claims hold the disks as they are now."
        yield Remark("snapshots", "warning", because, "Keep the source while somebody may go back to them.")
    for disk in vm.disks:
        held = sum(image.snapshots for image in disk.chain)
        if held and not vm.snapshots:
            because = f"The image of {disk.target} holds {held} snapshot(s) of its own that libvirt does not list."
            remedy = "They stay behind: keep the image while somebody may go back to them (qemu-img snapshot -l)."
            yield Remark("image-snapshots", "warning", because, remedy, disk.target)
        if not vm.checkpoints and (kept := sum(image.bitmaps for image in disk.chain)):
            because = f"The image of {disk.target} holds {kept} dirty bitmap(s), which stay behind."
            remedy = "The next backup after the move is a full one: set it up anew in the cluster."
            yield Remark("image-bitmaps", "note", because, remedy, disk.target)
    if vm.checkpoints:
        because = f"{len(vm.checkpoints)} checkpoint(s) stay behind, so the next backup after the move is a full one."
        yield Remark("checkpoints", "note", because, "Set up the backup of the VM anew in the cluster.")


# KubeVirt pkg/virt-controller/watch/vm/vm.go syncRunStrategy: with which a VM that is made is started.
STARTING = ("Always", "RerunOnFailure")


def starts(vm: VM, strategy: str) -> Iterator[Remark]:
    """That the source starts the guest by itself and KubeVirt with a run strategy does not, or the other way round."""
    if vm.autostart and strategy not in STARTING:
        because = (
            "The source starts the guest with its host (autostart). "
            f"With the run strategy {strategy} KubeVirt does not start it by itself."
        )
        yield Remark("autostart", "note", because, AUTOSTART_REMEDY, RUN_STRATEGY)
    if vm.autostart is False and strategy in STARTING:
        because = (
            "Autostart is off at the source. "
            f"With the run strategy {strategy} KubeVirt starts the guest by itself, first when its VM is made."
        )
        yield Remark("no-autostart", "note", because, NO_AUTOSTART_REMEDY, RUN_STRATEGY)


RUN_STRATEGY = "VirtualMachine.spec.runStrategy"
AUTOSTART_REMEDY = (
    "Choose the run strategy Always in the site file, or RerunOnFailure where a guest that powers itself off has to "
    "stay off; both start it when its VM is made. virtctl start puts Always in place of Halted."
)
NO_AUTOSTART_REMEDY = (
    "Choose the run strategy Manual in the site file where the guest has to wait for somebody to start it."
)


def at_rest(vm: VM) -> VM:
    """The VM as it stands once the states have ended that `remarks` has blockers for."""
    held = vm.managed_save or vm.state in (*SUSPENDED, "migrated")
    return replace(vm, state="shut off", managed_save=False) if held else vm


SUSPENDED = {
    "paused": "virsh resume {0}, then virsh shutdown {0}.",
    "pmsuspended": "virsh dompmwakeup {0}, then virsh shutdown {0}.",
    "crashed": "virsh destroy {0}.",
    "saved": "virsh restore FILE with the file that virsh save wrote, then virsh shutdown {0}.",
}


def _ends(job: BlockJob, name: str) -> str:
    """The command that ends a block job, and keeps what it has done."""
    disk = shlex.quote(printable(job.disk))
    if job.kind == "backup":
        return f"virsh domjobinfo {name} tells when it ends, virsh domjobabort {name} ends it."
    if job.ready:
        return f"virsh blockjob {name} {disk} --pivot, or --abort to stay on the old image."
    return f"virsh blockjob {name} {disk} --info tells when it ends, --abort ends it."


@dataclass(frozen=True, slots=True)
class Difference:
    """A write or flag that only one has, or that both have with other values; `what` is the target path or finding.

    `extra` tells that the leaf is one of the running guest alone.
    """

    leaf: str
    value: str
    what: str
    now: str
    then: str
    extra: bool = False


def differences(
    book: Ledger, live: Ledger, disks: Sequence[Disk] = (), running: Sequence[Disk] = ()
) -> Iterator[Remark]:
    """Where the running guest would make other writes or flags than its definition, a remark a device or value.

    `disks` are those of the definition, `running` those of the guest.
    """
    said, now = ({entry.path: entry.value for entry in each.entries} for each in (book, live))
    same = _same_devices(said, now)
    found: dict[str, list[Difference]] = {}
    for one in (*_images(disks, running, said), *_writes(book, live), *_flags(book, live, same)):
        if not _filled_in(one, said, now):
            found.setdefault(_place(one, same), []).append(one)
    for where, rows in found.items():
        shown = [f"{one.what}: {one.now or 'nothing'} now, {one.then or 'nothing'} then" for one in rows[:SHOWN]]
        more = [f"{len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
        because = f"{LIVE} {where} ({printable('; '.join((*shown, *more)), 500)})."
        yield Remark("live-differs", "warning", because, LIVE_REMEDY, None, rows[0].leaf, rows[0].value)


def _place(one: Difference, same: dict[str, str]) -> str:
    """What a difference is in: a device, a CPU feature or a leaf of the definition, or a device of the guest alone."""
    device = DEVICE.match(one.leaf)
    if device and one.extra:
        return same.get(device[0], f"{device[0]} of the running guest")
    return device[0] if device else one.leaf


def _same_devices(said: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """The path in the definition of each device that the running guest has of it, by the path there.

    `said` and `now` are values by leaf, defined and running.
    """
    there, here = (_counted((name, path) for path, name in _named(each).items()) for each in (said, now))
    return {path: there[name] for name, path in here.items() if name in there}


def _counted(named: Iterable[tuple[Name, str]]) -> dict[tuple[Name, int], str]:
    """What has a name, by the name and how many had it before."""
    before: Counter[Name] = Counter()
    found = {}
    for name, what in named:
        found[name, before[name]] = what
        before[name] += 1
    return found


def _named(values: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """What a device is known by: a leaf of NAMES, else its place on the guest's buses, else its position."""
    found: dict[str, list[str]] = {}
    for path, value in values.items():
        if device := DEVICE.match(path):
            kind, leaf = INDEX.sub("", device[0]), path[len(device[0]) + 1 :]
            said = found.setdefault(device[0], [kind])
            if leaf == NAMES[kind] if kind in NAMES else leaf.startswith("address."):
                said.append(value)
    return {path: tuple(said) if len(said) > 1 else (path,) for path, said in found.items()}


def _filled_in(one: Difference, said: dict[str, str], now: dict[str, str]) -> bool:
    """Whether libvirt makes a difference by itself when it starts the guest; values by leaf, defined and running."""
    bare, element = INDEX.sub("", one.leaf), one.leaf.rpartition(".")[0]
    if bare in CPU:
        chosen = said.get("cpu.mode") == "host-model" or said.get("cpu.match") == "minimum"
        resolved = chosen and now.get("cpu.mode") == "custom"
        return resolved or [said.get(leaf) for leaf in CPU] == [now.get(leaf) for leaf in CPU]
    if bare.startswith("cpu.feature."):
        optional = said.get(f"{element}.policy") == "optional" or said.get(f"{element}.name") in TAKEN_OUT
        return not one.then or optional
    if bare.startswith("currentMemory"):
        # Until the guest's balloon driver is there it has all of its memory.
        return not one.now
    if bare.startswith("devices.disk.mirror."):
        # A block job, of which `remarks` speaks.
        return True
    if bare in CLOCK:
        return _local_time(said, now)
    if bare == "devices.disk.target.tray":
        # Every guest starts with its trays closed: qemu_process.c takes the trays from QEMU, and none to it.
        return not one.now
    return FILLED_IN.fullmatch(bare) is not None


def take_back(running: _Element, defined: _Element) -> None:
    """Takes out of a running domain what libvirt finds out when it starts the guest and what rules would speak of."""
    _name_networks(running, defined)
    _name_images(running, defined)
    by_ids = {_ids(device) for device in defined.iterfind("devices/hostdev[@type='usb']") if _at(device) is None}
    for device in running.iterfind("devices/hostdev[@type='usb']"):
        # Where it found the device of a vendor and product: virhostdev.c virHostdevFindUSBDevice.
        if (place := _at(device)) is not None and _ids(device) in by_ids:
            device.find("source").remove(place)


def _name_images(running: _Element, defined: _Element) -> None:
    """Puts the definition's image into each transient disk, whose guest writes to one that goes with it."""
    transient = {_target(disk): disk for disk in defined.iterfind("devices/disk[transient]")}
    for disk in running.iterfind("devices/disk[transient]"):
        if (same := transient.get(_target(disk))) is not None:
            named = {part.tag: part for part in same if part.tag in IMAGE}
            kept = [part for part in disk if part.tag not in IMAGE or part.tag in named]
            disk[:] = [deepcopy(named.get(part.tag, part)) for part in kept]


def _target(disk: _Element) -> str | None:
    target = disk.find("target")
    return None if target is None else target.get("dev")


def _ids(device: _Element) -> tuple[str | None, ...]:
    """Vendor and product of a USB device."""
    return tuple(part.get("id") for part in device.iterfind("source/*") if part.tag in ("vendor", "product"))


def _at(device: _Element) -> _Element | None:
    return device.find("source/address")


def _name_networks(running: _Element, defined: _Element) -> None:
    """Puts the network into each interface of a running domain that its definition has it on.

    libvirt shows in its place how the network is reached and what the network adds: domain_conf.c
    virDomainActualNetDefContentsFormat. Interfaces are the same by their MAC address.
    """
    by_mac = {_mac(interface): interface for interface in defined.iterfind("devices/interface")}
    for interface in running.iterfind("devices/interface"):
        source, same = interface.find("source"), by_mac.get(_mac(interface))
        # One that is handed a network card has lost the network's name.
        card = same is not None and (same.get("type"), interface.get("type")) == ("network", "hostdev")
        if source is None or not (card or source.get("network")):
            continue
        interface.set("type", "network")
        network = same.find("source") if same is not None and card else source
        known = {name: network.get(name) for name in ("network", "portgroup")} if network is not None else {}
        source.clear()
        source.attrib.update({name: value for name, value in known.items() if value is not None})
        added = (*ADDED, "driver") if card else ADDED
        for part in [part for part in interface if part.tag in added and same is not None]:
            if same.find(part.tag) is None:
                interface.remove(part)


def _mac(interface: _Element) -> str | None:
    address = interface.find("mac")
    return None if address is None else address.get("address")


def _local_time(said: dict[str, str], now: dict[str, str]) -> bool:
    """Whether libvirt only counts a clock from UTC that the definition counts from local time.

    It does so when it starts a guest: qemu_command.c qemuBuildClockArgStr.
    """
    if said.get("clock.basis") != "localtime" or now.get("clock.basis") != "utc":
        return False
    try:
        apart = int(now.get("clock.adjustment", "0")) - int(said.get("clock.adjustment", "0"))
    except ValueError:
        return False
    return apart % QUARTER == 0


def _images(disks: Sequence[Disk], running: Sequence[Disk], said: dict[str, str]) -> Iterator[Difference]:
    """Which disks are other images in the running guest; values of the definition's leaves are in `said`."""
    by_target = {disk.target: disk for disk in running}
    for position, disk in enumerate(disks):
        place, now = f"devices.disk[{position}]", by_target.get(disk.target)
        leaves = (f"{place}.{name}" for name in ("source.file", "source.dev", "source.volume", "type"))
        # Disks of further <devices> stand at other leaves, and are not carried.
        leaf = next((leaf for leaf in leaves if leaf in said), None)
        if leaf and now and not same_image(disk, now):
            yield Difference(leaf, said[leaf], "image", _image(now), _image(disk))


def same_image(disk: Disk, other: Disk) -> bool:
    """Whether two records of a disk are of one image in one format. libvirt knows that of a volume once it runs."""
    if disk.type == "volume":
        return (disk.type, disk.pool, disk.volume) == (other.type, other.pool, other.volume)
    return (disk.type, disk.path, disk.format) == (other.type, other.path, other.format)


def _image(disk: Disk) -> str:
    where = disk.path or (f"{disk.pool}/{disk.volume}" if disk.volume else "")
    return f"{where} ({disk.format})" if where and disk.format else where


LIVE = "The guest that runs now differs from its definition, which is what is migrated, in"
LIVE_REMEDY = "Where the guest needs it make the change in the definition too (virsh edit), and collect again."


def _writes(book: Ledger, live: Ledger) -> Iterator[Difference]:
    """Of each target path with another value: the leaf of the definition that it comes from, else of the guest."""
    values = [{entry.path: entry.value for entry in each.entries} for each in (book, live)]
    running = _known_interfaces(book, live)
    for path in dict.fromkeys((*running, *book.writes)):
        now, then = running.get(path), book.writes.get(path)
        made = then or now
        same = now and then and (now.value == then.value or path.endswith("].name"))
        if made and made.leaf and not same:
            leaf = made.leaf
            said = (str(write.value) if write else "" for write in (now, then))
            yield Difference(leaf, values[then is None][leaf], path, *said, extra=then is None)


def _known_interfaces(book: Ledger, live: Ledger) -> dict[str, Write]:
    """The writes of the running guest, with the definition's name for each interface of the same MAC address.

    An interface is named by its position, which another's plugging or unplugging changes.
    """
    there, here = (_counted((write.value, write.key) for write in each.writes.every(MAC)) for each in (book, live))
    names = {key: there.get(address, "") for address, key in here.items()}
    if all(name in ("", key) for key, name in names.items()):
        return live.writes
    taken = set(names.values())
    for (address, _), key in here.items():
        names[key] = names[key] or (address if key in taken else key)
    renamed = {}
    for path, write in live.writes.items():
        name = names.get(write.key) if INTERFACE.match(path) else None
        renamed[path.replace(f"[{write.key}]", f"[{name}]", 1) if name else path] = write
    return renamed


def _flags(book: Ledger, live: Ledger, same: dict[str, str]) -> Iterator[Difference]:
    """Each finding of a leaf that one has and the other has not; `same` are devices of both, running and defined.

    A gate's finding is of a whole device, with what libvirt fills in for a running guest, so its reason tells it apart.
    """

    def findings(each: Ledger) -> Iterator[Flag]:
        for entry in each.entries:
            for item in entry.findings:
                for path, value in _of_each(entry.path, AMOUNT.sub(_whole_mib, item.value or "")):
                    device = DEVICE.match(path)
                    place = same.get(device[0], device[0]) if device and each is live else device and device[0]
                    said = item.because if item.rule in each.gates else INDEX.sub("", value)
                    yield Flag(place or "", (item.id, INDEX.sub("", path), said), path, value)

    running, defined = list(findings(live)), list(findings(book))
    for key in (attrgetter("place", "key"), attrgetter("key")):
        running, defined = _without(running, defined, key), _without(defined, running, key)
    for flag in running:
        yield Difference(flag.path, flag.value, flag.key[0], "so", "", extra=True)
    for flag in defined:
        yield Difference(flag.path, flag.value, flag.key[0], "", "so")


@dataclass(frozen=True, slots=True)
class Flag:
    """A finding of a leaf: the device in the definition, what it is known by, and the leaf with its value."""

    place: str
    key: tuple[str, str, str]
    path: str
    value: str


def _without(flags: list[Flag], others: list[Flag], key: Callable[[Flag], object]) -> list[Flag]:
    """The flags that others do not have by a key, each of them counted once."""
    left = Counter(map(key, others))
    kept = []
    for flag in flags:
        if left[key(flag)]:
            left[key(flag)] -= 1
        else:
            kept.append(flag)
    return kept


def _of_each(path: str, value: str) -> Iterator[tuple[str, str]]:
    """A finding of several devices taken apart: the first leaf of each device, and what is said of it."""
    parts = value.split(", ") if value.startswith("devices.") else [value]
    said: dict[str, list[str]] = {}
    for part in parts:
        device = DEVICE.match(part)
        said.setdefault(device[0] if device else path, []).append(part)
    for place, of_it in said.items():
        yield path if place == path else of_it[0].partition("=")[0], ", ".join(of_it)


def _whole_mib(amount: re.Match[str]) -> str:
    return f"{amount[1]}={-(-int(amount[2]) // 1024) * 1024}"
