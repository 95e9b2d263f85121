"""The doubles behave as the parts of a cluster do that they stand for."""

from __future__ import annotations

import base64
import bz2
import gzip
import lzma
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cluster.cdi import IMMEDIATE, PHASE, READY, TARGET, UploadFault
from cluster.datavolumes import ADOPTION, DATA_VOLUME
from cluster.double import TOKEN_REQUEST, Cluster
from cluster.faults import ApiFault
from cluster.wire import Request, certificate, serving
from lightkube import ApiError, Client
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota, Secret
from lightkube.types import CascadeType, PatchType

from migrate.target import api

MIB = 1 << 20
DATA = bytes(range(256)) * 4096 + bytes(MIB) + b"end" * 1000 + bytes(MIB // 2 - 3000)


def manifest(name: str, mode: str, kind: str, annotations: dict[str, str]) -> PersistentVolumeClaim:
    spec = {"accessModes": ["ReadWriteOnce"], "volumeMode": mode, "storageClassName": kind}
    spec["resources"] = {"requests": {"storage": "8Mi"}}
    metadata = {"name": name, "namespace": "vms", "annotations": annotations}
    return PersistentVolumeClaim.from_dict({"metadata": metadata, "spec": spec})


def claim(
    cluster: Cluster, name: str = "web", mode: str = "Filesystem", kind: str = "fast", **annotations: str
) -> None:
    cluster.client.create(manifest(name, mode, kind, annotations))


def claims(cluster: Cluster) -> list[PersistentVolumeClaim]:
    return list(cluster.client.list(PersistentVolumeClaim, namespace="vms"))


def found(cluster: Cluster, name: str = "web") -> PersistentVolumeClaim:
    return cluster.client.get(PersistentVolumeClaim, name, namespace="vms")


def until(cluster: Cluster, key: str, value: str, name: str = "web") -> None:
    cluster.wait(lambda: (found(cluster, name).metadata.annotations or {}).get(key) == value, f"{key}={value}")


def target(cluster: Cluster, mode: str = "Filesystem", kind: str = "fast") -> None:
    """A claim that is ready for an upload."""
    claim(cluster, mode=mode, kind=kind, **{TARGET: ""})
    until(cluster, READY, "true")


def token(cluster: Cluster, name: str = "web") -> str:
    wanted = {"metadata": {"name": name, "namespace": "vms"}, "spec": {"pvcName": name}}
    return cluster.client.create(TOKEN_REQUEST.from_dict(wanted)).status["token"]


def http(cluster: Cluster) -> httpx2.Client:
    context = ssl.create_default_context(cafile=str(cluster.authority))
    return httpx2.Client(verify=context, base_url=cluster.uploadproxy, trust_env=False, timeout=20)


def post(cluster: Cluster, body: Any, path: str = "/v1beta1/upload", method: str = "POST") -> httpx2.Response:
    with http(cluster) as client:
        return client.request(method, path, content=body, headers={"Authorization": f"Bearer {token(cluster)}"})


def test_claims_are_bound_and_their_volumes_end_with_them(cluster: Cluster) -> None:
    claim(cluster)
    cluster.wait(lambda: found(cluster).status.phase == "Bound", "a bound claim")
    assert found(cluster).status.capacity == {"storage": "8Mi"}
    folder = cluster.claim_path("vms", "web").parent
    assert folder.is_dir()
    cluster.client.delete(PersistentVolumeClaim, "web", namespace="vms")
    cluster.wait(lambda: not folder.exists(), "the end of the folder")


def test_a_claim_is_bound_to_the_volume_it_names(cluster: Cluster, tmp_path: Path) -> None:
    wanted = manifest("web", "Filesystem", "", {})
    wanted.spec.volumeName = "lun0"
    cluster.client.create(wanted)
    (tmp_path / "disk.img").write_bytes(DATA)
    spec = {"capacity": {"storage": "8Mi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": str(tmp_path)}}
    cluster.client.create(PersistentVolume.from_dict({"metadata": {"name": "lun0"}, "spec": spec}))
    cluster.wait(lambda: found(cluster).status.phase == "Bound", "a bound claim")
    assert cluster.claim_path("vms", "web").read_bytes() == DATA
    cluster.client.delete(PersistentVolumeClaim, "web", namespace="vms")
    cluster.wait(lambda: not cluster.driver.volumes, "the end of the claim")
    assert (tmp_path / "disk.img").exists()


@pytest.mark.parametrize("path", ["/v1beta1/upload", "/v1beta1/upload-async"])
@pytest.mark.parametrize("mode", ["Filesystem", "Block"])
@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_an_upload_arrives_on_the_claim(cluster: Cluster, tmp_path: Path, path: str, mode: str, form: str) -> None:
    target(cluster, mode)
    (tmp_path / "raw").write_bytes(DATA)
    subprocess.run(["qemu-img", "convert", "-O", form, tmp_path / "raw", tmp_path / "sent"], check=True)
    assert post(cluster, (tmp_path / "sent").read_bytes(), path).status_code == 200
    until(cluster, PHASE, "Succeeded")
    image = cluster.claim_path("vms", "web").read_bytes()
    assert image.startswith(DATA)
    assert not any(image[len(DATA) :])
    assert mode == "Filesystem" or len(image) == 8 * MIB


def test_a_token_is_asked_for_before_anything_else(cluster: Cluster) -> None:
    target(cluster)
    with http(cluster) as client:
        url = "/v1beta1/upload"
        assert client.post(url, content=DATA).status_code == 400
        assert client.post(url, content=DATA, headers={"Authorization": "Basic eDp5"}).status_code == 400
        assert client.post(url, content=DATA, headers={"Authorization": "Bearer a.b.c"}).status_code == 401
        assert client.post("/v2/upload", content=DATA).status_code == 404
    cluster.uploads.tokens.seconds = -1
    assert post(cluster, DATA).status_code == 401


def test_a_token_counts_when_the_upload_starts(cluster: Cluster) -> None:
    target(cluster)
    cluster.uploads.tokens.seconds = 0.5

    def slow() -> Iterator[bytes]:
        yield DATA[:1000]
        time.sleep(0.6)
        yield DATA[1000:]

    assert post(cluster, slow()).status_code == 200
    assert cluster.claim_path("vms", "web").read_bytes().startswith(DATA)


def test_only_a_claim_that_is_ready_takes_an_upload(cluster: Cluster) -> None:
    cluster.uploads.ready_seconds = 0.3
    answer = post(cluster, DATA)
    told = "rejecting Upload Request for PVC web that doesn&#x27;t exist"
    assert (answer.status_code, answer.text) == (503, told)
    claim(cluster)
    answer = post(cluster, DATA)
    assert (answer.status_code, answer.text) == (503, "PVC web is not an upload target")
    cluster.client.delete(PersistentVolumeClaim, "web", namespace="vms")
    claim(cluster, kind="local", **{TARGET: ""})
    answer = post(cluster, DATA)
    assert (answer.status_code, answer.text) == (503, "timed out waiting for the condition")


def test_a_claim_takes_one_upload(cluster: Cluster) -> None:
    target(cluster)
    assert post(cluster, DATA).status_code == 200
    until(cluster, PHASE, "Succeeded")
    answer = post(cluster, DATA)
    assert (answer.status_code, "already finished uploading" in answer.text) == (503, True)


def test_a_second_upload_beside_the_first_is_sent_away(cluster: Cluster) -> None:
    target(cluster)
    statuses = []

    def slow() -> Iterator[bytes]:
        yield DATA[:1000]
        cluster.wait(lambda: cluster.uploads.seen and cluster.uploads.seen[0].received, "the first upload")
        statuses.append(post(cluster, DATA).status_code)
        yield DATA[1000:]

    assert post(cluster, slow()).status_code == 200
    assert statuses == [503]


def test_head_says_whether_uploads_may_be_asynchronous(cluster: Cluster) -> None:
    target(cluster)
    assert post(cluster, None, "/v1beta1/upload-async", "HEAD").status_code == 200
    assert post(cluster, None, "/v1beta1/upload", "HEAD").status_code == 404
    assert post(cluster, DATA, "/v1beta1/upload", "PUT").status_code == 404


@pytest.mark.parametrize("mode", ["Filesystem", "Block"])
@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_an_image_larger_than_the_claim_is_400(cluster: Cluster, tmp_path: Path, mode: str, form: str) -> None:
    target(cluster, mode)
    subprocess.run(["qemu-img", "create", "-q", "-f", form, tmp_path / "sent", "9M"], check=True)
    answer = post(cluster, (tmp_path / "sent").read_bytes())
    assert answer.status_code == 400
    assert "effective image size is larger than the reported available storage" in answer.text
    assert post(cluster, DATA).status_code == 200


def test_an_image_comes_in_a_form_too(cluster: Cluster) -> None:
    target(cluster)
    headers = {"Authorization": f"Bearer {token(cluster)}"}
    with http(cluster) as client:
        form = {"other": b"x", "file": DATA}
        assert client.post("/v1beta1/upload-form", files=form, headers=headers).status_code == 200
    assert cluster.claim_path("vms", "web").read_bytes().startswith(DATA)


def test_a_short_body_is_500(cluster: Cluster) -> None:
    target(cluster)
    assert post(cluster, DATA[:511]).status_code == 500
    assert post(cluster, DATA[:512]).status_code == 200


FORMATS = ("qcow2", "vmdk", "vdi", "vhdx", "vpc")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("packed", [False, True])
def test_formats_are_known_by_their_magic_bytes(cluster: Cluster, tmp_path: Path, form: str, packed: bool) -> None:
    target(cluster, "Block")
    (tmp_path / "raw").write_bytes(DATA)
    subprocess.run(["qemu-img", "convert", "-O", form, tmp_path / "raw", tmp_path / "sent"], check=True)
    data = (tmp_path / "sent").read_bytes()
    assert post(cluster, gzip.compress(data, 1) if packed else data).status_code == 200
    assert cluster.claim_path("vms", "web").read_bytes() == DATA.ljust(8 * MIB, b"\0")


def test_a_compressed_raw_image_is_taken_but_for_xz_of_zeros(cluster: Cluster) -> None:
    target(cluster)
    assert post(cluster, lzma.compress(bytes(MIB) + DATA)).status_code == 500
    assert post(cluster, b"\x28\xb5\x2f\xfd" + DATA).status_code == 500
    assert post(cluster, gzip.compress(bytes(MIB) + DATA)).status_code == 200
    assert cluster.claim_path("vms", "web").read_bytes().startswith(bytes(MIB) + DATA)


def test_trap_what_is_no_known_format_is_raw(cluster: Cluster) -> None:
    target(cluster)
    packed = bz2.compress(DATA)
    assert len(packed) > 512
    assert post(cluster, packed).status_code == 200
    assert cluster.claim_path("vms", "web").read_bytes().startswith(packed)


def test_trap_a_qcow2_without_its_end_is_200(cluster: Cluster, tmp_path: Path) -> None:
    target(cluster, "Block")
    (tmp_path / "raw").write_bytes(DATA)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", tmp_path / "raw", tmp_path / "sent"], check=True)
    sent = (tmp_path / "sent").read_bytes()
    assert post(cluster, sent[: len(sent) - 512 * 1024]).status_code == 200
    assert not cluster.claim_path("vms", "web").read_bytes().startswith(DATA)


def test_trap_a_guest_whose_disk_looks_like_a_format_chooses_it(cluster: Cluster, tmp_path: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "inner", "1M"], check=True)
    guest = (tmp_path / "inner").read_bytes().ljust(2 * MIB, b"\0")
    target(cluster)
    assert post(cluster, guest).status_code == 200
    assert not cluster.claim_path("vms", "web").read_bytes().startswith(guest[:512])


