"""What goes wrong while a plan is carried out on a cluster: it is overcome, or said in a line, and never believed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cluster.cdi import UploadFault
from cluster.double import Cluster
from cluster.faults import ApiFault
from cluster.test_apply import IMAGE, machines, names, on_cluster, planned
from conftest import Command
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod
from real.host import Host, same

from migrate import journal as journals
from migrate.transfer import _claims

__all__ = ["on_cluster", "planned"]


@pytest.fixture
def disk(embedded: Host, planned: Any) -> Path:
    """The image of the one disk of the one VM of the plan."""
    image = embedded.image("web.qcow2", "24M", "write -P 1 0 1M", "write -P 2 9M 3M", "write -P 3 23M 1M")
    embedded.define("web", image)
    planned()
    return image


def posts(cluster: Cluster) -> int:
    return sum(upload.method == "POST" for upload in cluster.uploads.seen)


def flip(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(10 << 20)
        file.write(b"x")


def shorten(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(23 << 20)
        file.write(bytes(1 << 20))


def scribble(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(24 << 20)
        file.write(b"behind the end")


@pytest.mark.parametrize(
    "faults",
    [
        [UploadFault(cut=100)],
        [UploadFault(cut=3 << 20), UploadFault(cut=5_000_000)],
        [UploadFault(lost=True)],
        [UploadFault(status=503)],
        [UploadFault(status=500), UploadFault(status=500)],
        [UploadFault(damage=flip)],
        [UploadFault(damage=shorten)],
        [UploadFault(damage=scribble)],
        [UploadFault(damage=lambda image: image.write_bytes(bytes(24 << 20)))],
    ],
)
def test_uploads_that_fail_or_lie_are_sent_again(
    faults: list[UploadFault], disk: Path, on_cluster: Command, cluster: Cluster
) -> None:
    cluster.uploads.faults[:] = faults
    on_cluster("apply")
    assert posts(cluster) == len(faults) + 1
    assert same(cluster.claim_path("vms", "web-vda"), disk)
    assert machines(cluster) == ["web"]


def test_an_upload_waits_for_storage_that_takes_nothing_for_a_while(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster
) -> None:
    image = embedded.image("web.qcow2", "64M", "write -P 1 0 48M")
    embedded.define("web", image)
    planned()
    cluster.uploads.faults.append(UploadFault(stall=33.0))
    on_cluster("apply")
    assert posts(cluster) == 1
    assert same(cluster.claim_path("vms", "web-vda"), image)


def test_bug_what_verify_found_was_forgotten_by_status_and_apply(
    disk: Path, on_cluster: Command, cluster: Cluster, kubevirt_migrate: Command
) -> None:
    on_cluster("apply")
    with cluster.claim_path("vms", "web-vda").open("r+b") as claim:
        claim.seek(8 << 20)
        claim.write(b"?")
    assert "at byte 8388608" in on_cluster("verify", status=4).stderr
    assert "unverified" in kubevirt_migrate("status", "plan", status=3).stdout
    assert "undo" in on_cluster("apply", status=3).stderr
    on_cluster("undo", "--yes")
    on_cluster("apply")
    assert same(cluster.claim_path("vms", "web-vda"), disk)
    on_cluster("verify")
    kubevirt_migrate("status", "plan")


@pytest.mark.parametrize("damage, where", [(flip, "at byte 8388608"), (scribble, "behind the end")])
def test_a_mismatch_that_stays_is_located_and_no_vm_is_made(
    damage: Any, where: str, disk: Path, on_cluster: Command, cluster: Cluster
) -> None:
    cluster.uploads.faults.append(UploadFault(damage=damage, times=2))
    assert where in on_cluster("apply", status=4).stderr
    assert machines(cluster) == []
    on_cluster("apply")
    assert same(cluster.claim_path("vms", "web-vda"), disk)


@pytest.mark.parametrize(
    "fault",
    [
        ApiFault(status=429, retry_after=1, times=3),
        ApiFault(method="GET", status=500, times=3),
        ApiFault(method="PATCH", status=500, times=2),
        ApiFault(method="PATCH", path="/persistentvolumeclaims/", status=500, done=True),
        ApiFault(method="PATCH", path="/virtualmachines/", status=504, done=True),
        ApiFault(method="PATCH", path="/jobs/", status=409, times=2),
        ApiFault(method="POST", path="/uploadtokenrequests", status=503, times=2),
        ApiFault(method="GET", path="/persistentvolumeclaims/", cut=40, times=2),
        ApiFault(method="DELETE", status=429, times=2),
        ApiFault(method="GET", path="/persistentvolumeclaims/", hang=1.0, times=2),
        ApiFault(method="PATCH", path="/virtualmachines/", hang=1.0, done=True),
    ],
)
def test_an_api_server_that_is_busy_or_fails_for_a_while_is_asked_again(
    fault: ApiFault, disk: Path, on_cluster: Command, cluster: Cluster
) -> None:
    cluster.api.faults.append(fault)
    on_cluster("apply")
    assert fault.times <= 0
    assert machines(cluster) == ["web"]
    assert same(cluster.claim_path("vms", "web-vda"), disk)


def test_an_api_server_that_stays_broken_is_one_line_and_the_next_run_goes_on(
    disk: Path, on_cluster: Command, cluster: Cluster
) -> None:
    cluster.api.faults.append(ApiFault(method="PATCH", path="/virtualmachines/web", status=503, times=1000))
    done = on_cluster("apply", status=3)
    assert "run again" in done.stderr and done.stderr.count("\n") == 1
    cluster.api.faults.clear()
    on_cluster("apply")
    assert (posts(cluster), machines(cluster)) == (1, ["web"])


def test_a_login_that_ends_is_told_and_the_next_run_goes_on(disk: Path, on_cluster: Command, cluster: Cluster) -> None:
    for path in ("/persistentvolumeclaims", "/virtualmachines/web"):
        cluster.api.faults.append(ApiFault(method="GET", path=path, status=401, times=1000))
        assert "log in anew" in on_cluster("apply", status=2).stderr
        assert machines(cluster) == []
        cluster.api.faults.clear()
    on_cluster("apply")
    assert machines(cluster) == ["web"]
    cluster.api.faults.append(ApiFault(status=401, times=1000))
    assert "log in anew" in on_cluster("undo", "--yes", status=2).stderr


def test_a_token_that_has_ended_is_told(disk: Path, on_cluster: Command, cluster: Cluster) -> None:
    cluster.uploads.tokens.seconds = -1
    assert "CDI answered 401" in on_cluster("apply", status=3).stderr
    cluster.uploads.tokens.seconds = 300
    on_cluster("apply")
    assert machines(cluster) == ["web"]


def test_a_claim_that_is_too_small_is_told(disk: Path, on_cluster: Command, cluster: Cluster, tmp_path: Path) -> None:
    claims = tmp_path / "plan/web/claims.yaml"
    text = claims.read_text()
    size = next(line for line in text.splitlines() if "storage:" in line)
    claims.write_text(text.replace(size, size.partition(":")[0] + ": 8Mi"))
    assert "too small" in on_cluster("apply", status=3).stderr
    on_cluster("undo", "--yes")
    claims.write_text(text)
    on_cluster("apply")
    assert machines(cluster) == ["web"]


def test_a_full_disk_is_told_and_the_next_run_goes_on(disk: Path, on_cluster: Command, cluster: Cluster) -> None:
    cluster.uploads.faults.append(UploadFault(full=2 << 20, times=5))
    assert "no space" in on_cluster("apply", status=3).stderr
    cluster.uploads.faults.clear()
    on_cluster("apply")
    assert same(cluster.claim_path("vms", "web-vda"), disk)


def test_a_killed_upload_starts_anew(disk: Path, on_cluster: Command, cluster: Cluster, tmp_path: Path) -> None:
    there = ["--context", cluster.context, "--kubeconfig", str(cluster.kubeconfig), "--worker-image", IMAGE]
    command = [sys.executable, "-m", "migrate", "apply", "plan", *there, "--bandwidth", "1MiB"]
    running = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    while not any(upload.received for upload in cluster.uploads.seen):
        assert running.poll() is None
        time.sleep(0.01)
    refused = on_cluster("apply", status=2)
    assert "another apply is running" in refused.stderr
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    on_cluster("apply")
    assert same(cluster.claim_path("vms", "web-vda"), disk)
    assert on_cluster("verify").stdout.count("verified") == 1


def test_undo_ends_a_job_that_a_killed_run_left(disk: Path, on_cluster: Command, cluster: Cluster) -> None:
    on_cluster("apply", image=None, status=3)
    pod = {"restartPolicy": "Never", "containers": [{"name": "worker", "image": IMAGE, "command": ["sleep", "600"]}]}
    pod["volumes"] = [{"name": "claim", "persistentVolumeClaim": {"claimName": "web-vda"}}]
    metadata = {"name": _claims.job_of("vms", "web-vda")[2], "namespace": "vms"}
    cluster.client.create(Job.from_dict({"metadata": metadata, "spec": {"template": {"spec": pod}}}))
    cluster.wait(lambda: list(cluster.client.list(Pod, namespace="vms")), "the pod")
    on_cluster("undo", "--yes")
    assert (names(cluster, "jobs"), names(cluster, "pods"), names(cluster, "persistentvolumeclaims")) == ([], [], [])


def test_undo_takes_back_the_claims_of_a_vm_that_a_killed_run_was_about_to_make(
    disk: Path, on_cluster: Command, cluster: Cluster, tmp_path: Path
) -> None:
    on_cluster("apply", image=None, status=3)
    path = tmp_path / "plan/journal.jsonl"
    (target,) = journals.targets(path)
    with journals.opened(path) as journal:
        journal.make(target, "web", ("VirtualMachine", "vms", "web"))
    on_cluster("undo", "--yes")
    assert names(cluster, "persistentvolumeclaims") == []


def test_names_that_others_have_are_left_alone_and_the_rest_is_done(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster
) -> None:
    for name in ("one", "two"):
        embedded.define(name, embedded.image(f"{name}.qcow2", "8M", "write -P 1 0 1M"))
    planned()
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": "fast"}
    mine = {"metadata": {"name": "one-vda", "namespace": "vms"}, "spec": spec}
    cluster.client.create(PersistentVolumeClaim.from_dict(mine))
    assert "claim named one-vda" in on_cluster("apply", status=1).stderr
    assert machines(cluster) == ["two"]
    assert cluster.client.get(PersistentVolumeClaim, "one-vda", namespace="vms").metadata.labels is None
    assert on_cluster("undo", "--yes").stdout.count("removed") == 2
    assert names(cluster, "persistentvolumeclaims") == ["one-vda"]


def test_a_quota_without_room_leaves_the_vm_out(disk: Path, on_cluster: Command, cluster: Cluster) -> None:
    cluster.server.add("resourcequotas", "small", "vms", spec={"hard": {"requests.storage": "1Mi"}})
    assert "Quota small" in on_cluster("apply", status=1).stderr
    assert (posts(cluster), names(cluster, "persistentvolumeclaims")) == (0, [])


def test_a_proxy_that_does_not_answer_is_told_before_anything_is_made(
    disk: Path, on_cluster: Command, cluster: Cluster
) -> None:
    done = on_cluster("apply", "--uploadproxy-url", "https://127.0.0.1:1", status=3)
    assert "--uploadproxy-url" in done.stderr
    assert names(cluster, "persistentvolumeclaims") == []


def test_what_nothing_can_read_back_is_unverified_everywhere(
    disk: Path, on_cluster: Command, cluster: Cluster, kubevirt_migrate: Command
) -> None:
    cluster.kubelet.unpullable.add(IMAGE)
    assert "ImagePullBackOff" in on_cluster("apply", status=3).stderr
    assert "unverified" in on_cluster("apply", image=None, status=3).stderr
    assert "unverified" in on_cluster("verify", image=None, status=3).stderr
    assert "unverified" in kubevirt_migrate("status", "plan", status=3).stdout
    assert machines(cluster) == []
    assert "UNVERIFIED" in on_cluster("apply", "--accept-unverified", image=None).stdout
    assert machines(cluster) == ["web"]
    assert "unverified" in kubevirt_migrate("status", "plan", status=3).stdout
    assert posts(cluster) == 1


def test_what_was_unverified_is_proved_without_being_sent_again(
    disk: Path, on_cluster: Command, cluster: Cluster, kubevirt_migrate: Command
) -> None:
    on_cluster("apply", image=None, status=3)
    flip(cluster.claim_path("vms", "web-vda"))
    assert "at byte 8388608" in on_cluster("apply", status=4).stderr
    on_cluster("apply", image=None, status=3)
    assert posts(cluster) == 2
    on_cluster("apply")
    assert (posts(cluster), machines(cluster)) == (2, ["web"])
    assert "done" in kubevirt_migrate("status", "plan").stdout


def test_a_source_that_changes_in_mid_copy_voids_it(
    disk: Path, on_cluster: Command, cluster: Cluster, tmp_path: Path
) -> None:
    there = ["--context", cluster.context, "--kubeconfig", str(cluster.kubeconfig), "--worker-image", IMAGE]
    command = [sys.executable, "-m", "migrate", "apply", "plan", *there, "--bandwidth", "2MiB"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not any(upload.received for upload in cluster.uploads.seen):
        assert running.poll() is None
        time.sleep(0.01)
    os.utime(disk)
    _, told = running.communicate()
    assert (running.returncode, "changed during the copy" in told) == (3, True), told
    assert (machines(cluster), names(cluster, "persistentvolumeclaims")) == ([], [])
    on_cluster("apply")
    assert machines(cluster) == ["web"]
