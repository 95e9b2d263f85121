"""A double of CDI's DataVolumes: what its webhook refuses, the claims they become, and imports into those."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.cdi import (
    ANNOTATION,
    CONTENT,
    IMMEDIATE,
    OVERHEAD,
    PHASE,
    READY,
    TARGET,
    NoCapacity,
    Server,
    finish,
    store,
)
from cluster.csi import Driver
from cluster.wire import Answer, Events, Object, Request, overtaken
from lightkube import ApiError
from lightkube.generic_resource import create_global_resource, create_namespaced_resource
from lightkube.resources.core_v1 import ConfigMap, PersistentVolumeClaim, Secret
from lightkube.types import PatchType
from lightkube.utils.quantity import parse_quantity

DATA_VOLUME = create_namespaced_resource("cdi.kubevirt.io", "v1beta1", "DataVolume", "datavolumes")
PROFILE = create_global_resource("cdi.kubevirt.io", "v1beta1", "StorageProfile", "storageprofiles")
VALIDATE = "/datavolume-validate"
ADOPTION, POPULATED = f"{ANNOTATION}allowClaimAdoption", f"{ANNOTATION}storage.populatedFor"
MIB = 1 << 20
PASSED_ON = (IMMEDIATE, f"{ANNOTATION}storage.pod.retainAfterCompletion", f"{ANNOTATION}storage.usePopulator")
TRIES_APART = 0.3


class Imports:
    """`origins` says which image a registry's URL stands for, or an oVirt engine's URL with "#" and the disk's id."""

    def __init__(self, events: Events, driver: Driver, root: Path) -> None:
        self.events, self.client, self.driver, self.root = events, events.client, driver, root
        self.origins: dict[str, Path] = {}
        self._busy: set[str] = set()
        events.follow(DATA_VOLUME, self._volume)
        events.follow(PersistentVolumeClaim, self._claim)

    @property
    def routes(self) -> dict[str, Answer]:
        return {VALIDATE: self._validate}

    # The webhook.

    def _validate(self, request: Request) -> None:
        review = json.loads(b"".join(request.body()))["request"]
        message = self._refusal(review["object"], review.get("oldObject"))
        answer: Object = {"uid": review["uid"], "allowed": message is None}
        if message:
            answer["status"] = {"message": message, "code": 422, "reason": "Invalid"}
        request.send_json(200, {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer})

    def _refusal(self, volume: Object, old: Object | None) -> str | None:
        if old:
            return None if volume["spec"] == old["spec"] else "Cannot update DataVolume Spec"
        spec, metadata = volume["spec"], volume["metadata"]
        kinds = [kind for kind in ("pvc", "storage") if spec.get(kind) is not None]
        if not kinds:
            return "Missing Data volume PVC"
        if len(kinds) > 1:
            return "Duplicate storage definition, both target storage and target pvc defined"
        size = (spec[kinds[0]].get("resources") or {}).get("requests", {}).get("storage")
        if size is None:
            return f"{kinds[0].upper()} size is missing"
        if parse_quantity(size) < MIB:
            return f"{kinds[0].upper()} size should be at least 1MiB"
        modes = spec[kinds[0]].get("accessModes") or []
        if kinds == ["pvc"] and len(modes) != 1:
            return "PVC multiple accessModes" if modes else "at least 1 access mode is required"
        if message := _source_refusal(spec):
            return message
        try:
            claim = self.client.get(PersistentVolumeClaim, metadata["name"], namespace=metadata["namespace"])
        except ApiError:
            return None
        if self._adopts(metadata.get("annotations") or {}, claim, metadata["name"]):
            return None
        return f"Destination PVC {metadata['namespace']}/{metadata['name']} already exists"

    def _adopts(self, annotations: dict[str, str], claim: PersistentVolumeClaim, name: str) -> bool:
        marks = claim.metadata.annotations or {}
        return annotations.get(ADOPTION) == "true" or marks.get(ADOPTION) == "true" or marks.get(POPULATED) == name

    # The controllers.

    def _claim(self, event: str, claim: PersistentVolumeClaim) -> None:
        for owner in claim.metadata.ownerReferences or []:
            if owner.kind == "DataVolume" and event != "DELETED":
                volume = self.client.get(DATA_VOLUME, owner.name, namespace=claim.metadata.namespace)
                self._volume("MODIFIED", volume)

    def _volume(self, event: str, volume: Any) -> None:
        metadata = volume.metadata
        known = (volume.status or {}).get("phase")
        if event == "DELETED" or metadata.deletionTimestamp or known == "Succeeded":
            return
        try:
            claim = self.client.get(PersistentVolumeClaim, metadata.name, namespace=metadata.namespace)
        except ApiError as error:
            if error.status.code != 404:
                raise
            self.client.create(PersistentVolumeClaim.from_dict(self._manifest(volume)))
            return
        owned = any(owner.uid == metadata.uid for owner in claim.metadata.ownerReferences or [])
        if not owned:
            if self._adopts(metadata.annotations or {}, claim, metadata.name):
                patch = {"metadata": {"ownerReferences": [_owner(volume)]}}
                self.client.patch(PersistentVolumeClaim, claim.metadata.name, patch, namespace=metadata.namespace)
                self._say(volume, "Succeeded", progress="100.0%")
            return
        self._go_on(volume, claim)

    def _go_on(self, volume: Any, claim: PersistentVolumeClaim) -> None:
        """Says how far it is, and begins the import once the claim is there."""
        marks = claim.metadata.annotations or {}
        source = volume.spec["source"]
        pod = marks.get(PHASE)
        if pod == "Succeeded":
            self._say(volume, "Succeeded", progress="100.0%")
        elif claim.status.phase != "Bound":
            waits = self.driver.waits_for_consumer(claim)
            if waits and IMMEDIATE in marks:
                self.driver.select(claim)
            self._say(volume, "WaitForFirstConsumer" if waits and IMMEDIATE not in marks else "Pending")
        elif "upload" in source:
            ready = pod == "Running" and marks.get(READY) == "true"
            self._say(volume, "UploadReady" if ready else "UploadScheduled")
        elif claim.metadata.uid not in self._busy:
            self._busy.add(claim.metadata.uid)
            threading.Thread(target=overtaken()(self._import), args=(volume, claim), daemon=True).start()

    def _manifest(self, volume: Any) -> Object:
        """The claim that a DataVolume asks for."""
        spec, marks = volume.spec, volume.metadata.annotations or {}
        annotations = {key: marks[key] for key in PASSED_ON if key in marks}
        annotations[CONTENT] = spec.get("contentType") or "kubevirt"
        if "upload" in spec["source"]:
            annotations[TARGET] = ""
        metadata = {"name": volume.metadata.name, "namespace": volume.metadata.namespace, "annotations": annotations}
        metadata["labels"] = {"app": "containerized-data-importer"} | (volume.metadata.labels or {})
        metadata["ownerReferences"] = [_owner(volume)]
        claim = dict(spec.get("pvc") or self._filled(dict(spec["storage"])))
        return {"metadata": metadata, "spec": claim}

    def _filled(self, storage: Object) -> Object:
        """What the StorageProfile says where the DataVolume does not, and the size with the file system's overhead."""
        if "volumeMode" not in storage or "accessModes" not in storage:
            profile = self.client.get(PROFILE, storage["storageClassName"]).status["claimPropertySets"]
            wanted = storage.get("volumeMode")
            modes = next(each for each in profile if wanted in (None, each["volumeMode"]))
            storage = {"volumeMode": modes["volumeMode"], "accessModes": modes["accessModes"][:1]} | storage
        if storage["volumeMode"] == "Filesystem":
            size = float(parse_quantity(storage["resources"]["requests"]["storage"])) * (1 + OVERHEAD)
            storage["resources"] = {"requests": {"storage": str(-(-int(size) // MIB) * MIB)}}
        return storage

    def _import(self, volume: Any, claim: PersistentVolumeClaim) -> None:
        """Tries until it succeeds or the DataVolume is gone, as an importer pod that is started again and again."""
        name, namespace, restarts = volume.metadata.name, volume.metadata.namespace, 0
        try:
            self._say(volume, "ImportScheduled")
            while True:
                self._say(volume, "ImportInProgress", progress="N/A", restartCount=restarts)
                try:
                    self._fill(volume, claim)
                    break
                except (OSError, EOFError, ValueError, NoCapacity, ApiError) as error:
                    restarts += 1
                    self._say(volume, "ImportInProgress", f"Unable to process data: {error}", restartCount=restarts)
                time.sleep(TRIES_APART)
            marks = {"metadata": {"annotations": {PHASE: "Succeeded"}, "uid": claim.metadata.uid}}
            self.client.patch(PersistentVolumeClaim, name, marks, namespace=namespace)
        finally:
            self._busy.discard(claim.metadata.uid)

    def _fill(self, volume: Any, claim: PersistentVolumeClaim) -> None:
        (kind, source), *_ = volume.spec["source"].items()
        target = self.driver.volumes[claim.metadata.uid]
        server = Server(claim, target, self.root / f"import-{claim.metadata.uid}")
        if kind == "blank":
            if target.mode == "Filesystem":
                target.image.touch()
            finish(server, False)
        elif kind == "pvc":
            shutil.copyfile(self.driver.volume(source["namespace"], source["name"]).image, target.image)
            finish(server, False)
        else:
            with self._open(kind, source, volume.metadata.namespace) as origin:
                finish(server, store(server, _pieces(origin), False))

    def _open(self, kind: str, source: Object, namespace: str) -> Any:
        if kind == "http":
            return self._http(source, namespace)
        name = f"{source['url']}#{source['diskId']}" if kind == "imageio" else source["url"]
        if name not in self.origins:
            raise OSError(f"no answer from {name}")
        return open(self.origins[name], "rb")

    def _http(self, source: Object, namespace: str) -> Any:
        request = urllib.request.Request(source["url"])
        if name := source.get("secretRef"):
            data = self.client.get(Secret, name, namespace=namespace).data
            user, password = (base64.b64decode(data[key]) for key in ("accessKeyId", "secretKey"))
            request.add_header("Authorization", "Basic " + base64.b64encode(user + b":" + password).decode())
        for name in source.get("secretExtraHeaders") or []:
            for value in self.client.get(Secret, name, namespace=namespace).data.values():
                request.add_header(*base64.b64decode(value).decode().split(": ", 1))
        for header in source.get("extraHeaders") or []:
            request.add_header(*header.split(": ", 1))
        authorities = None
        if name := source.get("certConfigMap"):
            authorities = "\n".join(self.client.get(ConfigMap, name, namespace=namespace).data.values())
        context = ssl.create_default_context(cadata=authorities)
        handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        return urllib.request.build_opener(*handlers).open(request, timeout=20)

    def _say(self, volume: Any, phase: str, problem: str = "", **more: Any) -> None:
        running = {"type": "Running", "status": "True" if phase == "ImportInProgress" and not problem else "False"}
        if problem:
            running |= {"reason": "Error", "message": problem}
        bound = {"type": "Bound", "status": "False" if phase in ("Pending", "WaitForFirstConsumer") else "True"}
        ready = {"type": "Ready", "status": str(phase == "Succeeded")}
        status = {"phase": phase, "claimName": volume.metadata.name, "conditions": [bound, ready, running], **more}
        if all((volume.status or {}).get(key) == value for key, value in status.items()):
            return
        where = {"namespace": volume.metadata.namespace, "patch_type": PatchType.MERGE}
        self.client.patch(DATA_VOLUME, volume.metadata.name, {"status": status}, **where)


def _source_refusal(spec: Object) -> str | None:
    source = spec.get("source")
    if source is None:
        return None if spec.get("sourceRef") else "Data volume should have either Source or SourceRef"
    if len(source) != 1:
        return "Multiple dataVolume sources" if source else "Missing dataVolume source"
    ((kind, fields),) = source.items()
    schemes = {"http": ("http", "https"), "imageio": ("http", "https"), "registry": ("docker", "oci-archive")}
    if kind in schemes and "imageStream" not in fields:
        scheme, found, _ = (fields.get("url") or "").partition("://")
        if not found or scheme not in schemes[kind]:
            return f"spec.source.{kind} Invalid URL {fields.get('url')}"
    if kind == "imageio":
        if not fields.get("secretRef") or not fields.get("diskId"):
            return "spec.source.Imageio source Imageio is not valid"
        if not fields.get("certConfigMap") and not fields.get("insecureSkipVerify"):
            return "spec.source.Imageio source Imageio requires CertConfigMap or InsecureSkipVerify"
    return None


def _owner(volume: Any) -> Object:
    owner = {"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "name": volume.metadata.name}
    return owner | {"uid": volume.metadata.uid, "controller": True, "blockOwnerDeletion": True}


def _pieces(file: Any) -> Iterator[bytes]:
    while piece := file.read(32 << 10):
        yield piece