def test_zeroes_become_holes_and_the_file_grows(cluster: Cluster) -> None:
    target(cluster)
    assert post(cluster, DATA[:4096] + bytes(2 * MIB)).status_code == 200
    found = cluster.claim_path("vms", "web").stat()
    assert found.st_blocks * 512 < MIB
    assert found.st_size == 7 * MIB


def test_a_file_system_has_the_room_it_has(cluster: Cluster) -> None:
    target(cluster, kind="ext4")
    assert cluster.driver.volume("vms", "web").available() < 8 * MIB
    assert post(cluster, b"x" * (8 * MIB)).status_code == 400
    assert post(cluster, DATA).status_code == 200


def test_a_volume_may_hold_what_was_there_before(cluster: Cluster) -> None:
    target(cluster, "Block", kind="dirty")
    assert post(cluster, DATA).status_code == 200
    image = cluster.claim_path("vms", "web").read_bytes()
    assert image.startswith(DATA) and any(image[len(DATA) :])


def test_uploads_go_wrong_as_they_are_told_to(cluster: Cluster) -> None:
    target(cluster)
    faults = cluster.uploads.faults
    faults += [UploadFault(status=503), UploadFault(status=500), UploadFault(full=MIB), UploadFault(cut=MIB)]
    assert [post(cluster, DATA).status_code for _ in range(3)] == [503, 500, 400]
    with pytest.raises(httpx2.TransportError):
        post(cluster, DATA)
    assert MIB <= cluster.uploads.seen[-1].received < len(DATA)
    faults.append(UploadFault(damage=lambda image: image.write_bytes(b"other")))
    assert post(cluster, DATA).status_code == 200
    assert cluster.claim_path("vms", "web").read_bytes() == b"other"


