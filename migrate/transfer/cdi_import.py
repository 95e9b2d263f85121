"""Method `cdi-import`: CDI pulls the disk from where it is by itself, and no byte passes through here.

What arrived is read back and recorded; of a blank disk it is known what it has to be, of any other nothing is, so that
the result is unverified.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

from migrate.journal import Step
from migrate.model import Evidence, Mismatch, PlannedDisk, Unfinished
from migrate.target import live
from migrate.target.live import ClusterTarget, Object
from migrate.transfer._claims import (
    IMMEDIATE,
    Unverifiable,
    annotated,
    check,
    discard,
    manifest,
    name_of,
    present,
    read_back,
    there,
)
from migrate.transfer._digest import Tree

__all__ = ["OPENS", "TARGET", "check", "discard", "move", "present", "unfit"]

TARGET, OPENS = ClusterTarget, False
BLANK = "blank:"
TRIES = 3
UNKNOWN = "CDI pulled the disk itself, so that nothing here has seen what its source holds"

Progress = Callable[[str, int, int], None]


def unfit(disk: PlannedDisk, cluster: ClusterTarget | None) -> str | None:
    """Why this method cannot serve a disk, None where it can."""
    if _source(disk.path or "") is None:
        return "the disk is nowhere that CDI can pull it from: http(s), registry, imageio, claim, snapshot, or blank"
    if disk.bytes is None:
        return "the size of the disk is unknown; give it under `sizes` in the site file"
    return None


def _source(origin: str) -> Object | None:
    """The source of a DataVolume for an origin, None where CDI has none.

    Beside http(s) URLs: `docker://IMAGE`, `pvc://NAMESPACE/NAME`, `snapshot://NAMESPACE/NAME`, and for a disk of oVirt
    `imageio://ENGINE/DISK?secretRef=SECRET&certConfigMap=CONFIGMAP`.
    """
    if origin == BLANK:
        return {"blank": {}}
    try:
        parts = urlsplit(origin)
    except ValueError:  # a [ without a ], in what the source calls its image
        return None
    if parts.scheme in ("http", "https") and parts.hostname:
        return {"http": {"url": origin}}
    if parts.scheme == "docker" and parts.netloc:
        return {"registry": {"url": origin}}
    if parts.scheme == "imageio" and parts.netloc and parts.path.count("/") == 1 and (login := _login(parts.query)):
        return {"imageio": {"url": f"https://{parts.netloc}/ovirt-engine/api", "diskId": parts.path[1:], **login}}
    if parts.scheme in ("pvc", "snapshot") and parts.netloc and parts.path.count("/") == 1:
        return {parts.scheme: {"namespace": parts.netloc, "name": parts.path[1:]}}
    return None


def _login(query: str) -> Object | None:
    """The Secret with the engine's login and the ConfigMap with its authority, both of which CDI asks for."""
    names = dict(parse_qsl(query))
    return names if names.keys() == {"secretRef", "certConfigMap"} else None


def move(
    opened: None, disk: PlannedDisk, cluster: ClusterTarget, step: Step, progress: Progress | None = None
) -> Evidence:
    """Has CDI fill the claim and reads it back; `progress` gets "import" and the bytes that CDI tells of."""
    started = time.monotonic()
    made = live.make(cluster, step.journal, step.vm, volume(cluster, disk))
    cluster.wait(lambda: _done(cluster, disk, made, progress), lambda: "", patience=float("inf"))
    uid = there(cluster, disk)["metadata"]["uid"]
    imported = time.monotonic()
    size = disk.bytes or 0
    known = Tree.of(size, {}) if disk.path == BLANK else None
    root, unverified = "", "" if known else UNKNOWN
    try:
        found = read_back(cluster, disk, size)
    except Unverifiable as reason:
        unverified = str(reason)
    else:
        root = found.root or ""
        if found.root is None or (known and found.problem(name_of(disk), known)):
            discard(disk, cluster, step, "the claim differs from its source")
            raise Mismatch(f"{name_of(disk)} is not what its source is: look at the storage and apply again")
    return Evidence(
        vm=step.vm,
        disk=disk.name,
        namespace=disk.namespace,
        claim=disk.claim,
        method="cdi-import",
        bytes=size,
        data=0,
        source=known.root if known else "",
        read_back=root,
        copy_seconds=round(imported - started, 3),
        read_back_seconds=round(time.monotonic() - imported, 3),
        check=cluster.check_command(step.plan),
        uid=uid,
        unverified=unverified,
    )


def volume(cluster: ClusterTarget, disk: PlannedDisk) -> Object:
    """The DataVolume that makes the claim exactly as the plan has it."""
    claim = manifest(cluster, disk)
    metadata = {name: claim["metadata"][name] for name in ("name", "namespace", "labels") if name in claim["metadata"]}
    volume = {
        "apiVersion": "cdi.kubevirt.io/v1beta1",
        "kind": "DataVolume",
        "metadata": metadata,
        "spec": {"source": _source(disk.path or ""), "pvc": claim["spec"]},
    }
    return annotated(volume, IMMEDIATE)


def _done(cluster: ClusterTarget, disk: PlannedDisk, volume: Object, progress: Progress | None) -> bool | None:
    """Whether CDI has filled the claim; Unfinished where it cannot."""
    there = cluster.get("DataVolume", disk.namespace, disk.claim)
    if there is None or there["metadata"]["uid"] != volume["metadata"]["uid"]:
        raise Unfinished(f"DataVolume {name_of(disk)} was removed: run again")
    status = there.get("status") or {}
    if status.get("phase") == "Succeeded":
        return True
    told = next((each for each in status.get("conditions") or [] if each.get("type") == "Running"), {})
    if status.get("phase") == "Failed" or (status.get("restartCount") or 0) >= TRIES:
        raise Unfinished(
            f"CDI cannot import {name_of(disk)}: {told.get('message') or 'it does not say why'}; run again"
        )
    percent = str(status.get("progress", "")).removesuffix("%")
    if progress and disk.bytes and percent.replace(".", "", 1).isdigit():
        progress("import", int(disk.bytes * float(percent) / 100), 0)
    return None
