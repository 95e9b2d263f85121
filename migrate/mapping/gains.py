"""What KubeVirt adds to a VM as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from migrate.mapping.disk import CLAIMS, LEAF, access_modes
from migrate.mapping.signs import Context

if TYPE_CHECKING:
    from migrate.mapping.ledger import Write, Writes

# KubeVirt pkg/virt-handler/vm.go calculateLiveMigrationCondition: devices with which the running guest stays.
GPUS = "domain.devices.gpus.deviceName"
TIED = {"domain.devices.hostDevices.deviceName": "host devices", GPUS: "GPUs"}


def node_bound(context: Context, writes: Writes) -> str | None:
    """Why the running guest cannot move to another node; None where it can."""
    return "; ".join(_reasons(context, writes)) or None


def _reasons(context: Context, writes: Writes) -> Iterator[str]:
    claims = [name for made in writes.every(*CLAIMS) if (name := _not_shared(made, context))]
    if claims:
        yield f"claims without ReadWriteMany: {', '.join(claims)}"
    pods = (made.path.removeprefix("networks").removesuffix(".pod") for made in writes.every("networks.pod"))
    for pod in pods:
        if f"domain.devices.interfaces{pod}.bridge" in writes:
            yield "a bridge on the pod network"
        # pkg/network/vmispec/interface.go VerifyVMIMigratable
        plugin = writes.get(f"domain.devices.interfaces{pod}.binding.name")
        if plugin and f"{plugin.value}/migration" not in context.target.plugins:
            yield f"the plugin {plugin.value} on the pod network, unless the KubeVirt object gives it `migration`"
    for devices, what in TIED.items():
        count = len(writes.every(devices))
        movable = devices == GPUS and count == 1 and context.target.enabled("VGPULiveMigration")
        if count and not movable:
            yield what
    if "launchSecurity" in context.document.nodes and any(path.startswith("domain.launchSecurity") for path in writes):
        yield "encrypted memory"
    if "domain.features.hypervPassthrough.enabled" in writes:
        yield "hypervPassthrough"
    if not context.target.at_least("1.9") and writes.every("domain.devices.disks.lun.reservation"):
        yield "SCSI reservations before KubeVirt 1.9"
    if not context.target.at_least("1.5") and writes.every("domain.devices.filesystems.virtiofs"):
        yield "virtiofs before KubeVirt 1.5"


def _not_shared(made: Write, context: Context) -> str | None:
    """The name of a volume whose claim one node alone can use."""
    disk = LEAF.match(made.leaf)
    if not disk:
        return None
    index = int(disk[1])
    facts = context.vm.disks[index] if index < len(context.vm.disks) else None
    shared = f"{disk[0]}.shareable" in context.document.by_path
    return None if "ReadWriteMany" in access_modes(shared, facts, context) else made.key