def test_a_client_that_goes_away_leaves_the_server_to_the_next_try(cluster: Cluster) -> None:
    target(cluster)

    def broken() -> Iterator[bytes]:
        yield DATA[:MIB]
        raise KeyError

    with pytest.raises(KeyError):
        post(cluster, broken())
    cluster.wait(lambda: [each.status for each in cluster.uploads.seen] == [500], "the end of the first try")
    assert post(cluster, DATA).status_code == 200


def test_scratch_space_counts_for_the_quota(cluster: Cluster) -> None:
    hard = {"hard": {"persistentvolumeclaims": "1"}}
    used = {"used": {"persistentvolumeclaims": "0"}}
    cluster.server.add("resourcequotas", "few", "vms", spec=hard, status=hard | used)
    claim(cluster, **{TARGET: ""})
    cluster.uploads.ready_seconds = 0.5
    assert post(cluster, DATA).status_code == 503
    cluster.client.delete(ResourceQuota, "few", namespace="vms")
    until(cluster, READY, "true")
    assert found(cluster, "web-scratch").spec.accessModes == ["ReadWriteOnce"]
    assert post(cluster, DATA).status_code == 200
    cluster.wait(lambda: [each.metadata.name for each in claims(cluster)] == ["web"], "the end of scratch space")


