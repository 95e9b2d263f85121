"""Method `cdi-upload`: the disk is sent to CDI's upload proxy and read back from its claim by a Job.

What travels is a qcow2 of the data alone; for Block claims the raw bytes. CDI's answer proves nothing.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterator
from functools import partial
from mmap import PAGESIZE, mmap
from typing import Any

from migrate.journal import Step
from migrate.model import Evidence, Mismatch, PlannedDisk, Refused, Unfinished
from migrate.target import live
from migrate.target.live import ClusterTarget, Object
from migrate.target.proxy import ASYNC, UPLOAD, Proxy
from migrate.target.quantity import to_bytes
from migrate.transfer import _stream
from migrate.transfer._bytes import Opened
from migrate.transfer._claims import (
    CDI,
    IMMEDIATE,
    PHASE,
    Unverifiable,
    annotated,
    annotation,
    check,
    discard,
    manifest,
    name_of,
    present,
    read_back,
    there,
)
from migrate.transfer._digest import BLOCK, Tree, zero_digest
from migrate.transfer._nbd import Connection

__all__ = ["OPENS", "TARGET", "check", "discard", "move", "present", "unfit"]

TARGET, OPENS = ClusterTarget, True
ANNOTATIONS = {f"{CDI}upload.target": "", f"{CDI}contentType": "kubevirt", **IMMEDIATE}
READY = f"{CDI}pod.ready"
ZEROES = bytes(1 << 20)
WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds between tries
SENDS = 2  # how often a disk is sent until it is the storage that is to blame
# CDI unpacks what begins so, also raw data (pkg/image/filefmt.go).
PACKED = {0: (b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")}
# CDI, or qemu-img by which it has everything looked at, takes for an image what has these at these offsets.
IMAGES = {
    0: (
        *(b"QFI\xfb", b"KDMV", b"COWD", b"# Disk DescriptorFile", b"conectix", b"vhdxfile", b"LUKS\xba\xbe\0\1"),
        *(b"QED\0", b"WithoutFreeSpace", b"WithouFreSpacExt", b"Bochs Virtual HD Image", b"#!/bin/sh\n#V2.0 Format"),
    ),
    0x40: (b"\x7f\x10\xda\xbe",),
}

Progress = Callable[[str, int, int], None]


def unfit(disk: PlannedDisk, cluster: ClusterTarget | None) -> str | None:
    """Why this method cannot serve a disk, None where it can."""
    if disk.path is None or not os.path.isabs(disk.path):
        return "the disk has no file or device that can be read here"
    if disk.bytes is None:
        return "the size of the disk is unknown; give it under `sizes` in the site file"
    return None


def move(
    opened: Opened,
    disk: PlannedDisk,
    cluster: ClusterTarget,
    step: Step,
    progress: Progress | None = None,
    *,
    raw: bool = False,
) -> Evidence:
    """Sends a disk and proves what arrived; `progress` gets "copy" and the bytes dealt with.

    With `raw` its bytes are sent as they are, wherever CDI takes them so. Raises Unfinished where running again goes
    on, Mismatch where the claim differs from the source even when it was sent anew, and Refused where a claim is in
    the way.
    """
    if disk.bytes is None or opened.size != disk.bytes + -disk.bytes % 512:
        raise Refused(f"{disk.path} has {opened.size} bytes and the plan says {disk.bytes}: plan again")
    for _ in range(SENDS):
        opened.check()
        started = time.monotonic()
        claim, sent = _sent(opened, disk, cluster, step, raw, progress)
        copied = time.monotonic()
        problem, root, unverified = _proof(opened, disk, cluster, sent)
        if problem is None:
            break
        discard(disk, cluster, step, f"{problem}: the disk is sent anew")
    else:
        raise Mismatch(f"{problem}, also when it is sent anew: check the storage and apply again")
    _still(opened, disk, cluster, step)
    return Evidence(
        vm=step.vm,
        disk=disk.name,
        namespace=disk.namespace,
        claim=disk.claim,
        method="cdi-upload-raw" if raw else "cdi-upload",
        bytes=opened.size,
        data=sent.data,
        source=sent.root,
        read_back=root,
        copy_seconds=round(copied - started, 3),
        read_back_seconds=round(time.monotonic() - copied, 3),
        check=cluster.check_command(step.plan),
        uid=claim["metadata"]["uid"],
        unverified=unverified,
    )


def _proof(opened: Opened, disk: PlannedDisk, cluster: ClusterTarget, sent: Tree) -> tuple[Mismatch | None, str, str]:
    """What is wrong with the claim, the root that was read back, and why none could be."""
    try:
        found = read_back(cluster, disk, opened.size)
    except Unverifiable as reason:
        return None, "", str(reason)
    return found.problem(name_of(disk), sent), found.root or "", ""


def _still(opened: Opened, disk: PlannedDisk, cluster: ClusterTarget, step: Step) -> None:
    """Voids the step unless the source stood still."""
    try:
        opened.check()
    except Unfinished as error:
        discard(disk, cluster, step, str(error))
        raise


def _sent(
    opened: Opened, disk: PlannedDisk, cluster: ClusterTarget, step: Step, raw: bool, progress: Progress | None
) -> tuple[Object, Tree]:
    """The claim with the whole disk sent to it, by this run or by an earlier one, and the tree of what was sent."""
    claim = _claim(disk, cluster, step)
    if annotation(claim, PHASE) == "Succeeded" and (step.sent or ("",))[0] != claim["metadata"]["uid"]:
        discard(disk, cluster, step, "an upload whose end was not seen is on the claim: the disk is sent anew")
        claim = _claim(disk, cluster, step)
    if step.sent is None or step.sent[0] != claim["metadata"]["uid"]:
        tree = _upload(opened, disk, cluster, step, raw, progress)
        claim = there(cluster, disk)
        zero = {zero_digest(length) for length in (BLOCK, opened.size % BLOCK)}
        digests = {index: value for index, value in enumerate(tree.digests) if value not in zero}
        step.send(claim["metadata"]["uid"], tree.data, digests)
    tree = Tree.of(opened.size, step.done)
    tree.data = step.sent[1]
    return claim, tree


def _claim(disk: PlannedDisk, cluster: ClusterTarget, step: Step) -> Object:
    return live.make(cluster, step.journal, step.vm, annotated(manifest(cluster, disk), ANNOTATIONS))


def _upload(
    opened: Opened, disk: PlannedDisk, cluster: ClusterTarget, step: Step, raw: bool, progress: Progress | None
) -> Tree:
    """Sends the disk from its first byte on until CDI has taken it; the tree of what was sent."""
    cluster.wait(lambda: _ready(disk, cluster), lambda: _not_ready(disk, cluster))
    body = _body(opened, disk, cluster, raw, progress)
    for wait in (*WAITS, None):
        cluster.wait(lambda: _ready(disk, cluster), lambda: _not_ready(disk, cluster))
        problem = _tried(opened, disk, cluster, body)
        if problem is None:
            break
        if wait is None:
            raise Unfinished(f"the upload to {name_of(disk)} failed {len(WAITS) + 1} times: {problem}; run again")
        cluster.pause(wait)
        if annotation(there(cluster, disk), PHASE) in ("Succeeded", "Failed"):
            # CDI has taken a part for the whole, and takes no second upload.
            discard(disk, cluster, step, f"{problem}: the disk is sent anew")
            _claim(disk, cluster, step)
    return body.tree


def _body(
    opened: Opened, disk: PlannedDisk, cluster: ClusterTarget, raw: bool, progress: Progress | None
) -> _stream.Body:
    """What is sent: raw bytes for a Block claim or when asked, but for a disk all zero, or one that CDI converts."""
    told = None if progress is None else partial(progress, "copy")
    behind = 0
    if raw or _is_block(disk, cluster):
        body = _stream.raw(opened.uri, throttle=opened.throttle, progress=told)
        if not body.blank() and not _begins(opened, PACKED, IMAGES):
            return body
    if _is_block(disk, cluster):
        behind = _behind(there(cluster, disk), opened.size)
    return _stream.qcow2(opened.uri, behind=behind, throttle=opened.throttle, progress=told)


def _tried(opened: Opened, disk: PlannedDisk, cluster: ClusterTarget, body: _stream.Body) -> str | None:
    """Sends the body once; why another try may help, None where CDI has put it onto the claim."""
    before = _restarts(there(cluster, disk))
    if problem := _post(disk, cluster, cluster.proxy, body):
        return problem
    problem = cluster.wait(lambda: _taken(disk, cluster, before), lambda: "", patience=float("inf")) or None
    if problem and not _is_block(disk, cluster) and _begins(opened, IMAGES):
        raise Refused(
            f"{name_of(disk)}: the guest's disk begins as an image file does, and CDI takes its file for one and fails "
            f"({problem}): `undo`, and plan again with volumeMode Block for this disk in the site file"
        )
    return problem


def _is_block(disk: PlannedDisk, cluster: ClusterTarget) -> bool:
    return manifest(cluster, disk)["spec"].get("volumeMode") == "Block"


def _post(disk: PlannedDisk, cluster: ClusterTarget, proxy: Proxy, body: _stream.Body) -> str | None:
    """Sends the body once, with a token of its own; why another try may help, None where CDI has taken it."""
    import httpx2

    authorization = {"Authorization": f"Bearer {_token(disk, cluster)}"}
    behind = 0 if body.tables or not _is_block(disk, cluster) else _behind(there(cluster, disk), body.length)
    length = str(body.length + behind)
    headers = {**authorization, "Content-Length": length, "Content-Type": "application/octet-stream"}
    ended = False

    def pieces() -> Iterator[memoryview | bytes]:
        nonlocal ended
        yield from body
        for start in range(0, behind, len(ZEROES)):
            yield ZEROES[: behind - start]
        ended = True

    try:
        with proxy.client() as client:
            offered = client.head(proxy.url + ASYNC, headers=authorization).status_code == 200
            answer = client.post(proxy.url + (ASYNC if offered else UPLOAD), content=pieces(), headers=headers)
    except (httpx2.HTTPError, ssl.SSLError) as error:
        return f"the connection to the upload proxy broke ({error})"
    told = f"CDI answered {answer.status_code}: {' '.join(answer.text.split())[:300]}"
    if answer.status_code == 400:
        todo = "where the claim is too small, `undo`, ask for more in claims.yaml, and apply again"
        raise Unfinished(f"{name_of(disk)}: {told}; {todo}")
    return None if answer.status_code == 200 and ended else told


def _behind(claim: Object, size: int) -> int:
    """How many zeroes go behind a disk, so that nothing of what a device held before is left at its end."""
    return max(0, to_bytes(claim["status"]["capacity"]["storage"]) - size)


def _token(disk: PlannedDisk, cluster: ClusterTarget) -> str:
    """A token for one upload to the claim: CDI looks at it when the request comes."""
    from lightkube.generic_resource import create_namespaced_resource

    kind = create_namespaced_resource(
        "upload.cdi.kubevirt.io", "v1beta1", "UploadTokenRequest", "uploadtokenrequests", verbs=["post"]
    )
    metadata = {"name": disk.claim, "namespace": disk.namespace}
    made = cluster.create(kind.from_dict({"metadata": metadata, "spec": {"pvcName": disk.claim}}), disk.namespace)
    token: Any = (made.get("status") or {}).get("token")
    if not token:
        raise Unfinished(f"CDI gave no token for the upload to {name_of(disk)}: see that cdi-apiserver runs; run again")
    return token


def _ready(disk: PlannedDisk, cluster: ClusterTarget) -> bool | None:
    claim = there(cluster, disk)
    return True if annotation(claim, READY) == "true" or annotation(claim, PHASE) == "Succeeded" else None


def _not_ready(disk: PlannedDisk, cluster: ClusterTarget) -> str:
    """Why CDI does not take uploads to the claim, as far as it tells."""
    claim = there(cluster, disk)
    phase = claim["status"].get("phase")
    if phase != "Bound":
        return f"claim {name_of(disk)} is {phase} and not bound: see `kubectl describe` of it"
    told = _message(claim) or f"pod phase {annotation(claim, PHASE) or 'none'}"
    return f"CDI's upload server for {name_of(disk)} is not ready ({told}): see that CDI runs"


def _taken(disk: PlannedDisk, cluster: ClusterTarget, restarts: int) -> str | None:
    """Nothing while CDI works on what was sent, then why it failed, or an empty text."""
    claim = there(cluster, disk)
    phase = annotation(claim, PHASE)
    if phase == "Succeeded":
        return ""
    if phase == "Failed" or _restarts(claim) > restarts:
        return _message(claim) or "CDI could not put onto it what was sent"
    return None


def _message(claim: Object) -> str:
    """What CDI tells of its pod in one line: of a log, its end."""
    return " ".join(annotation(claim, f"{CDI}condition.running.message").split())[-300:]


def _restarts(claim: Object) -> int:
    return int(annotation(claim, f"{CDI}pod.restarts") or 0)


def _begins(opened: Opened, *magics: dict[int, tuple[bytes, ...]]) -> bool:
    """Whether the guest's disk has one of the magic bytes at its beginning."""
    buffer = mmap(-1, PAGESIZE)
    with Connection(opened.uri) as connection:
        connection.pread(0, buffer, 0, min(PAGESIZE, opened.size))
    return any(buffer[at : at + 64].startswith(found) for each in magics for at, found in each.items())
