"""README's commands for a cluster, as they stand there."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from cluster.double import Cluster
from cluster.test_apply import IMAGE, SITE, machine, machines
from conftest import Command
from real.host import Host
from real.host import same as same_here
from real.test_remote import same as same_there
from sources import elsewhere as remote
from sources.daemon import disk

README = (Path(__file__).parents[2] / "README.md").read_text()


def commands(cluster: Cluster, *uris: str) -> list[list[str]]:
    """The commands, with the names of what is there in place of the examples'."""
    shown = README.partition("On a cluster with KubeVirt and CDI:")[2].partition("`apply`")[0]
    lines = [shlex.split(line)[1:] for line in shown.splitlines() if line.startswith("    kubevirt-migrate ")]
    names = dict(zip(("qemu:///system", "qemu+ssh://root@HOST/system"), uris, strict=True))
    names |= {"NAME": cluster.context, "REGISTRY/kubevirt-migrate-worker": IMAGE}
    return [[names.get(word, word) for word in line] for line in lines]


def test_a_local_domain_and_one_over_ssh_arrive_in_five_commands(
    embedded: Host,
    elsewhere: remote.Host,
    cluster: Cluster,
    kubevirt_migrate: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = embedded.image("base.qcow2", "16M", "write -P 1 0 1M")
    near = embedded.image("near.qcow2", "24M", "write -P 2 8M 5M", base=base)
    embedded.define("near", near)
    below = elsewhere.image("below.qcow2", "write -P 3 0 1M", size="16M")
    elsewhere.image("far.qcow2", "write -P 4 512k 9M", backing=str(below), size="16M")
    elsewhere.define("far", disk(remote.IMAGES / "far.qcow2"))
    assert not (remote.IMAGES / "far.qcow2").exists()
    (tmp_path / "site.yaml").write_text(SITE.format(mode="Filesystem"))
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))

    done = [kubevirt_migrate(*command).stdout for command in commands(cluster, embedded.uri, elsewhere.url())]

    assert len(done) == 5
    assert done[4].count("verified") == 2
    assert machines(cluster) == ["far", "near"]
    assert {machine(cluster, name).spec["runStrategy"] for name in ("far", "near")} == {"Halted"}
    assert same_here(cluster.claim_path("vms", "near-vda"), near)
    assert same_there(elsewhere, cluster.claim_path("vms", "far-vda"), "far.qcow2", "qcow2")
    records = [json.loads(line) for line in (tmp_path / "plan/journal.jsonl").read_text().splitlines()]
    proofs = [record["evidence"] for record in records if record["kind"] == "evidence"]
    assert {(each["vm"], each["method"], each["unverified"]) for each in proofs} == {
        ("near", "cdi-upload", ""),
        ("far", "cdi-upload", ""),
    }
    assert all(each["source"] == each["read_back"] for each in proofs)
    assert elsewhere.servers() == []