def test_the_first_consumer_binds(cluster: Cluster) -> None:
    claim(cluster, kind="local")
    job(cluster, "true")
    assert pod(cluster).status.phase == "Succeeded"
    assert found(cluster).status.phase == "Bound"
    cluster.client.delete(PersistentVolumeClaim, "web", namespace="vms")
    claim(cluster, kind="local", **{TARGET: "", IMMEDIATE: ""})
    until(cluster, READY, "true")


def test_no_upload_server_starts_beside_a_pod(cluster: Cluster) -> None:
    claim(cluster)
    job(cluster, "sleep", "60")
    cluster.wait(lambda: [pod for pod in pods(cluster) if pod.status.phase == "Running"], "the pod")
    cluster.client.patch(PersistentVolumeClaim, "web", {"metadata": {"annotations": {TARGET: ""}}}, namespace="vms")
    cluster.uploads.ready_seconds = 0.3
    assert post(cluster, DATA).status_code == 503
    cluster.client.delete(Pod, pods(cluster)[0].metadata.name, namespace="vms")
    cluster.client.delete(Job, "look", namespace="vms", cascade=CascadeType.FOREGROUND)
    until(cluster, READY, "true")


def job(cluster: Cluster, *command: str, block: bool = False, security: Any = None, **spec: Any) -> None:
    """A job whose pod has the claim "web" and reads it."""
    mounts: dict[str, Any] = {"volumeMounts": [{"name": "disk", "mountPath": "/data", "readOnly": True}]}
    if block:
        mounts = {"volumeDevices": [{"name": "disk", "devicePath": "/dev/disk"}]}
    container = {"name": "worker", "image": "registry.test/worker:1", "command": list(command), **mounts}
    volume = {"name": "disk", "persistentVolumeClaim": {"claimName": "web", "readOnly": True}}
    inside = {"restartPolicy": "Never", "containers": [container], "volumes": [volume], "securityContext": security}
    made = {"metadata": {"name": "look", "namespace": "vms"}, "spec": {"template": {"spec": inside}, **spec}}
    cluster.client.create(Job.from_dict(made))


def pods(cluster: Cluster) -> list[Pod]:
    return list(cluster.client.list(Pod, namespace="vms", labels={"job-name": "look"}))


