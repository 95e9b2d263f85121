"""A plan carried out on a cluster: VMs with filled and verified claims, again and again, and back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.double import Cluster
from conftest import Command
from lightkube.resources.core_v1 import PersistentVolumeClaim
from lightkube.types import PatchType
from real.host import Host, same

from migrate.target import api

IMAGE = "registry.test/worker:1"
SITE = """
namespace: vms
storage:
  default: {{storageClass: fast, volumeMode: {mode}}}
networks:
  "network:default": {{pod: masquerade}}
"""


@pytest.fixture
def planned(kubevirt_migrate: Command, tmp_path: Path, embedded: Host) -> Callable[..., None]:
    def plan(mode: str = "Filesystem", more: str = "", status: int = 0) -> None:
        (tmp_path / "site.yaml").write_text(SITE.format(mode=mode) + more)
        kubevirt_migrate("collect", "libvirt", embedded.uri, "-d", "inventory")
        kubevirt_migrate("plan", "inventory", "--site", "site.yaml", "-d", "plan", status=status)

    return plan


@pytest.fixture
def on_cluster(kubevirt_migrate: Command, cluster: Cluster) -> Command:
    """Runs a command on the cluster; `image` is the worker's."""

    def run(command: str, *args: object, status: int = 0, image: str | None = IMAGE) -> Any:
        there = ["--context", cluster.context, "--kubeconfig", cluster.kubeconfig]
        given = ["--worker-image", image] if image and command in ("apply", "verify") else []
        return kubevirt_migrate(command, "plan", *there, *given, *args, status=status)

    return run


def machine(cluster: Cluster, name: str) -> Any:
    return cluster.client.get(api.kinds()["virtualmachines"], name, namespace="vms")


def names(cluster: Cluster, plural: str) -> list[str]:
    return sorted(item.metadata.name for item in cluster.client.list(api.kinds()[plural], namespace="vms"))


def machines(cluster: Cluster) -> list[str]:
    return names(cluster, "virtualmachines")


@pytest.mark.parametrize("mode", ["Filesystem", "Block"])
def test_two_domains_arrive_as_halted_vms_with_verified_claims(
    mode: str, embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster, tmp_path: Path
) -> None:
    base = embedded.image("base.qcow2", "32M", "write -P 1 0 1M")
    disks = [embedded.image("one.qcow2", "32M", "write -P 3 8M 5M", base=base), embedded.image("two.qcow2", "16M")]
    embedded.define("one", *disks)
    other = embedded.image("other.raw", "24M", "write -P 5 23M 1M", format="raw")
    embedded.define("other", other)
    planned(mode)

    done = on_cluster("apply")
    assert done.stdout.count("copied and read back") == 3
    for claim, image in (("one-vda", disks[0]), ("one-vdb", disks[1]), ("other-vda", other)):
        assert same(cluster.claim_path("vms", claim), image)
    for name in ("one", "other"):
        found = machine(cluster, name)
        assert found.spec["runStrategy"] == "Halted"
        assert found.metadata.labels["app.kubernetes.io/managed-by"] == "kubevirt-migrate"
    assert names(cluster, "jobs") == []
    assert "there already" in on_cluster("apply").stdout
    assert on_cluster("verify").stdout.count("verified") == 3
    assert on_cluster("diff").stdout == ""

    secrets = (tmp_path / "plan/journal.jsonl").read_text() + done.stdout + done.stderr
    assert "admin-token" not in secrets and "Bearer" not in secrets
    assert not any("eyJ" in text for text in secrets.split('"')), "an upload token"


