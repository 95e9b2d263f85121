"""Names, labels, annotations and claims as the API server takes them."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.target.admission.spec import (
    LABEL_VALUE,
    RENAME,
    SUBDOMAIN,
    Manifest,
    Refusal,
    Spec,
    amount,
    efi,
    qualified,
)

ANNOTATION_BYTES = 256 * 1024

RESERVED_LABELS = {
    f"kubevirt.io/{name}"
    for name in (
        "created-by",
        "install-strategy",
        "migrationJobUID",
        "migrationTargetNodeName",
        "nodeName",
        "schedulable",
    )
}


def of_metadata(manifest: Manifest, path: str) -> Iterator[Refusal]:
    """Labels and annotations of an object."""
    metadata = manifest.get("metadata", {})
    for key, value in metadata.get("labels", {}).items():
        if not qualified(key) or not LABEL_VALUE.fullmatch(value):
            because = "The API server refuses a label that is not made of at most 63 of A-Z, a-z, 0-9 and -_."
            yield Refusal(f"{path}.labels[{key}]", "label", because, "Use an annotation for other text.")
        elif key in RESERVED_LABELS and path.startswith("VirtualMachine.spec"):
            because = "KubeVirt refuses a label that it keeps for itself."
            yield Refusal(f"{path}.labels[{key}]", "label-reserved", because, "Leave the label out.")
    annotations = metadata.get("annotations", {})
    for key in annotations:
        if not qualified(key.lower()):
            because = "The API server refuses an annotation whose key is no qualified name."
            yield Refusal(f"{path}.annotations[{key}]", "annotation", because, "Use PREFIX/NAME for a key.")
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > ANNOTATION_BYTES:
        because = "The API server refuses more than 256 KiB of annotations."
        yield Refusal(f"{path}.annotations", "annotation-size", because, "Shorten the longest annotation.")


def of_identity(every: Spec) -> Iterator[Refusal]:
    """Run strategy, and the name where it becomes a label."""
    spec = every.vm.get("spec", {})
    if ("running" in spec) == ("runStrategy" in spec):
        because = "KubeVirt refuses a VM without a run strategy, and one with both runStrategy and running."
        yield Refusal("VirtualMachine.spec.runStrategy", "run-strategy", because, "Set runStrategy only.")
    for field in ("instancetype", "preference"):
        matcher = spec.get(field)
        if matcher is not None and not (matcher.get("name") or matcher.get("inferFromVolume")):
            because = f"KubeVirt refuses {field} without a name."
            yield Refusal(f"VirtualMachine.spec.{field}", f"{field}-name", because, "Name it or leave it out.")
    name = every.vm.get("metadata", {}).get("name", "")
    tpm = every.devices.get("tpm", {})
    if len(name) > 63 and (tpm.get("persistent") or efi(every).get("persistent")):
        because = (
            "The claim of a persistent TPM or EFI state is labelled with the VM's name, which is over 63 characters."
        )
        yield Refusal("VirtualMachine.metadata.name", "name-label", because, "Give the VM a shorter name.")


def of_claims(claims: list[Manifest]) -> Iterator[Refusal]:
    """Claims, as Kubernetes' API server validates them."""
    seen: set[str] = set()
    for claim in claims:
        name = claim.get("metadata", {}).get("name", "")
        path = f"PersistentVolumeClaim[{name}]"
        if not SUBDOMAIN.fullmatch(name):
            because = "The API server refuses a claim whose name is no DNS subdomain of at most 253 characters."
            yield Refusal(f"{path}.metadata.name", "claim-name", because, "Give the claim another name.")
        if name in seen:
            because = "Two disks of the VM have one claim."
            yield Refusal(f"{path}.metadata.name", "claim-unique", because, RENAME)
        seen.add(name)
        yield from of_metadata(claim, f"{path}.metadata")
        yield from _claim_spec(claim.get("spec", {}), f"{path}.spec")


def _claim_spec(spec: Manifest, path: str) -> Iterator[Refusal]:
    modes = spec.get("accessModes", [])
    if not modes or ("ReadWriteOncePod" in modes and len(modes) > 1):
        because = "The API server refuses a claim without access modes, and ReadWriteOncePod among others."
        yield Refusal(f"{path}.accessModes", "claim-access", because, "Name the access mode in the site file.")
    if spec.get("volumeMode", "Filesystem") not in ("Filesystem", "Block"):
        because = "The API server refuses a claim that is neither of mode Filesystem nor Block."
        yield Refusal(f"{path}.volumeMode", "claim-mode", because, "Use Filesystem or Block.")
    size = amount(spec.get("resources", {}).get("requests", {}).get("storage"))
    if size is None or size <= 0:
        because = "The API server refuses a claim without a size."
        yield Refusal(f"{path}.resources.requests.storage", "claim-size", because, "Find out the disk's capacity.")
    if spec.get("storageClassName") and not SUBDOMAIN.fullmatch(spec["storageClassName"]):
        because = "The API server refuses a storage class whose name is no DNS subdomain."
        yield Refusal(f"{path}.storageClassName", "claim-class", because, "Correct the name in the site file.")