def pod(cluster: Cluster) -> Pod:
    """The job's pod, once it has ended."""
    ended = ("Succeeded", "Failed")
    return cluster.wait(lambda: [pod for pod in pods(cluster) if pod.status.phase in ended], "the end of the pod")[0]


def test_a_job_sees_its_claim_and_says_what_it_found(cluster: Cluster) -> None:
    target(cluster)
    assert post(cluster, DATA).status_code == 200
    script = "cd /data && python -c \"import os; print(os.path.getsize('disk.img'))\" | tee /dev/termination-log"
    job(cluster, "sh", "-c", script)
    ended = pod(cluster).status.containerStatuses[0].state.terminated
    size = cluster.claim_path("vms", "web").stat().st_size
    assert (ended.exitCode, ended.message) == (0, f"{size}\n")
    log = "".join(cluster.client.log(pod(cluster).metadata.name, namespace="vms"))
    assert log == f"{size}\n"
    done = cluster.wait(lambda: cluster.client.get(Job, "look", namespace="vms").status.conditions, "the job's end")
    assert [condition.type for condition in done] == ["Complete"]


def job_end(cluster: Cluster) -> tuple[str, str | None]:
    done = cluster.wait(lambda: cluster.client.get(Job, "look", namespace="vms").status.conditions, "the job's end")
    return done[0].type, done[0].reason


def test_nobody_writes_to_a_claim_that_is_mounted_to_be_read(cluster: Cluster) -> None:
    claim(cluster)
    job(cluster, "sh", "-c", "touch /data/new 2> /dev/termination-log", backoffLimit=1)
    assert job_end(cluster) == ("Failed", "BackoffLimitExceeded")
    assert len(pods(cluster)) == 2
    ended = pods(cluster)[0].status.containerStatuses[0].state.terminated
    assert (ended.exitCode, ended.reason) == (1, "Error")
    assert "Read-only file system" in ended.message


def test_a_block_claim_is_a_device(cluster: Cluster) -> None:
    target(cluster, "Block")
    assert post(cluster, DATA).status_code == 200
    script = "test -b /dev/disk && blockdev --getsize64 /dev/disk && cmp -n 1000 /dev/disk /dev/zero"
    job(cluster, "sh", "-c", script, backoffLimit=0, block=True)
    assert job_end(cluster) == ("Failed", "BackoffLimitExceeded")
    log = "".join(cluster.client.log(pods(cluster)[0].metadata.name, namespace="vms"))
    assert log.splitlines()[0] == str(8 * MIB)
    assert "differ" in log


def test_a_container_is_the_user_it_says(cluster: Cluster) -> None:
    claim(cluster)
    job(cluster, "sh", "-c", "id -u; id -G; python -c 'import migrate'", security={"runAsUser": 107, "fsGroup": 107})
    assert job_end(cluster) == ("Complete", None)
    assert "".join(cluster.client.log(pods(cluster)[0].metadata.name, namespace="vms")) == "107\n0 107\n"


def test_an_image_that_nobody_has_keeps_its_pod_waiting(cluster: Cluster) -> None:
    claim(cluster)
    cluster.kubelet.unpullable.add("registry.test/worker:1")
    job(cluster, "true", activeDeadlineSeconds=2)

    def waiting() -> bool:
        statuses = [status for pod in pods(cluster) for status in pod.status.containerStatuses or []]
        return bool(statuses) and statuses[0].state.waiting.reason == "ImagePullBackOff"

    cluster.wait(waiting, "the reason")
    assert job_end(cluster) == ("Failed", "DeadlineExceeded")


def test_a_job_that_is_deleted_takes_its_pods_along(cluster: Cluster) -> None:
    claim(cluster)
    job(cluster, "sleep", "60")
    cluster.wait(lambda: [pod for pod in pods(cluster) if pod.status.phase == "Running"], "the pod")
    cluster.client.delete(Job, "look", namespace="vms", cascade=CascadeType.BACKGROUND)
    cluster.wait(lambda: not pods(cluster), "the end of the pod")


# DataVolumes.


