"""What KubeVirt adds to a VM as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from migrate.mapping.disk import access_modes
from migrate.mapping.signs import Context

CLAIM = re.compile(r"volumes\[([^\]]*)\]\.(?:ephemeral\.)?persistentVolumeClaim\.claimName")
DISK = re.compile(r"devices\.disk\[(\d+)\]")
# KubeVirt pkg/virt-handler/vm.go calculateLiveMigrationCondition: devices with which the running guest stays.
GPUS = "domain.devices.gpus["
TIED = {"domain.devices.hostDevices[": "host devices", GPUS: "GPUs"}
LOOKED_AT = (
    "volumes[",
    "networks[",
    "domain.devices.disks[",
    "domain.devices.filesystems[",
    "domain.launchSecurity",
    *TIED,
)


def node_bound(context: Context, writes: Mapping[str, Any]) -> str | None:
    """Why the running guest cannot move to another node; None where it can."""
    return "; ".join(_reasons(context, writes)) or None


def _reasons(context: Context, writes: Mapping[str, Any]) -> Iterator[str]:
    paths = [path for path in writes if path.startswith(LOOKED_AT)]
    claims = [
        name for path in paths if path.endswith(".claimName") and (name := _not_shared(path, writes[path], context))
    ]
    if claims:
        yield f"claims without ReadWriteMany: {', '.join(claims)}"
    pods = (path.removesuffix(".pod") for path in paths if path.endswith("].pod"))
    if any(f"domain.devices.interfaces{pod.removeprefix('networks')}.bridge" in writes for pod in pods):
        yield "a bridge on the pod network"
    for devices, what in TIED.items():
        names = [path for path in paths if path.startswith(devices) and path.endswith(".deviceName")]
        movable = devices == GPUS and len(names) == 1 and context.target.enabled("VGPULiveMigration")
        if names and not movable:
            yield what
    if any(path.startswith("domain.launchSecurity") for path in paths):
        yield "encrypted memory"
    if "domain.features.hypervPassthrough.enabled" in writes:
        yield "hypervPassthrough"
    if not context.target.at_least("1.9") and any(path.endswith("].lun.reservation") for path in paths):
        yield "SCSI reservations before KubeVirt 1.9"
    if not context.target.at_least("1.5") and any(path.endswith("].virtiofs") for path in paths):
        yield "virtiofs before KubeVirt 1.5"


def _not_shared(path: str, made: Any, context: Context) -> str | None:
    """The name of a volume whose claim one node alone can use."""
    volume, disk = CLAIM.fullmatch(path), DISK.match(made.leaf)
    if not volume or not disk:
        return None
    index = int(disk[1])
    facts = context.vm.disks[index] if index < len(context.vm.disks) else None
    shared = f"{disk[0]}.shareable" in context.document.by_path
    return None if "ReadWriteMany" in access_modes(shared, facts, context) else volume[1]
