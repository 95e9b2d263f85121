"""The VM with what its instance type and preference give it, which is what KubeVirt judges and starts.

Facts are those of KubeVirt's pkg/instancetype/apply and pkg/instancetype/preference/apply.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from migrate.target.admission.spec import amount

Object = dict[str, Any]

# What an instance type gives: where the one has it, and where the VM.
GIVEN = (
    ("cpu.model", "domain.cpu.model"),
    ("cpu.dedicatedCPUPlacement", "domain.cpu.dedicatedCpuPlacement"),
    ("cpu.isolateEmulatorThread", "domain.cpu.isolateEmulatorThread"),
    ("cpu.numa", "domain.cpu.numa"),
    ("cpu.realtime", "domain.cpu.realtime"),
    ("cpu.maxSockets", "domain.cpu.maxSockets"),
    ("memory.guest", "domain.memory.guest"),
    ("memory.hugepages", "domain.memory.hugepages"),
    ("memory.maxGuest", "domain.memory.maxGuest"),
    ("ioThreads.supplementalPoolThreadCount", "domain.ioThreads.supplementalPoolThreadCount"),
    ("ioThreadsPolicy", "domain.ioThreadsPolicy"),
    ("launchSecurity", "domain.launchSecurity"),
    ("gpus", "domain.devices.gpus"),
    ("hostDevices", "domain.devices.hostDevices"),
    ("nodeSelector", "nodeSelector"),
    ("schedulerName", "schedulerName"),
)
# Of these the instance type's counts whatever the VM says; it must not say the others as well.
WINS = ("domain.cpu.maxSockets",)
# What a preference gives a VM that does not say it.
PREFERRED = (
    ("clock.preferredTimer", "domain.clock.timer"),
    ("devices.preferredUseVirtioTransitional", "domain.devices.useVirtioTransitional"),
    ("devices.preferredBlockMultiQueue", "domain.devices.blockMultiQueue"),
    ("devices.preferredNetworkInterfaceMultiQueue", "domain.devices.networkInterfaceMultiqueue"),
    ("devices.preferredRng", "domain.devices.rng"),
    ("devices.preferredTPM", "domain.devices.tpm"),
    ("devices.preferredVideoType", "domain.devices.video.type"),
    ("devices.preferredAutoattachGraphicsDevice", "domain.devices.autoattachGraphicsDevice"),
    ("devices.preferredAutoattachMemBalloon", "domain.devices.autoattachMemBalloon"),
    ("devices.preferredAutoattachPodInterface", "domain.devices.autoattachPodInterface"),
    ("devices.preferredAutoattachSerialConsole", "domain.devices.autoattachSerialConsole"),
    ("devices.preferredAutoattachInputDevice", "domain.devices.autoattachInputDevice"),
    ("features.preferredApic", "domain.features.apic"),
    ("features.preferredKvm", "domain.features.kvm"),
    ("features.preferredPvspinlock", "domain.features.pvspinlock"),
    ("features.preferredSmm", "domain.features.smm"),
    ("machine.preferredMachineType", "domain.machine.type"),
    ("preferredSubdomain", "subdomain"),
    ("preferredTerminationGracePeriodSeconds", "terminationGracePeriodSeconds"),
    ("preferredArchitecture", "architecture"),
    ("preferredLaunchSecurity", "domain.launchSecurity"),
)
# And whatever the VM says.
IMPOSED = (
    ("features.preferredAcpi", "domain.features.acpi"),
    ("devices.preferredDisableHotplug", "domain.devices.disableHotplug"),
)
# What it gives each disk of a kind, NIC, input and panic device that does not say it.
OF_DISKS = {
    "disk": (
        ("preferredDiskBus", "disk.bus"),
        ("preferredDiskBlockSize", "blockSize"),
        ("preferredDiskCache", "cache"),
        ("preferredDiskIO", "io"),
    ),
    "cdrom": (("preferredCdromBus", "cdrom.bus"),),
    "lun": (("preferredLunBus", "lun.bus"),),
}
OF_DEVICES = (
    ("interfaces", "preferredInterfaceModel", "model"),
    ("inputs", "preferredInputBus", "bus"),
    ("inputs", "preferredInputType", "type"),
    ("panicDevices", "preferredPanicDeviceModel", "model"),
)
BINDINGS = ("bridge", "slirp", "masquerade", "sriov", "macvtap", "passt", "passtBinding", "binding")


def at(found: Any, path: str) -> Any:
    """What stands at a path, None where nothing does."""
    for name in path.split("."):
        found = (found or {}).get(name)
    return found


def said(value: Any) -> bool:
    """Whether a field is there: an empty object counts, an empty text or list is what leaving it out is."""
    return value is not None and value != "" and value != []


def put(found: Object, path: str, value: Any) -> None:
    """Puts a copy of a value at a path."""
    *above, last = path.split(".")
    for name in above:
        found = found.setdefault(name, {})
    found[last] = copy.deepcopy(value)


def conflicts(vm: Object, instancetype: Object) -> Iterator[tuple[str, str]]:
    """What the instance type says as well as the VM, which KubeVirt refuses: the path in the one and in the other."""
    template = vm["spec"]["template"]
    for theirs, ours in GIVEN:
        own = at(template["spec"], ours)
        if ours not in WINS and said(at(instancetype, theirs)) and said(own) and own is not False:
            yield theirs, ours
    own = at(template, "metadata.annotations") or {}
    for key, value in (instancetype.get("annotations") or {}).items():
        if own.get(key, value) != value:
            yield f"annotations[{key}]", f"VirtualMachine.spec.template.metadata.annotations[{key}]"


def spread(preference: Object) -> tuple[str, int]:
    """Across what a preference spreads vCPUs, and its ratio."""
    options = at(preference, "cpu.spreadOptions") or {}
    ratio = options.get("ratio") or preference.get("preferSpreadSocketToCoreRatio") or 2
    return options.get("across") or "SocketsCores", ratio


def topology(preference: Object) -> str:
    """What a preference makes of vCPUs: `sockets`, `cores`, `threads`, `spread` or `any`.

    Older names of them are `preferSockets` and so on.
    """
    return (at(preference, "cpu.preferredCPUTopology") or "sockets").removeprefix("prefer").lower()


def indivisible(instancetype: Object, preference: Object) -> int:
    """The number by which the vCPUs of the instance type would have to be divisible to be spread; 0 where they are."""
    if topology(preference) != "spread":
        return 0
    across, ratio = spread(preference)
    whole = 2 * ratio if across == "SocketsCoresThreads" else ratio
    return whole if (at(instancetype, "cpu.guest") or 0) % whole else 0


def expanded(vm: Object, instancetype: Object, preference: Object) -> Object:
    """The VM without naming an instance type and a preference, but with all that they give; {} is one that is none.

    The VM and the instance type do not conflict.
    """
    vm = copy.deepcopy(vm)
    template = vm["spec"]["template"]
    spec = template["spec"]
    if instancetype:
        vm["spec"].pop("instancetype", None)
        _give(spec, instancetype, preference)
    if preference:
        vm["spec"].pop("preference", None)
        _prefer(spec, preference)
    for giver in (instancetype, preference):
        if annotations := giver.get("annotations"):
            metadata = template.setdefault("metadata", {})
            metadata["annotations"] = annotations | (metadata.get("annotations") or {})
    return vm


def _give(spec: Object, instancetype: Object, preference: Object) -> None:
    for theirs, ours in GIVEN:
        if said(value := at(instancetype, theirs)):
            put(spec, ours, value)
    domain = spec.setdefault("domain", {})
    domain.setdefault("cpu", {}).update(_divided(at(instancetype, "cpu.guest") or 1, preference))
    if percent := at(instancetype, "memory.overcommitPercent"):
        asked = (amount(at(instancetype, "memory.guest")) or 0) * (100 - percent) // 100
        put(domain, "resources.requests.memory", str(asked))


def _divided(vcpus: int, preference: Object) -> dict[str, int]:
    """Sockets, cores and threads of the vCPUs of an instance type."""
    counts = {"sockets": 1, "cores": 1, "threads": 1}
    kind = topology(preference)
    if vcpus == 1:
        return counts
    if kind != "spread":
        return counts | {kind if kind in counts else "sockets": vcpus}
    across, ratio = spread(preference)
    if across == "CoresThreads":
        return counts | {"threads": ratio, "cores": vcpus // ratio}
    threads = 2 if across == "SocketsCoresThreads" else 1
    return {"threads": threads, "cores": ratio, "sockets": vcpus // threads // ratio}


def _prefer(spec: Object, preference: Object) -> None:
    domain = spec.setdefault("domain", {})
    for theirs, ours in PREFERRED:
        if said(value := at(preference, theirs)) and not said(at(spec, ours)):
            put(spec, ours, value)
    for theirs, ours in IMPOSED:
        if said(value := at(preference, theirs)):
            put(spec, ours, value)
    for name, state in (at(preference, "features.preferredHyperv") or {}).items():
        if said(state) and not said(at(domain, f"features.hyperv.{name}")):
            put(domain, f"features.hyperv.{name}", state)
    named = {feature["name"] for feature in at(domain, "cpu.features") or []}
    more = [each for each in at(preference, "cpu.preferredCPUFeatures") or [] if each["name"] not in named]
    if more:
        put(domain, "cpu.features", [*(at(domain, "cpu.features") or []), *more])
    clock = at(preference, "clock.preferredClockOffset") or {}
    if clock and not {"utc", "timezone"} & set(domain.get("clock") or {}):
        domain.setdefault("clock", {}).update(copy.deepcopy(clock))
    if firmware := preference.get("firmware"):
        _boot(domain, firmware)
    if devices := preference.get("devices"):
        _of_devices(spec, devices)


def _boot(domain: Object, firmware: Object) -> None:
    loader = domain.setdefault("firmware", {}).setdefault("bootloader", {})
    if firmware.get("preferredUseBios") and "bios" not in loader and "efi" not in loader:
        loader["bios"] = {}
    if said(serial := firmware.get("preferredUseBiosSerial")) and "bios" in loader:
        loader["bios"].setdefault("useSerial", serial)
    if said(preferred := firmware.get("preferredEfi")) and "bios" not in loader and "efi" not in loader:
        loader["efi"] = dict(preferred)
        return
    if firmware.get("preferredUseEfi") and "bios" not in loader and "efi" not in loader:
        loader["efi"] = {}
    if said(secure := firmware.get("preferredUseSecureBoot")) and "efi" in loader:
        loader["efi"].setdefault("secureBoot", secure)


def _of_devices(spec: Object, preferred: Object) -> None:
    devices = spec["domain"].setdefault("devices", {})
    if preferred.get("preferredSoundModel") and said(devices.get("sound")) and not devices["sound"].get("model"):
        devices["sound"]["model"] = preferred["preferredSoundModel"]
    for disk in devices.get("disks", []):
        kind = next((kind for kind in ("disk", "cdrom", "lun") if said(disk.get(kind))), "disk")
        for theirs, ours in OF_DISKS[kind]:
            if said(value := preferred.get(theirs)) and not said(at(disk, ours)):
                put(disk, ours, value)
        threads = preferred.get("preferredDiskDedicatedIoThread")
        if said(threads) and kind == "disk" and at(disk, "disk.bus") == "virtio":
            disk.setdefault("dedicatedIOThread", threads)
    if said(preferred.get("preferredPanicDeviceModel")):
        devices["panicDevices"] = devices.get("panicDevices") or [{}]
    for kind, theirs, ours in OF_DEVICES:
        for device in devices.get(kind, []):
            if said(value := preferred.get(theirs)) and not said(device.get(ours)):
                device[ours] = value
    on_pod = {network["name"] for network in spec.get("networks", []) if said(network.get("pod"))}
    masquerade = preferred.get("preferredInterfaceMasquerade")
    for nic in devices.get("interfaces", []):
        if said(masquerade) and nic.get("name") in on_pod and not any(said(nic.get(each)) for each in BINDINGS):
            nic["masquerade"] = masquerade