def data_volume(cluster: Cluster, source: dict[str, Any], storage: str = "storage", **annotations: str) -> None:
    size: dict[str, Any] = {"resources": {"requests": {"storage": "8Mi"}}, "storageClassName": "fast"}
    if storage == "pvc":
        size |= {"accessModes": ["ReadWriteOnce"]}
    else:
        size |= {"volumeMode": "Filesystem"}
    metadata = {"name": "web", "namespace": "vms", "annotations": annotations}
    cluster.client.create(DATA_VOLUME.from_dict({"metadata": metadata, "spec": {"source": source, storage: size}}))


def phase(cluster: Cluster, wanted: str) -> Any:
    def look() -> Any:
        volume = cluster.client.get(DATA_VOLUME, "web", namespace="vms")
        return volume if (volume.status or {}).get("phase") == wanted else None

    return cluster.wait(look, f"phase {wanted}")


def test_a_data_volume_takes_an_upload_and_its_claim_ends_with_it(cluster: Cluster) -> None:
    data_volume(cluster, {"upload": {}})
    phase(cluster, "UploadReady")
    assert found(cluster).spec.resources.requests["storage"] == str(9 * MIB)
    assert post(cluster, DATA).status_code == 200
    phase(cluster, "Succeeded")
    cluster.client.delete(DATA_VOLUME, "web", namespace="vms")
    cluster.wait(lambda: not claims(cluster), "the end of the claim")


def test_a_data_volume_is_imported_from_a_web_server(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(DATA)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", tmp_path / "raw", tmp_path / "web.qcow2"], check=True)
    tls = certificate(tmp_path)
    wanted = "Basic " + base64.b64encode(b"me:secret").decode()

    def answer(request: Request) -> None:
        known = request.headers.get("Authorization") == wanted
        request.send(200 if known else 401, (tmp_path / "web.qcow2").read_bytes() if known else b"")

    with serving(tls, {"/web.qcow2": answer}) as port:
        source = {"url": f"https://127.0.0.1:{port}/web.qcow2", "secretRef": "login", "certConfigMap": "ca"}
        data_volume(cluster, {"http": source}, "pvc")
        cluster.wait(lambda: phase(cluster, "ImportInProgress").status.get("restartCount"), "a restart")
        authority = {"metadata": {"name": "ca", "namespace": "vms"}, "data": {"ca.pem": tls[0].read_text()}}
        cluster.client.create(ConfigMap.from_dict(authority))
        data = {"accessKeyId": "me", "secretKey": "secret"}
        login = {"metadata": {"name": "login", "namespace": "vms"}, "stringData": data}
        cluster.client.create(Secret.from_dict(login))
        phase(cluster, "Succeeded")
    assert cluster.claim_path("vms", "web").read_bytes().startswith(DATA)


@pytest.mark.parametrize("source", [{"registry": {"url": "docker://registry.test/web"}}, {"pvc": 0}, {"blank": {}}])
def test_a_data_volume_is_imported_from_elsewhere(cluster: Cluster, tmp_path: Path, source: dict[str, Any]) -> None:
    data = DATA
    if "registry" in source:
        cluster.imports.origins["docker://registry.test/web"] = tmp_path / "web"
        (tmp_path / "web").write_bytes(DATA)
    elif "pvc" in source:
        source = {"pvc": {"name": "other", "namespace": "vms"}}
        claim(cluster, "other")
        cluster.wait(lambda: found(cluster, "other").status.phase == "Bound", "a bound claim")
        cluster.claim_path("vms", "other").write_bytes(DATA)
    else:
        data = bytes(7 * MIB)
    data_volume(cluster, source)
    phase(cluster, "Succeeded")
    assert cluster.claim_path("vms", "web").read_bytes().startswith(data)


def test_a_claim_that_is_there_is_adopted_where_that_is_allowed(cluster: Cluster) -> None:
    claim(cluster)
    with pytest.raises(ApiError, match="Destination PVC vms/web already exists"):
        data_volume(cluster, {"upload": {}})
    data_volume(cluster, {"upload": {}}, **{ADOPTION: "true"})
    phase(cluster, "Succeeded")


def requests(size: str, *modes: str) -> dict[str, Any]:
    """What a DataVolume asks for."""
    return {"resources": {"requests": {"storage": size}}, "accessModes": list(modes)}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"source": {"upload": {}}}, "Missing Data volume PVC"),
        ({"source": {"upload": {}}, "storage": {}}, "STORAGE size is missing"),
        ({"source": {"upload": {}}, "storage": {}, "pvc": {}}, "Duplicate storage definition"),
        ({"source": {"upload": {}}, "storage": requests("1023Ki")}, "STORAGE size should be at least 1MiB"),
        ({"source": {"upload": {}}, "pvc": requests("1Mi")}, "at least 1 access mode is required"),
        ({"source": {"upload": {}}, "pvc": requests("1Mi", "ReadWriteMany", "ReadWriteOnce")}, "PVC multiple"),
        ({"source": {"upload": {}, "blank": {}}}, "Multiple"),
        ({"source": {}}, "Missing dataVolume source"),
        ({"source": {"http": {"url": "ftp://host/web"}}}, "Invalid URL"),
        ({"source": {"imageio": {"url": "https://engine", "diskId": "1"}}}, "source Imageio is not valid"),
    ],
)
def test_the_webhook_refuses(cluster: Cluster, spec: dict[str, Any], why: str) -> None:
    sized = {"storage": {"resources": {"requests": {"storage": "1Gi"}}}}
    spec = spec if {"storage", "pvc"} & set(spec) or why.startswith("Missing Data") else spec | sized
    volume = DATA_VOLUME.from_dict({"metadata": {"name": "web", "namespace": "vms"}, "spec": spec})
    with pytest.raises(ApiError, match=why):
        cluster.client.create(volume)


