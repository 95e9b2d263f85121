"""A plan carried out on a cluster: VMs with filled and verified claims, again and again, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster.double import Cluster
from conftest import Command
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
    def plan(mode: str = "Filesystem", more: str = "") -> None:
        (tmp_path / "site.yaml").write_text(SITE.format(mode=mode) + more)
        kubevirt_migrate("collect", "libvirt", embedded.uri, "-d", "inventory")
        kubevirt_migrate("plan", "inventory", "--site", "site.yaml", "-d", "plan")

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
