"""A claim of a cluster: made as the plan has it, waited for, and read back by a Job beside it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from migrate.journal import Step
from migrate.model import Evidence, Mismatch, PlannedDisk, Refused, Unfinished, short_hash
from migrate.target import live
from migrate.target.live import ClusterTarget, Late, Object, key_of, shown
from migrate.transfer._digest import BLOCK, Tree, zero_digest
from migrate.worker import SHOWN

CLAIM = "PersistentVolumeClaim"
CDI = "cdi.kubevirt.io/storage."
PHASE = f"{CDI}pod.phase"
IMMEDIATE = {f"{CDI}bind.immediate.requested": "true"}
ENDED = ("Succeeded", "Failed")
QEMU = 107  # the user and group that CDI and KubeVirt give disk images to
JOB_SECONDS = 3600  # what is left of a Job when its time has come is removed by the cluster
# Reasons for which a container that waits never starts without a person's help.
STUCK = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError")


class Unverifiable(Unfinished):
    """Nothing can run beside the claim, so what is on it stays unproved."""


@dataclass(slots=True)
class Found:
    """What a Job read on a claim.

    `digests` has the first digits of those of all blocks that are not zero, by index; None where they cannot be had.
    """

    size: int
    root: str | None
    tail: int | None
    digests: dict[int, str] | None = None

    def problem(self, claim: str, sent: Tree) -> Mismatch | None:
        """What is wrong with the claim, None where it holds what was sent and nothing else."""
        if self.root is None:
            return Mismatch(f"{claim} holds {self.size} bytes, the disk has {sent.size}: plan with a larger claim")
        if self.root != sent.root:
            return Mismatch(f"{claim} differs from the source{self._where(sent)}")
        if self.tail is not None:
            return Mismatch(f"{claim} has data at byte {self.tail}, behind the end of the disk")
        return None

    def _where(self, sent: Tree) -> str:
        digests = enumerate(sent.digests if self.digests is not None else [])
        bad = [index for index, value in digests if self._digest(index, sent) != value.hex()[:SHOWN]]
        more = f" and in {len(bad) - 1} more" if len(bad) > 1 else ""
        return f" in its block of {BLOCK >> 20} MiB at byte {bad[0] * BLOCK}{more}" if bad else ""

    def _digest(self, index: int, sent: Tree) -> str:
        length = min(BLOCK, sent.size - index * BLOCK)
        return (self.digests or {}).get(index) or zero_digest(length).hex()[:SHOWN]


def name_of(disk: PlannedDisk) -> str:
    """How a claim is spoken of."""
    return f"{disk.namespace}/{disk.claim}"


def manifest(cluster: ClusterTarget, disk: PlannedDisk) -> Object:
    """The plan's manifest of a disk's claim."""
    found = cluster.claims.get((disk.namespace, disk.claim))
    if found is None:
        raise Refused(f"the plan has no manifest of the claim {name_of(disk)}: plan again")
    return found


def annotated(item: Object, annotations: dict[str, str]) -> Object:
    """An object with further annotations."""
    metadata = item["metadata"]
    return {**item, "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), **annotations}}}


def annotation(item: Object, name: str) -> str:
    """An annotation of an object, or nothing."""
    return (item["metadata"].get("annotations") or {}).get(name, "")


def there(cluster: ClusterTarget, disk: PlannedDisk) -> Object:
    """The claim as it is; Unfinished where it is gone."""
    found = cluster.get(CLAIM, disk.namespace, disk.claim)
    if found is None:
        raise Unfinished(f"claim {name_of(disk)} was removed: run again to begin anew")
    return found


def present(disk: PlannedDisk, cluster: ClusterTarget, evidence: Evidence) -> bool:
    """Whether the claim is there and still the one that the evidence is of."""
    found = cluster.get(CLAIM, disk.namespace, disk.claim)
    return found is not None and found["metadata"]["uid"] == evidence.uid


def discard(disk: PlannedDisk, cluster: ClusterTarget, step: Step, reason: str) -> None:
    """Voids a step and removes the claim and what filled it, where they are the plan's."""
    step.void(reason)
    for kind in ("DataVolume", CLAIM):
        made = step.journal.made(cluster.name, (kind, disk.namespace, disk.claim))
        if made and live.remove(cluster, step.journal, made):
            raise Refused(f"{shown(made.key)} is not the work of this plan any more: move it away and run again")


def check(
    disk: PlannedDisk, cluster: ClusterTarget, evidence: Evidence, sent: dict[int, bytes] | None = None
) -> Mismatch | None:
    """What is wrong with a claim now, None where it still holds what the evidence says; it is read again whole.

    With the digests `sent` (journal.digests) the first bad block is named.
    """
    claim = name_of(disk)
    if not present(disk, cluster, evidence):
        return Mismatch(f"{claim} is gone, or another claim has its name: see whose it is, and apply again")
    if not (evidence.source or evidence.read_back):
        raise Unverifiable(evidence.unverified)
    found = read_back(cluster, disk, evidence.bytes)
    if found.root == (evidence.source or evidence.read_back) and found.tail is None:
        return None
    known = Tree.of(evidence.bytes, sent) if evidence.source and sent is not None else None
    problem = (known and found.problem(claim, known)) or f"{claim} differs from what the evidence says"
    return Mismatch(f"{problem}; `undo` and apply again to send it anew")