# KubeVirt.


def test_a_machine_is_stopped_until_it_is_started(cluster: Cluster) -> None:
    machines, instances = api.kinds()["virtualmachines"], api.kinds()["virtualmachineinstances"]
    template = {"spec": {"domain": {"devices": {}}}}
    made = {"metadata": {"name": "web", "namespace": "vms"}, "spec": {"runStrategy": "Halted", "template": template}}
    cluster.client.create(machines.from_dict(made))

    def says(status: str) -> bool:
        return (cluster.client.get(machines, "web", namespace="vms").status or {}).get("printableStatus") == status

    cluster.wait(lambda: says("Stopped"), "a stopped machine")
    started = {"spec": {"runStrategy": "Always"}}
    cluster.client.patch(machines, "web", started, namespace="vms", patch_type=PatchType.MERGE)
    cluster.wait(lambda: says("Running"), "a running machine")
    assert [each.metadata.name for each in cluster.client.list(instances, namespace="vms")] == ["web"]
    cluster.client.delete(machines, "web", namespace="vms")
    cluster.wait(lambda: not list(cluster.client.list(instances, namespace="vms")), "the end of the instance")


# The proxy before the API server.


@pytest.fixture
def client(cluster: Cluster) -> Client:
    return api.connect(cluster.context, cluster.kubeconfig)


def test_the_api_server_answers_through_the_proxy(cluster: Cluster, client: Client) -> None:
    claim(cluster)
    assert [each.metadata.name for each in client.list(PersistentVolumeClaim, namespace="vms")] == ["web"]
    seen = cluster.api.seen[-1]
    assert (seen.method, seen.path, seen.status) == ("GET", "/api/v1/namespaces/vms/persistentvolumeclaims", 200)


@pytest.mark.parametrize("status", [409, 429, 500, 503])
@pytest.mark.parametrize("done", [False, True])
def test_the_api_server_refuses_once(cluster: Cluster, client: Client, status: int, done: bool) -> None:
    cluster.api.faults.append(ApiFault("POST", "persistentvolumeclaims", status=status, done=done))
    with pytest.raises(ApiError) as error:
        client.create(manifest("web", "Block", "fast", {}))
    assert error.value.status.code == status
    assert bool(claims(cluster)) == done
    if not done:
        client.create(manifest("web", "Block", "fast", {}))


def test_the_api_server_gives_no_answer(cluster: Cluster, client: Client) -> None:
    cluster.api.faults.append(ApiFault("GET", hang=0.2))
    with pytest.raises(httpx2.TransportError):
        client.get(PersistentVolumeClaim, "web", namespace="vms")


def test_a_watch_is_cut(cluster: Cluster, client: Client) -> None:
    claim(cluster)
    cluster.api.faults.append(ApiFault("GET", "watch=true", cut=100))
    with pytest.raises(httpx2.TransportError):
        next(client.watch(PersistentVolumeClaim, namespace="vms"))
    event, item = next(client.watch(PersistentVolumeClaim, namespace="vms"))
    assert (event, item.metadata.name) == ("ADDED", "web")