def test_a_disk_whose_claim_somebody_filled_is_only_compared(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster
) -> None:
    image = embedded.image("web.raw", "8M", "write -P 1 0 1M", format="raw")
    embedded.define("web", image)
    planned(more="methods: [adopt, cdi-upload]\n")
    claim = {
        "metadata": {"name": "web-vda", "namespace": "vms"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "fast",
            "resources": {"requests": {"storage": "16Mi"}},
        },
    }
    cluster.client.create(PersistentVolumeClaim.from_dict(claim))
    bound = lambda: cluster.client.get(PersistentVolumeClaim, "web-vda", namespace="vms").status.phase == "Bound"  # noqa: E731
    cluster.wait(bound, "the claim")
    place = cluster.claim_path("vms", "web-vda")
    place.write_bytes(bytes(8 << 20))
    place.chmod(0o644)
    assert "differs from the source in its block of 4 MiB at byte 0" in on_cluster("apply", status=4).stderr
    shutil.copyfile(image, place)
    on_cluster("apply")
    assert machines(cluster) == ["web"]
    assert cluster.uploads.seen == [] or all(upload.method == "HEAD" for upload in cluster.uploads.seen)
    on_cluster("undo", "--yes")
    assert names(cluster, "persistentvolumeclaims") == ["web-vda"]
    on_cluster("apply")


