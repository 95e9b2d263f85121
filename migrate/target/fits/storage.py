"""Whether the cluster's storage serves the claims."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from migrate.model import PlannedDisk
from migrate.target.fits import expansion
from migrate.target.fits.wanted import Misfit, Object, Wanted, instead

EFI, TPM = "firmware.bootloader.efi.persistent", "devices.tpm.persistent"
# The size of the claim that KubeVirt makes for a persistent TPM or EFI variables: backend-storage.go PVCSize.
STATE = Fraction(10 * 2**20)


def classes(wanted: Wanted) -> Iterator[Misfit]:
    """Storage classes that are not there, and modes that they are not known to serve."""
    if not wanted.cluster.storage_classes.knows():
        return
    there = wanted.cluster.storage_classes.within()
    for volume, claim in wanted.claims:
        if claim["spec"].get("volumeName"):
            continue
        path = f"PersistentVolumeClaim[{volume}].spec.storageClassName"
        name = claim["spec"].get("storageClassName") or wanted.cluster.default_class
        if name is None:
            because = "The cluster has no default storage class, so nothing ever provides the claim"
            because += instead(there, "")
            yield Misfit("default-class", "blocker", path, f"{because}.", "Name a storage class in the site file.")
        elif name not in there:
            because = (
                f"The cluster has no storage class {name}, so nothing ever provides the claim{instead(there, name)}."
            )
            yield Misfit("storage-class", "blocker", path, because, "Create it, or name another one in the site file.")
        else:
            yield from _modes(volume, claim["spec"], name, wanted)


def state_path(wanted: Wanted) -> str | None:
    """Where the VM asks for a persistent TPM or EFI variables, for which KubeVirt makes a claim: backend-storage.go."""
    is_there = expansion.at(wanted.devices, "tpm.enabled") is not False
    kept = [path for path in (EFI, *[TPM] * is_there) if expansion.at(wanted.domain, path)]
    return f"domain.{kept[0]}" if kept else None


def state_class(wanted: Wanted) -> str | None:
    """The storage class of that claim, None where there is none or no KubeVirt object was seen that may name it."""
    if not wanted.cluster.kubevirt:
        return None
    for_vms = wanted.cluster.virt_class if wanted.target.at_least("1.4") else None
    return wanted.cluster.configuration.get("vmStateStorageClass") or for_vms or wanted.cluster.default_class


def state(wanted: Wanted) -> Iterator[Misfit]:
    """The storage class of the claim for a VM's state."""
    path = state_path(wanted)
    if not path or not wanted.cluster.kubevirt or not wanted.cluster.storage_classes.knows():
        return
    there, name = wanted.cluster.storage_classes.within(), state_class(wanted)
    remedy = "Have vmStateStorageClass set in the KubeVirt object to a storage class that is there."
    if name is None:
        because = "The cluster has no storage class for the state of VMs and no default one, so the VM never starts"
        yield Misfit("state-class", "blocker", path, f"{because}{instead(there, '')}.", remedy)
    elif name not in there:
        because = f"The cluster keeps the state of VMs on the storage class {name}, which it does not have"
        because += f"{instead(there, name)}. The VM never starts."
        yield Misfit("state-class", "blocker", path, because, remedy)


def _is_sent(disk: PlannedDisk) -> bool:
    return (disk.path or "").startswith("/") and any(name.startswith("cdi-upload") for name in disk.methods)


def uploads(wanted: Wanted) -> Iterator[Misfit]:
    """Disks that go through CDI's upload proxy where that cannot be used from here."""
    problem = wanted.cluster.uploads
    sent = [each for each in wanted.translation.disks if _is_sent(each)]
    if problem and sent:
        because = f"The disks of this VM cannot be sent: {problem.partition(': give')[0]}."
        remedy = (
            "Have the proxy made reachable, name it to `apply` with --uploadproxy-url, or fill the claims otherwise."
        )
        yield Misfit("upload-proxy", "warning", f"volumes[{sent[0].name}]", because, remedy)


def _modes(volume: str, spec: Object, name: str, wanted: Wanted) -> Iterator[Misfit]:
    known = wanted.cluster.storage_profiles.get(name) or ()
    mode, access = spec.get("volumeMode", "Filesystem"), set(spec.get("accessModes", []))
    if known and not any(mode == of and access <= set(can) for can, of in known):
        offers = "; ".join(f"{of} with {', '.join(can)}" for can, of in known)
        because = f"Storage class {name} is known to serve {offers}, but not {mode} with {', '.join(sorted(access))}."
        remedy = "Name modes in the site file that the storage serves, or mend its StorageProfile."
        yield Misfit("storage-modes", "warning", f"PersistentVolumeClaim[{volume}].spec.accessModes", because, remedy)


def folders(wanted: Wanted) -> Iterator[Misfit]:
    """Claims with the files of folders that the guest mounts, which are made by hand and not there."""
    there, inside = wanted.cluster.claims, wanted.namespace
    served = {filesystem["name"] for filesystem in wanted.devices.get("filesystems", [])}
    for volume in wanted.spec.get("volumes", []):
        name = volume.get("persistentVolumeClaim", {}).get("claimName")
        if name and volume["name"] in served and there.knows(inside) and not there.has(name, inside):
            path = f"volumes[{volume['name']}].persistentVolumeClaim.claimName"
            because = f"Namespace {inside} has no claim named {name}, so the VM never starts"
            because += instead(there.within(inside), name)
            remedy = "Make it and copy the folder's files into it, or name another one in the site file."
            yield Misfit("claim-missing", "blocker", path, f"{because}.", remedy)
