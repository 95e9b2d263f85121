"""What tools of this kind did to network interfaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from migrate.target.cluster import Address, Cluster
from migrate.target.fits.objects import addresses
from migrate.target.fits.wanted import Wanted
from migrate.target.vocabulary import target

MODELS = {"virtio", "e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139"}
LAN = {"networks": {"network:lan": {"multus": "vms/lan"}, "network:default": {"pod": "masquerade"}}}


def _nic(number: int, network: str = "lan", model: str = "virtio") -> str:
    return (
        f"<interface type='network'><mac address='52:54:00:00:00:{number:02x}'/><source network='{network}'/>"
        f"<model type='{model}'/></interface>"
    )


def _interfaces(translation: Any) -> list[dict[str, Any]]:
    return translation.manifest["spec"]["template"]["spec"]["domain"]["devices"].get("interfaces", [])


def test_the_order_of_nics_was_random(translated: Callable) -> None:
    order = [9, 3, 7, 1, 200, 4, 12, 11, 2, 10, 5]
    plan = translated(f"<devices>{''.join(map(_nic, order))}</devices>", LAN)
    assert [nic["macAddress"] for nic in _interfaces(plan)] == [f"52:54:00:00:00:{number:02x}" for number in order]


@pytest.mark.parametrize(("disk", "nic"), [(1, 2), (2, 1), (2, 3)])
def test_a_nic_had_order_1_beside_a_disk(disk: int, nic: int, translated: Callable) -> None:
    image = "<disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/><boot order='{}'/></disk>"
    card = _nic(1).replace("<model", f"<boot order='{nic}'/><model")
    plan = translated(f"<devices>{image.format(disk)}{card}</devices>", LAN)
    devices = plan.manifest["spec"]["template"]["spec"]["domain"]["devices"]
    assert [devices[kind][0]["bootOrder"] for kind in ("disks", "interfaces")] == [disk, nic]


def test_the_network_was_booted_from_before_the_disk(translated: Callable) -> None:
    boot = "<os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/><boot dev='network'/></os>"
    image = "<disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk>"
    plan = translated(f"{boot}<devices>{image}{_nic(1)}</devices>", LAN)
    devices = plan.manifest["spec"]["template"]["spec"]["domain"]["devices"]
    assert [devices[kind][0]["bootOrder"] for kind in ("disks", "interfaces")] == [1, 2]


def test_a_second_port_on_a_network_was_dropped(translated: Callable) -> None:
    plan = translated(f"<devices>{_nic(1)}{_nic(2)}</devices>", LAN)
    networks = plan.manifest["spec"]["template"]["spec"]["networks"]
    assert [network["multus"]["networkName"] for network in networks] == ["vms/lan", "vms/lan"]
    assert [network["name"] for network in networks] == [nic["name"] for nic in _interfaces(plan)]
    assert len({network["name"] for network in networks}) == 2


def test_a_nic_without_a_mapped_network_was_dropped(translated: Callable) -> None:
    plan = translated(f"<devices>{_nic(1)}{_nic(2, 'secret-lab')}</devices>", LAN)
    blockers = [finding for finding in plan.all_findings() if finding.severity == "blocker"]
    assert [finding.id for finding in blockers] == ["nic-gate/no-network"]
    assert "network:secret-lab" in blockers[0].because


def test_two_nics_of_a_network_both_went_to_the_pod_network_which_takes_one(translated: Callable) -> None:
    plan = translated(f"<devices>{_nic(1, 'default')}{_nic(2, 'default')}</devices>", LAN)
    assert sum("masquerade" in nic for nic in _interfaces(plan)) == 1
    assert plan.verdict == "blocked"


@pytest.mark.parametrize(
    "model", ["e1000-82545em", "vmxnet3", "ne2k_isa", "usb-net", "lan9118", "virtio-non-transitional"]
)
def test_nic_models_went_through_unchanged_and_were_refused_after_hours_of_copying(
    model: str, translated: Callable
) -> None:
    plan = translated(f"<devices>{_nic(1, model=model)}</devices>", LAN)
    assert {nic.get("model") for nic in _interfaces(plan)} <= MODELS
    said = [finding for finding in plan.all_findings() if finding.path == "devices.interface[0].model.type"]
    assert said or model == "virtio-non-transitional"


def test_a_mac_of_another_vm_was_found_only_after_the_copy(translated: Callable) -> None:
    plan = translated(f"<devices>{_nic(1)}</devices>", LAN)
    cluster = Cluster("test", addresses={"52:54:00:00:00:01": (Address("other/db", "vms/lan"),)})
    (taken,) = addresses(Wanted(plan, cluster, target("1.9")))
    assert (taken.id, taken.severity) == ("mac-taken", "blocker")
    assert "other/db" in taken.because
