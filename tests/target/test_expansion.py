"""The VM with what its instance type and preference give it; every row is what KubeVirt's own code makes of it."""

import copy
from typing import Any

import pytest

from migrate.target.fits.expansion import at, expanded, indivisible

SPEC = {
    "domain": {
        "cpu": {"features": [{"name": "vmx"}]},
        "clock": {"utc": {}},
        "features": {"acpi": {}, "hyperv": {"vpindex": {"enabled": False}}},
        "firmware": {"bootloader": {"bios": {}}},
        "devices": {
            "disks": [
                {"name": "root", "disk": {"bus": "virtio"}},
                {"name": "data", "disk": {}, "io": "threads"},
                {"name": "cd", "cdrom": {}},
            ],
            "interfaces": [{"name": "default"}, {"name": "lan", "bridge": {}, "model": "e1000e"}],
            "inputs": [{"name": "tablet", "type": "tablet"}],
            "autoattachGraphicsDevice": True,
        },
    },
    "networks": [{"name": "default", "pod": {}}, {"name": "lan", "multus": {"networkName": "lan"}}],
}
SIZE = {"cpu": {"guest": 8}, "memory": {"guest": "4Gi"}}


def spec_with(instancetype: dict[str, Any], preference: dict[str, Any], **changes: Any) -> dict[str, Any]:
    vm = {"spec": {"instancetype": {}, "preference": {}, "template": {"spec": copy.deepcopy(SPEC)}}}
    vm["spec"]["template"]["spec"]["domain"] |= changes
    return expanded(vm, instancetype, preference)["spec"]["template"]["spec"]


def spreading(**options: Any) -> dict[str, Any]:
    return {"cpu": {"preferredCPUTopology": "spread", "spreadOptions": options}}


@pytest.mark.parametrize(
    ("preference", "sockets", "cores", "threads"),
    [
        ({}, 8, 1, 1),
        ({"cpu": {"preferredCPUTopology": "cores"}}, 1, 8, 1),
        ({"cpu": {"preferredCPUTopology": "preferThreads"}}, 1, 1, 8),
        ({"cpu": {"preferredCPUTopology": "any"}}, 8, 1, 1),
        (spreading(), 4, 2, 1),
        ({"cpu": {"preferredCPUTopology": "preferSpread"}, "preferSpreadSocketToCoreRatio": 4}, 2, 4, 1),
        (spreading(across="CoresThreads"), 1, 4, 2),
        (spreading(across="SocketsCoresThreads", ratio=4), 1, 4, 2),
    ],
)
def test_the_vcpus_of_an_instance_type_become_what_the_preference_says(
    preference: dict[str, Any], sockets: int, cores: int, threads: int
) -> None:
    cpu = spec_with(SIZE, preference)["domain"]["cpu"]
    assert (cpu["sockets"], cpu["cores"], cpu["threads"]) == (sockets, cores, threads)


@pytest.mark.parametrize(
    ("preference", "whole"),
    [({}, 0), (spreading(), 0), (spreading(ratio=3), 3), (spreading(across="SocketsCoresThreads", ratio=3), 6)],
)
def test_vcpus_are_spread_evenly_or_not_at_all(preference: dict[str, Any], whole: int) -> None:
    assert indivisible(SIZE, preference) == whole


@pytest.mark.parametrize(
    ("more", "path", "value"),
    [
        ({"cpu": {"guest": 2, "dedicatedCPUPlacement": True}}, "domain.cpu.dedicatedCpuPlacement", True),
        ({"cpu": {"guest": 2, "maxSockets": 8}}, "domain.cpu.maxSockets", 8),
        ({"memory": {"guest": "4Gi", "overcommitPercent": 25}}, "domain.resources.requests.memory", str(3 * 2**30)),
        ({"memory": {"guest": "4Gi", "hugepages": {"pageSize": "2Mi"}}}, "domain.memory.hugepages.pageSize", "2Mi"),
        ({"ioThreads": {"supplementalPoolThreadCount": 2}}, "domain.ioThreads.supplementalPoolThreadCount", 2),
        ({"gpus": [{"name": "g", "deviceName": "x/y"}]}, "domain.devices.gpus", [{"name": "g", "deviceName": "x/y"}]),
        ({"schedulerName": "own"}, "schedulerName", "own"),
    ],
)
def test_what_an_instance_type_gives(more: dict[str, Any], path: str, value: Any) -> None:
    assert at(spec_with(SIZE | more, {}), path) == value


