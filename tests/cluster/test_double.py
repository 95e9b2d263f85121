"""The doubles behave as the parts of a cluster do that they stand for."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cluster.cdi import PHASE, READY, TARGET
from cluster.double import TOKEN_REQUEST, Cluster
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod

MIB = 1 << 20
DATA = bytes(range(256)) * 4096 + bytes(MIB) + b"end" * 1000 + bytes(MIB // 2 - 3000)


def claim(
    cluster: Cluster, name: str = "web", mode: str = "Filesystem", kind: str = "fast", **annotations: str
) -> None:
    cluster.client.create(
        PersistentVolumeClaim.from_dict(
            {
                "metadata": {"name": name, "namespace": "vms", "annotations": annotations},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "volumeMode": mode,
                    "storageClassName": kind,
                    "resources": {"requests": {"storage": "8Mi"}},
                },
            }
        )
    )


def found(cluster: Cluster, name: str = "web") -> PersistentVolumeClaim:
    return cluster.client.get(PersistentVolumeClaim, name, namespace="vms")


def until(cluster: Cluster, key: str, value: str, name: str = "web") -> None:
    cluster.wait(lambda: (found(cluster, name).metadata.annotations or {}).get(key) == value, f"{key}={value}")


def target(cluster: Cluster, mode: str = "Filesystem", **more: Any) -> None:
    """A claim that is ready for an upload."""
    claim(cluster, mode=mode, **{TARGET: ""}, **more)
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


def job(cluster: Cluster, *command: str, **spec: Any) -> None:
    container = {
        "name": "worker",
        "image": "registry.test/worker:1",
        "command": list(command),
        "volumeMounts": [{"name": "disk", "mountPath": "/data", "readOnly": True}],
    }
    volume = {"name": "disk", "persistentVolumeClaim": {"claimName": "web", "readOnly": True}}
    template = {"spec": {"restartPolicy": "Never", "containers": [container], "volumes": [volume]}}
    made = {"metadata": {"name": "look", "namespace": "vms"}, "spec": {"template": template, **spec}}
    cluster.client.create(Job.from_dict(made))


def pod(cluster: Cluster) -> Pod:
    """The job's pod, once it has ended."""

    def ended() -> list[Pod]:
        pods = cluster.client.list(Pod, namespace="vms", labels={"job-name": "look"})
        return [pod for pod in pods if pod.status.phase in ("Succeeded", "Failed")]

    return cluster.wait(ended, "the end of the pod")[0]


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
