"""A double of a CSI driver and of what binds claims: a volume is a folder, a file system or a sparse file."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.wire import Events, overtaken
from lightkube import ApiError
from lightkube.resources.core_v1 import PersistentVolume, PersistentVolumeClaim
from lightkube.resources.storage_v1 import StorageClass
from lightkube.utils.quantity import parse_quantity

PROVISIONER = "csi.double.test"
NODE = "node1"
IMMEDIATE, FIRST_CONSUMER = "Immediate", "WaitForFirstConsumer"
SELECTED = "volume.kubernetes.io/selected-node"
FSTYPE = "csi.storage.k8s.io/fstype"
# The storage classes: how they bind, and their parameters. Without FSTYPE a file system claim is a plain folder.
# "dirty": a block volume still holds what its blocks held before. "short": bytes less than asked for.
CLASSES: dict[str, tuple[str, dict[str, str]]] = {
    "fast": (IMMEDIATE, {}),
    "local": (FIRST_CONSUMER, {}),
    "ext4": (IMMEDIATE, {FSTYPE: "ext4"}),
    "xfs": (IMMEDIATE, {FSTYPE: "xfs"}),
    "dirty": (IMMEDIATE, {"dirty": "true"}),
    "short": (IMMEDIATE, {"short": "1048576"}),
}
MKFS = {"ext4": ("mkfs.ext4", "-q", "-F", "-m0"), "xfs": ("mkfs.xfs", "-q", "-f")}
STALE = b"\xa5 what was here before " * 4096


@dataclass
class Volume:
    """`path` is a folder, or a file or device of a block volume; `backing` what is mounted there."""

    path: Path
    mode: str
    size: int
    backing: Path | None = None

    @property
    def image(self) -> Path:
        """What a guest would have as its disk."""
        return self.path if self.mode == "Block" else self.path / "disk.img"

    def available(self) -> int:
        """Bytes that are free for one file, or those of the device."""
        if self.mode == "Block":
            return self.size
        if self.backing:
            found = os.statvfs(self.path)
            return found.f_bavail * found.f_frsize
        return self.size - sum(entry.stat().st_blocks * 512 for entry in self.path.iterdir())

    def remove(self) -> None:
        if self.backing:
            subprocess.run(["umount", "--lazy", self.path], check=True)
            self.backing.unlink()
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink()


class Driver:
    """Makes and removes the volumes of claims, by the claim's uid."""

    def __init__(self, events: Events, root: Path) -> None:
        self.events, self.client, self.root = events, events.client, root
        self.volumes: dict[str, Volume] = {}
        events.follow(PersistentVolumeClaim, self.claim)
        for kind in (PersistentVolume, StorageClass):
            events.follow(kind, self.again)

    def again(self, *_: Any) -> None:
        """Looks at the claims that wait."""
        for claim in self.client.list(PersistentVolumeClaim, namespace="*"):
            with overtaken():
                self.claim("MODIFIED", claim)

    def claim(self, event: str, claim: PersistentVolumeClaim) -> None:
        uid = claim.metadata.uid
        if event == "DELETED":
            self._remove(uid)
        elif claim.status.phase != "Bound":
            if claim.spec.volumeName and f"pvc-{uid}" != claim.spec.volumeName:
                self._bind_static(claim)
            elif self._wanted(claim):
                self._provision(claim)

    def volume(self, namespace: str, name: str) -> Volume:
        return self.volumes[self.client.get(PersistentVolumeClaim, name, namespace=namespace).metadata.uid]

    def select(self, claim: PersistentVolumeClaim) -> None:
        """Says as the scheduler does where the first consumer of a claim runs."""
        patch = {"metadata": {"annotations": {SELECTED: NODE}}}
        self.client.patch(PersistentVolumeClaim, claim.metadata.name, patch, namespace=claim.metadata.namespace)

    def waits_for_consumer(self, claim: PersistentVolumeClaim) -> bool:
        found = self._class(claim)
        return bool(found) and found.volumeBindingMode == FIRST_CONSUMER and not claim.spec.volumeName

    def remove_all(self) -> None:
        """Leaves nothing mounted."""
        for volume in self.volumes.values():
            if volume.path.is_relative_to(self.root):
                volume.remove()
        self.volumes.clear()

    def _class(self, claim: PersistentVolumeClaim) -> StorageClass | None:
        try:
            return self.client.get(StorageClass, claim.spec.storageClassName) if claim.spec.storageClassName else None
        except ApiError:
            return None

    def _wanted(self, claim: PersistentVolumeClaim) -> bool:
        found = self._class(claim)
        if not found or found.provisioner != PROVISIONER:
            return False
        return found.volumeBindingMode != FIRST_CONSUMER or SELECTED in (claim.metadata.annotations or {})

    def _provision(self, claim: PersistentVolumeClaim) -> None:
        uid, name = claim.metadata.uid, f"pvc-{claim.metadata.uid}"
        asked = claim.spec.resources.requests["storage"]
        kind = self._class(claim)
        if uid not in self.volumes:
            size = -(-int(parse_quantity(asked)) // 512) * 512
            self.volumes[uid] = self._make(self.root / name, claim.spec.volumeMode, size, kind.parameters or {})
            self.client.create(
                PersistentVolume.from_dict(
                    {
                        "metadata": {"name": name},
                        "spec": {
                            "capacity": {"storage": asked},
                            "accessModes": claim.spec.accessModes,
                            "volumeMode": claim.spec.volumeMode,
                            "storageClassName": claim.spec.storageClassName,
                            "persistentVolumeReclaimPolicy": kind.reclaimPolicy or "Delete",
                            "claimRef": _reference(claim),
                            "csi": {"driver": PROVISIONER, "volumeHandle": name},
                        },
                    }
                )
            )
        self._bound(claim, name, asked)

    def _make(self, path: Path, mode: str, size: int, parameters: dict[str, str]) -> Volume:
        size -= int(parameters.get("short", 0))
        if mode == "Block":
            path.touch()
            os.truncate(path, size)
            if "dirty" in parameters:
                with open(path, "r+b") as file:
                    for offset in range(0, size, len(STALE)):
                        file.write(STALE[: size - offset])
            return Volume(path, mode, size)
        path.mkdir()
        if FSTYPE not in parameters:
            # The group that CDI's and KubeVirt's pods are in.
            os.chown(path, 0, 107)
            path.chmod(0o2775)
            return Volume(path, mode, size)
        backing = path.with_suffix(".fs")
        backing.touch()
        os.truncate(backing, size)
        subprocess.run([*MKFS[parameters[FSTYPE]], backing], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", backing, path], check=True)
        os.chown(path, 0, 107)
        path.chmod(0o2775)
        return Volume(path, mode, size, backing)

    def _bind_static(self, claim: PersistentVolumeClaim) -> None:
        """Binds to a volume that somebody made: a local path or a path on the host."""
        volume = self.client.get(PersistentVolume, claim.spec.volumeName)
        spec = volume.spec
        path = Path((spec.local or spec.hostPath).path) if spec.local or spec.hostPath else None
        self.client.patch(PersistentVolume, volume.metadata.name, {"spec": {"claimRef": _reference(claim)}})
        if path:
            size = int(parse_quantity(spec.capacity["storage"]))
            self.volumes[claim.metadata.uid] = Volume(path, claim.spec.volumeMode, size)
        self._bound(claim, volume.metadata.name, spec.capacity["storage"])

    def _bound(self, claim: PersistentVolumeClaim, volume: str, capacity: str) -> None:
        name, namespace = claim.metadata.name, claim.metadata.namespace
        annotations = {"pv.kubernetes.io/bind-completed": "yes"}
        patch = {"metadata": {"annotations": annotations}, "spec": {"volumeName": volume}}
        self.client.patch(PersistentVolumeClaim, name, patch, namespace=namespace)
        status = {"phase": "Bound", "accessModes": claim.spec.accessModes, "capacity": {"storage": capacity}}
        self.client.patch(PersistentVolumeClaim.Status, name, {"status": status}, namespace=namespace)
        self.client.patch(PersistentVolume.Status, volume, {"status": {"phase": "Bound"}})

    def _remove(self, uid: str) -> None:
        """Removes a claim's volume, but for those that somebody else made or that are to be kept."""
        volume, name = self.volumes.pop(uid, None), f"pvc-{uid}"
        if not volume or volume.path.name != name:
            return
        with overtaken():
            if self.client.get(PersistentVolume, name).spec.persistentVolumeReclaimPolicy == "Retain":
                return
            self.client.delete(PersistentVolume, name, grace_period=0)
        volume.remove()


def _reference(claim: PersistentVolumeClaim) -> dict[str, str]:
    metadata = claim.metadata
    where = {"namespace": metadata.namespace, "name": metadata.name, "uid": metadata.uid}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **where}