def test_undo_removes_what_apply_made_and_nothing_else(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster, kubevirt_migrate: Command
) -> None:
    for name in ("one", "two", "three"):
        embedded.define(name, embedded.image(f"{name}.qcow2", "8M", "write -P 1 0 1M"))
    planned()
    assert "waiting" in kubevirt_migrate("status", "plan", status=3).stdout
    on_cluster("apply")
    kind = api.kinds()["virtualmachines"]
    cluster.client.patch(kind, "one", {"spec": {"runStrategy": "Always"}}, namespace="vms", patch_type=PatchType.MERGE)
    cluster.wait(lambda: names(cluster, "virtualmachineinstances") == ["one"], "the instance")
    cluster.client.patch(kind, "one", {"spec": {"runStrategy": "Halted"}}, namespace="vms", patch_type=PatchType.MERGE)
    cluster.wait(lambda: names(cluster, "virtualmachineinstances") == [], "the instance's end")
    three = machine(cluster, "three")
    cluster.client.delete(kind, "three", namespace="vms")
    cluster.wait(lambda: machines(cluster) == ["one", "two"], "the end of three")
    metadata = {"name": "three", "namespace": "vms", "labels": three.metadata.labels}
    cluster.client.create(kind.from_dict({"metadata": metadata, "spec": three.spec}))

    def undo(answer: str, status: int) -> str:
        there = ["--context", cluster.context, "--kubeconfig", str(cluster.kubeconfig)]
        command = [sys.executable, "-m", "migrate", "undo", "plan", *there]
        done = subprocess.run(command, cwd=embedded.folder.parent, input=answer, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    assert "is removed" in undo("n\n", 1)
    assert len(names(cluster, "persistentvolumeclaims")) == 3
    told = undo("y\n", 1)
    assert "VirtualMachine vms/two removed" in told
    assert "vms/one-vda stays: the VM one may have written to its disks" in told
    assert "VirtualMachine vms/three stays: it was made anew" in told
    assert machines(cluster) == ["one", "three"]
    assert names(cluster, "persistentvolumeclaims") == ["one-vda", "three-vda"]
    assert "its own by now" in on_cluster("verify", "--select", "one", status=1).stderr
    on_cluster("apply", "--select", "two")
    assert machines(cluster) == ["one", "three", "two"]


def test_a_claim_that_a_removed_vm_may_have_written_to_stays_also_when_the_vm_is_made_anew(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster
) -> None:
    embedded.define("web", embedded.image("web.qcow2", "8M", "write -P 1 0 1M"))
    planned()
    on_cluster("apply")
    cluster.client.delete(api.kinds()["virtualmachines"], "web", namespace="vms")
    cluster.wait(lambda: machines(cluster) == [], "the end of the VM")
    for _ in range(2):
        on_cluster("apply")
        assert machines(cluster) == ["web"]
        assert "vms/web-vda stays" in on_cluster("undo", "--yes", status=1).stderr
    assert names(cluster, "persistentvolumeclaims") == ["web-vda"]


def test_a_claim_that_a_vm_made_by_hand_has_stays(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster, tmp_path: Path
) -> None:
    embedded.define("web", embedded.image("web.qcow2", "8M", "write -P 1 0 1M"))
    planned()
    on_cluster("apply", image=None, status=3)
    (by_hand,) = yaml.safe_load_all((tmp_path / "plan/web/vm.yaml").read_text())
    cluster.client.create(api.kinds()["virtualmachines"].from_dict(by_hand))
    assert "vms/web-vda stays: the VM vms/web has it" in on_cluster("undo", "--yes", status=1).stderr
    cluster.client.delete(api.kinds()["virtualmachines"], "web", namespace="vms")
    cluster.wait(lambda: machines(cluster) == [], "the end of the VM")
    on_cluster("undo", "--yes")
    assert names(cluster, "persistentvolumeclaims") == []


def test_a_plan_goes_to_two_namespaces_each_with_its_own_proof(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster, kubevirt_migrate: Command
) -> None:
    image = embedded.image("web.qcow2", "8M", "write -P 1 0 1M")
    embedded.define("web", image)
    planned()
    cluster.server.namespace("other")
    there = ("-n", "other")
    on_cluster("apply", *there)
    on_cluster("apply")
    assert same(cluster.claim_path("other", "web-vda"), image)
    assert same(cluster.claim_path("vms", "web-vda"), image)
    assert "other/web-vda" in on_cluster("verify", *there).stdout
    assert "vms/web-vda" in on_cluster("verify").stdout
    rows = json.loads(kubevirt_migrate("status", "plan", "-o", "json").stdout)
    assert {(row["disks"][0]["claim"], row["state"]) for row in rows} == {
        ("other/web-vda", "done"),
        ("vms/web-vda", "done"),
    }
    kind = api.kinds()["virtualmachines"]
    cluster.client.patch(kind, "web", {"spec": {"runStrategy": "Always"}}, namespace="vms", patch_type=PatchType.MERGE)
    cluster.wait(lambda: names(cluster, "virtualmachineinstances") == ["web"], "the instance")
    gone = on_cluster("undo", "--yes", *there).stdout
    assert "other/web-vda removed" in gone and "vms/" not in gone
    on_cluster("apply", *there)
    assert "vms/web-vda stays" in on_cluster("undo", "--yes", status=1).stderr
    assert names(cluster, "persistentvolumeclaims") == ["web-vda"]


def test_progress_is_lines_of_json_as_it_comes(embedded: Host, planned: Any, on_cluster: Command) -> None:
    embedded.define("web", embedded.image("web.qcow2", "8M", "write -P 1 0 5M"))
    planned()
    done = on_cluster("apply", "-o", "json", "--bandwidth", "2MiB")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    copied = [each["bytes"] for each in events if each.get("phase") == "copy"]
    assert len(copied) > 1 and copied == sorted(set(copied)) and copied[-1] == 8 << 20
    assert [each["zeroes"] for each in events if each.get("phase") == "copy"][-1] == 3 << 20
    assert {(each["event"], each["claim"], each["of"]) for each in events} == {("progress", "vms/web-vda", 8 << 20)}
    assert [each["made"] for each in json.loads(done.stdout)] == [None, "VirtualMachine vms/web"]


def test_a_dry_run_changes_nothing(embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster) -> None:
    embedded.define("web", embedded.image("web.qcow2", "8M"))
    planned()
    for kind in ("client", "server"):
        done = on_cluster("apply", f"--dry-run={kind}")
        assert "PersistentVolumeClaim vms/web-vda, cdi-upload" in done.stdout
        assert "VirtualMachine vms/web" in done.stdout
    assert (machines(cluster), names(cluster, "persistentvolumeclaims")) == ([], [])
    diff = on_cluster("diff", status=1).stdout
    assert diff.count("is not there") == 2


def test_edited_manifests_are_honoured_and_looked_at_again(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster, tmp_path: Path
) -> None:
    embedded.define("web", embedded.image("web.qcow2", "8M"))
    planned()
    manifest = tmp_path / "plan/web/vm.yaml"
    text = manifest.read_text()
    manifest.write_text(text.replace("bus: virtio", "bus: carrier-pigeon"))
    assert "carrier-pigeon" in on_cluster("apply", status=1).stderr
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: web-init, namespace: vms}\nstringData: {a: hunter2}\n---\n"
    manifest.write_text(secret + text.replace("256Mi", "512Mi"))
    on_cluster("apply", "-n", "vms")
    assert machine(cluster, "web").spec["template"]["spec"]["domain"]["memory"]["guest"] == "512Mi"
    assert "web-init" in names(cluster, "secrets")
    assert "hunter2" not in (tmp_path / "plan/journal.jsonl").read_text()
    manifest.write_text(secret + text.replace("256Mi", "1Gi"))
    changed = on_cluster("diff", status=1).stdout
    assert "memory.guest: '512Mi' -> '1Gi'" in changed
    on_cluster("undo", "--yes")
    assert "web-init" not in names(cluster, "secrets")