@pytest.mark.parametrize(
    ("preference", "path", "value"),
    [
        ({"devices": {"preferredTPM": {"persistent": True}}}, "domain.devices.tpm", {"persistent": True}),
        ({"devices": {"preferredRng": {}}}, "domain.devices.rng", {}),
        ({"devices": {"preferredVideoType": "vga"}}, "domain.devices.video.type", "vga"),
        # What the VM says stays, but for two fields.
        ({"devices": {"preferredAutoattachGraphicsDevice": False}}, "domain.devices.autoattachGraphicsDevice", True),
        ({"clock": {"preferredClockOffset": {"timezone": "Europe/Oslo"}}}, "domain.clock", {"utc": {}}),
        ({"features": {"preferredAcpi": {"enabled": False}}}, "domain.features.acpi", {"enabled": False}),
        ({"devices": {"preferredDisableHotplug": True}}, "domain.devices.disableHotplug", True),
        ({"features": {"preferredHyperv": {"vpindex": {}}}}, "domain.features.hyperv.vpindex", {"enabled": False}),
        ({"features": {"preferredHyperv": {"synic": {}}}}, "domain.features.hyperv.synic", {}),
        (
            {"cpu": {"preferredCPUFeatures": [{"name": "vmx", "policy": "forbid"}, {"name": "pcid"}]}},
            "domain.cpu.features",
            [{"name": "vmx"}, {"name": "pcid"}],
        ),
        ({"firmware": {"preferredUseEfi": True}}, "domain.firmware.bootloader", {"bios": {}}),
        ({"firmware": {"preferredUseBiosSerial": True}}, "domain.firmware.bootloader.bios", {"useSerial": True}),
        ({"preferredTerminationGracePeriodSeconds": 0}, "terminationGracePeriodSeconds", 0),
        # A sound device is not added, a panic device is.
        ({"devices": {"preferredSoundModel": "ich9"}}, "domain.devices.sound", None),
        ({"devices": {"preferredPanicDeviceModel": "isa"}}, "domain.devices.panicDevices", [{"model": "isa"}]),
    ],
)
def test_what_a_preference_gives(preference: dict[str, Any], path: str, value: Any) -> None:
    assert at(spec_with({}, preference), path) == value


@pytest.mark.parametrize(
    ("preferred", "bootloader"),
    [
        ({"preferredUseBios": True, "preferredUseEfi": True}, {"bios": {}}),
        ({"preferredEfi": {"persistent": True}, "preferredUseSecureBoot": False}, {"efi": {"persistent": True}}),
        ({"preferredUseEfi": True, "preferredUseSecureBoot": False}, {"efi": {"secureBoot": False}}),
    ],
)
def test_the_firmware_that_a_preference_gives_a_vm_without_any(
    preferred: dict[str, Any], bootloader: dict[str, Any]
) -> None:
    assert at(spec_with({}, {"firmware": preferred}, firmware={}), "domain.firmware.bootloader") == bootloader


def test_a_preference_fills_in_what_devices_leave_out() -> None:
    preferred = {
        "preferredDiskBus": "scsi",
        "preferredDiskIO": "native",
        "preferredDiskDedicatedIoThread": True,
        "preferredCdromBus": "sata",
        "preferredInterfaceModel": "virtio",
        "preferredInterfaceMasquerade": {},
        "preferredInputBus": "usb",
    }
    devices = spec_with({}, {"devices": preferred})["domain"]["devices"]
    assert devices["disks"] == [
        {"name": "root", "disk": {"bus": "virtio"}, "io": "native", "dedicatedIOThread": True},
        {"name": "data", "disk": {"bus": "scsi"}, "io": "threads"},
        {"name": "cd", "cdrom": {"bus": "sata"}},
    ]
    assert devices["interfaces"] == [
        {"name": "default", "model": "virtio", "masquerade": {}},
        {"name": "lan", "bridge": {}, "model": "e1000e"},
    ]
    assert devices["inputs"] == [{"name": "tablet", "type": "tablet", "bus": "usb"}]


def test_annotations_come_along_and_the_vms_own_stay() -> None:
    vm = {"spec": {"template": {"metadata": {"annotations": {"a": "own"}}, "spec": copy.deepcopy(SPEC)}}}
    found = expanded(
        vm, SIZE | {"annotations": {"a": "own", "b": "type"}}, {"annotations": {"a": "x", "b": "y", "c": "z"}}
    )
    assert found["spec"]["template"]["metadata"]["annotations"] == {"a": "own", "b": "type", "c": "z"}
    assert vm["spec"]["template"]["metadata"]["annotations"] == {"a": "own"}
