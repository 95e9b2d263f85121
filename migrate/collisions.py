"""What the VMs of one plan take from each other: claims of one name, and MAC addresses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from migrate.model import VM, Severity, Translation

OWNER = "kubevirt-migrate/vm"  # the label of a claim that belongs to one VM alone


class Collision(NamedTuple):
    """Why two VMs of a plan do not go together; `id` is rule/row."""

    id: str
    severity: Severity
    because: str
    remedy: str
    target: str


class Taken(NamedTuple):
    """A claim and the first VM that has it; `content` is equal for claims that are one."""

    vm: VM
    namespace: str
    content: tuple[str, int | None]


@dataclass(slots=True)
class Wants:
    """What a VM needs that another could have: its claims, the bytes of their disks by name, and its interfaces."""

    claims: list[dict[str, Any]]
    sizes: dict[str, int | None]
    nics: list[dict[str, Any]]


def wants(translation: Translation) -> Wants:
    """What a VM needs that another could have."""
    domain = translation.manifest.get("spec", {}).get("template", {}).get("spec", {}).get("domain", {})
    sizes = {disk.claim: disk.bytes for disk in translation.disks}
    return Wants(translation.claims, sizes, domain.get("devices", {}).get("interfaces", []))


@dataclass(slots=True)
class Collisions:
    """What the VMs that were planned so far have taken: claims by namespace and name, shared ones by name alone.

    `luns` are the volumes of LUNs with the claims that have them.
    """

    claims: dict[tuple[str, str], Taken] = field(default_factory=dict)
    macs: dict[str, VM] = field(default_factory=dict)
    luns: dict[str, tuple[VM, str]] = field(default_factory=dict)

    def of(self, vm: VM, wanted: Wants) -> Iterator[Collision]:
        """What is taken already of what this VM needs; the rest is its own from now on."""
        for claim in wanted.claims:
            yield from self._claim(vm, claim, wanted.sizes.get(claim["metadata"]["name"]))
            yield from self._lun(vm, claim)
        for nic in wanted.nics:
            yield from self._mac(vm, nic)

    def _claim(self, vm: VM, claim: dict[str, Any], size: int | None) -> Iterator[Collision]:
        name, namespace = claim["metadata"]["name"], claim["metadata"].get("namespace", "")
        shared = is_shared(claim)
        content = (json.dumps(claim, sort_keys=True) if shared else "", size if shared else None)
        first = self.claims.setdefault(("" if shared else namespace, name), Taken(vm, namespace, content))
        if first.vm is vm:
            return
        path, other = f"PersistentVolumeClaim[{name}]", first.vm.folder
        if not shared:
            because = f"The claim {name} is that of a disk of {other} already, and one claim holds one disk."
            yield Collision("claim/taken", "blocker", because, RENAME, path)
        elif first.namespace != namespace:
            because = f"The disk is shared with {other}, which goes to another namespace, and a claim is of one."
            yield Collision("claim/two-namespaces", "blocker", because, ONE_NAMESPACE, path)
        elif first.content != content:
            because = f"The disk is shared with {other}, and its size or its storage differ between the two."
            yield Collision("claim/unequal", "blocker", because, EQUAL, path)
        elif first.vm.host != vm.host:
            because = f"The disk has the path of one of {other} on {first.vm.host}, so both get one claim and one copy."
            yield Collision("claim/two-hosts", "warning", because, ONE_STORAGE, path)

    def _lun(self, vm: VM, claim: dict[str, Any]) -> Iterator[Collision]:
        name, volume = claim["metadata"]["name"], claim["spec"].get("volumeName")
        first, taken = self.luns.setdefault(volume, (vm, name)) if volume else (vm, name)
        if taken != name:
            because = f"The LUN is handed over to {first.folder} already, and one volume goes to one claim."
            yield Collision("claim/lun-taken", "blocker", because, ONE_LUN, f"PersistentVolumeClaim[{name}]")

    def _mac(self, vm: VM, nic: dict[str, Any]) -> Iterator[Collision]:
        mac = str(nic.get("macAddress", "")).lower()
        first = self.macs.setdefault(mac, vm) if mac else vm
        # Of VMs of one uuid another finding tells.
        if first is not vm and first.uuid != vm.uuid:
            because = f"The VM {first.folder} has the MAC address {mac} too, and on one network both lose packets."
            target = f"domain.devices.interfaces[{nic.get('name')}].macAddress"
            yield Collision("identity/mac-twice", "warning", because, ONE_MAC, target)


def is_shared(claim: dict[str, Any]) -> bool:
    """Whether a claim is that of a disk which VMs share."""
    return OWNER not in claim["metadata"].get("labels", {})


RENAME = "Rename one of the two VMs at its source and collect again, or plan them into different namespaces."
ONE_NAMESPACE = "Give the VMs that share a disk one namespace in the site file."
EQUAL = "Find out which of the two is right, collect both again and plan again."
ONE_LUN = "Mark the LUN as shareable at the source if both VMs use it; else correct `luns` in the site file."
ONE_STORAGE = "Check that both hosts have the same shared storage there; if not, plan the two VMs apart."
ONE_MAC = "Leave it if they are on different networks; otherwise give one of the two another address."