def test_manifests_edited_into_nonsense_are_refused_in_a_line(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster, tmp_path: Path
) -> None:
    embedded.define("web", embedded.image("web.qcow2", "8M"))
    planned()
    cluster.server.namespace("other")
    manifest = tmp_path / "plan/web/vm.yaml"
    text = manifest.read_text()
    for was, becomes, status, told in (
        ("name: web\n", "name: 5\n", 2, "no Kubernetes object"),
        ("namespace: vms\n", "namespace: [vms]\n", 2, "no Kubernetes object"),
        ("namespace: vms\n", "namespace: other\n", 1, "web-vda is in namespace vms and its VM web in other"),
    ):
        manifest.write_text(text.replace(was, becomes, 1))
        done = on_cluster("apply", status=status)
        assert told in done.stderr and done.stderr.count("\n") == 1
    assert names(cluster, "persistentvolumeclaims") == []


def test_a_claim_that_was_taken_from_its_vm_is_told(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster
) -> None:
    embedded.define("web", embedded.image("web.qcow2", "8M"))
    planned()
    on_cluster("apply")
    cluster.client.delete(PersistentVolumeClaim, "web-vda", namespace="vms")
    cluster.wait(lambda: not names(cluster, "persistentvolumeclaims"), "the end of the claim")
    assert "vms/web-vda of the VM is gone" in on_cluster("apply", status=3).stderr
    on_cluster("undo", "--yes")
    on_cluster("apply")


def test_claims_that_bind_late_and_devices_that_held_data_are_filled_too(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster
) -> None:
    image = embedded.image("web.raw", "8389120", "write -P 1 0 1M", format="raw")
    embedded.define("web", image)
    for storage_class, mode in (("local", "Filesystem"), ("dirty", "Block")):
        planned(mode, f"vms: {{web: {{storage: {{default: {{storageClass: {storage_class}}}}}}}}}\n")
        on_cluster("apply")
        assert same(cluster.claim_path("vms", "web-vda"), image)
        on_cluster("undo", "--yes")
        (embedded.folder.parent / "plan/journal.jsonl").unlink()


def test_a_plan_says_that_the_proxy_cannot_be_reached(
    embedded: Host, planned: Any, kubevirt_migrate: Command, cluster: Cluster, tmp_path: Path
) -> None:
    embedded.define("web", embedded.image("web.qcow2", "8M"))
    planned()
    there = ["--context", cluster.context, "--kubeconfig", cluster.kubeconfig]

    def found() -> list[str]:
        kubevirt_migrate("plan", "inventory", "--site", "site.yaml", "-d", "plan", *there)
        report = json.loads((tmp_path / "plan/report.json").read_text())
        return [each["id"] for each in report["vms"][0]["findings"] if each["id"].startswith("cluster/")]

    assert found() == []
    config = {"metadata": {"name": "config"}, "spec": {"uploadProxyURLOverride": "https://127.0.0.1:1"}}
    cluster.client.patch(api.kinds()["cdiconfigs"], "config", config, patch_type=PatchType.MERGE)
    assert found() == ["cluster/upload-proxy"]
    cluster.client.delete(api.kinds()["cdiconfigs"], "config")
    assert found() == ["cluster/upload-proxy"]