def read_back(cluster: ClusterTarget, disk: PlannedDisk, size: int) -> Found:
    """What lies on a claim, read by a Job that mounts it; Unverifiable where none can run."""
    if cluster.worker_image is None:
        raise Unverifiable("there is no image for the Job that reads the claim back: run again with --worker-image")
    job = _job(cluster, manifest(cluster, disk)["spec"].get("volumeMode", "Filesystem"), disk, size)
    key = key_of(job)
    end(cluster, key)
    try:
        cluster.apply(job, MARK_OF_JOBS)
    except Refused as refusal:
        raise Unverifiable(f"{shown(key)}, which reads the claim back, cannot be made: {refusal}") from None
    try:
        pod = _finished(cluster, key)
        return _found(cluster, pod)
    finally:
        cluster.delete(*key)


MARK_OF_JOBS = "reads-back"


def job_of(namespace: str, claim: str) -> tuple[str, str, str]:
    """What the Job that reads a claim back is called."""
    return "Job", namespace, f"kubevirt-migrate-{short_hash(namespace, claim)}"


def end(cluster: ClusterTarget, key: tuple[str, str, str]) -> None:
    """Removes a Job of an earlier run with its pods."""
    cluster.delete(*key)
    cluster.wait(
        lambda: True if cluster.get(*key) is None and not _pods(cluster, key) else None,
        lambda: f"{shown(key)} of an earlier run does not end",
    )


def _pods(cluster: ClusterTarget, key: tuple[str, str, str]) -> list[Object]:
    return cluster.labelled("Pod", key[1], {"job-name": key[2]})


def _finished(cluster: ClusterTarget, key: tuple[str, str, str]) -> Object:
    """The pod of the Job once it has ended; Unverifiable where it does not start, or is taken away."""
    try:
        cluster.wait(lambda: _pod(cluster, key, "Running", *ENDED), lambda: _waiting(cluster, key))
    except Late as reason:
        raise Unverifiable(str(reason)) from None
    return cluster.wait(lambda: _pod(cluster, key, *ENDED), lambda: "", patience=float("inf"))


def _pod(cluster: ClusterTarget, key: tuple[str, str, str], *phases: str) -> Object | None:
    """The pod of the Job when it is in one of the phases."""
    pods = _pods(cluster, key)
    for pod in pods:
        if pod["status"].get("phase") in phases:
            return pod
        if stuck := _stuck(pod):
            raise Unverifiable(f"the Job that reads the claim back cannot start: {stuck}")
    job = cluster.get(*key)
    conditions = ((job or {}).get("status") or {}).get("conditions") or []
    if not pods and (job is None or any(each["type"] == "Failed" for each in conditions)):
        raise Unverifiable("the Job that reads the claim back was ended by the cluster: see why, and run again")
    return None


def _stuck(pod: Object) -> str | None:
    for status in pod["status"].get("containerStatuses") or []:
        waiting = (status.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in STUCK:
            return f"{waiting['reason']}: {waiting.get('message', '')}; correct --worker-image and run again"
    return None


def _waiting(cluster: ClusterTarget, key: tuple[str, str, str]) -> str:
    """Why a Job's pod does not run, as far as the cluster tells."""
    told = [
        condition.get("message", "")
        for pod in _pods(cluster, key)
        for condition in pod["status"].get("conditions") or []
        if condition.get("status") == "False"
    ]
    return f"the Job that reads the claim back does not start ({'; '.join(filter(None, told)) or 'it has no pod'})"


def _found(cluster: ClusterTarget, pod: Object) -> Found:
    """What the worker left as its termination message, with the digests from its log where that can be read."""
    ended = ((pod["status"].get("containerStatuses") or [{}])[0].get("state") or {}).get("terminated") or {}
    try:
        told: dict[str, Any] = json.loads(ended.get("message") or "")
        if "problem" in told:
            raise Unfinished(f"the claim cannot be read back: {told['problem']}; run again")
        found = Found(told["size"], told["root"], told["tail"])
    except (ValueError, KeyError, TypeError):
        reason = f"exit code {ended.get('exitCode')}"
        raise Unverifiable(f"the Job that reads the claim back has no result ({reason}): mend --worker-image") from None
    metadata = pod["metadata"]
    with suppress(Refused, Unfinished):
        lines = (line.split() for line in cluster.log(metadata["namespace"], metadata["name"]))
        found.digests = {int(line[0]): line[1] for line in lines if len(line) == 2 and line[0].isdigit()}
    return found


def _job(cluster: ClusterTarget, mode: str, disk: PlannedDisk, size: int) -> Object:
    """The Job that reads a claim back as an ordinary user, in namespaces of any pod security."""
    place = (
        {"volumeDevices": [{"name": "claim", "devicePath": "/dev/claim"}]}
        if mode == "Block"
        else {"volumeMounts": [{"name": "claim", "mountPath": "/data", "readOnly": True}]}
    )
    container = {
        "name": "worker",
        "image": cluster.worker_image,
        "command": ["python3", "-m", "migrate.worker"],
        "args": [f"--size={size}"],
        "resources": {"requests": {"cpu": "500m", "memory": "128Mi"}, "limits": {"cpu": "4", "memory": "512Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **place,
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": QEMU,
            "runAsGroup": QEMU,
            "fsGroup": QEMU,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": disk.claim, "readOnly": True}}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job_of(disk.namespace, disk.claim)[2], "namespace": disk.namespace},
        "spec": {"backoffLimit": 0, "ttlSecondsAfterFinished": JOB_SECONDS, "template": {"spec": pod}},
    }