CDROM = """<disk type='network' device='cdrom'><driver name='qemu' type='raw'/>
<source protocol='http' name='/web.iso'><host name='127.0.0.1' port='{port}'/></source>
<target dev='sda' bus='sata'/></disk>"""


def test_a_disk_on_a_web_server_is_pulled_by_cdi_itself(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster, tmp_path: Path
) -> None:
    image = embedded.image("web.iso", "2M", "write -P 7 64k 1M", format="raw")
    with serving(embedded.folder) as port:
        disk = embedded.folder / "cdrom.xml"
        disk.write_text(CDROM.format(port=port))
        embedded.define("web")
        embedded.virsh("attach-device", "web", disk, "--config")
        planned(more="sizes: {web/sda: 2Mi}\n")
        assert "CDI pulled the disk itself" in on_cluster("apply", status=3).stderr
        assert machines(cluster) == []
        on_cluster("apply", "--accept-unverified")
    assert same(cluster.claim_path("vms", "web-sda"), image.rename(tmp_path / "web.raw"))
    assert machines(cluster) == ["web"]
    on_cluster("verify")
    on_cluster("undo", "--yes")
    cluster.wait(lambda: not names(cluster, "persistentvolumeclaims"), "the end of the claim")


ORIGINS = {
    "docker://registry.test/web": "docker://registry.test/web",
    "imageio://engine.test/4c1d?secretRef=login&certConfigMap=authority": "https://engine.test/ovirt-engine/api#4c1d",
}


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_disk_of_a_registry_or_an_engine_is_pulled_by_cdi_itself(
    origin: str, embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster, tmp_path: Path
) -> None:
    image = embedded.image("web.raw", "2M", "write -P 7 64k 1M", format="raw")
    cluster.imports.origins[ORIGINS[origin]] = image
    embedded.define("web", image)
    planned()
    plan = tmp_path / "plan/plan.json"
    document = json.loads(plan.read_text())
    document["vms"][0]["disks"][0]["path"] = origin
    plan.write_text(json.dumps(document))
    on_cluster("apply", "--accept-unverified")
    assert same(cluster.claim_path("vms", "web-vda"), image)
    assert machines(cluster) == ["web"]


def test_what_cdi_refuses_to_pull_is_told_before_anything_is_made(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster
) -> None:
    disk = embedded.folder / "disk.xml"
    disk.write_text(CDROM.format(port=1).replace("cdrom", "disk"))
    embedded.define("web", embedded.image("web.qcow2", "8M"))
    embedded.virsh("attach-device", "web", disk, "--config")
    modes = "{default: {accessModes: [ReadWriteMany, ReadWriteOnce]}}"
    planned(more="sizes: {web/sda: 2Mi}\n" + f"vms: {{web: {{storage: {modes}}}}}\n")
    assert "multiple accessModes" in on_cluster("apply", status=1).stderr
    assert names(cluster, "persistentvolumeclaims") == []


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


SHARED = """<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/><source file='{path}'/>
<target dev='vdb' bus='virtio'/><shareable/></disk>"""


def test_a_disk_that_vms_share_is_sent_once(
    embedded: Host, planned: Any, on_cluster: Command, cluster: Cluster
) -> None:
    image = embedded.image("shared.raw", "8M", "write -P 4 1M 1M", format="raw")
    disk = embedded.folder / "shared.xml"
    disk.write_text(SHARED.format(path=image))
    for name in ("one", "two"):
        embedded.define(name)
        embedded.virsh("attach-device", name, disk, "--config")
    planned("Block")
    on_cluster("apply")
    (claim,) = names(cluster, "persistentvolumeclaims")
    assert same(cluster.claim_path("vms", claim), image)
    assert machines(cluster) == ["one", "two"]
    assert sum(upload.method == "POST" for upload in cluster.uploads.seen) == 1
    assert "vms/one stays" not in on_cluster("undo", "--yes", "--select", "one", status=0).stderr
    on_cluster("undo", "--yes")
    assert (names(cluster, "persistentvolumeclaims"), machines(cluster)) == ([], [])
