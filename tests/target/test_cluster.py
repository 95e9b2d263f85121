"""What a real API server tells about a cluster, and what a plan makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.server import Server

from migrate.model import Refused
from migrate.target import api, cluster
from migrate.target.cluster import Address, Modes, Scope

GIB = Fraction(2**30)
GOLDEN = Path(__file__).parents[1] / "golden"
DOMAIN = """<domain type='qemu'><name>web</name><uuid>5f0c4e1a-0001-4a61-8b0e-0c1c0a9c7c11</uuid>
<memory unit='MiB'>512</memory><vcpu>2</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>
<cpu mode='custom'><model>Skylake-Client</model></cpu><devices>
<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><model type='virtio'/></interface>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/images/web.qcow2'/>
<target dev='vda' bus='virtio'/></disk></devices></domain>"""
SITE = """namespace: vms
storage: {default: {storageClass: fast}}
networks: {"bridge:br0": {multus: vms/office}}
sizes: {"web/vda": 1Gi}
"""
DEVICES = {f"devices.kubevirt.io/{name}": "1k" for name in ("kvm", "tun", "vhost-net")}
OF_CONTAINERS = {"type": "Container", "default": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "4"}}
LIMIT = {"type": "PersistentVolumeClaim", "max": {"storage": "512Mi"}}


def with_nic(network: str, **fields: Any) -> dict[str, Any]:
    """A template's spec with one NIC on a network."""
    nics = [{"name": "a", **fields}]
    networks = [{"name": "a", "multus": {"networkName": network}}]
    return {"domain": {"devices": {"interfaces": nics}}, "networks": networks}


@pytest.fixture
def fitting(kubernetes: Server) -> Server:
    """A cluster that DOMAIN fits."""
    for name in ("kubevirt", "vms"):
        kubernetes.namespace(name)
    kubernetes.add(
        "kubevirts",
        "kubevirt",
        "kubevirt",
        metadata={"annotations": {"kubevirt.io/vga-display-efi-x86": "true"}},
        spec={
            "configuration": {
                "developerConfiguration": {
                    "featureGates": ["VSOCK", "NoSuchGate"],
                    "disabledFeatureGates": ["Snapshot"],
                },
                "obsoleteCPUModels": {"Conroe": True},
            }
        },
        status={"observedKubeVirtVersion": "v1.9.0"},
    )
    kubernetes.add(
        "nodes",
        "n1",
        metadata={
            "labels": {
                "kubevirt.io/schedulable": "true",
                "kubernetes.io/arch": "amd64",
                "cpu-model.node.kubevirt.io/Skylake-Client": "true",
            }
        },
        status={"allocatable": {"memory": "8Gi", "cpu": "4", "hugepages-1Gi": "2Gi", **DEVICES}},
    )
    of_vms = {"annotations": {"storageclass.kubevirt.io/is-default-virt-class": "true"}}
    kubernetes.add("storageclasses", "fast", provisioner="example.com/fast", metadata=of_vms)
    kubernetes.add("network-attachment-definitions", "office", "vms", spec={"config": "{}"})
    return kubernetes


@pytest.fixture
def planned(fitting: Server, tmp_path: Path, kubevirt_migrate: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Plans DOMAIN for the cluster and gives its row of the report; `status` is the exit code."""
    (tmp_path / "web.xml").write_text(DOMAIN)
    (tmp_path / "site.yaml").write_text(SITE)

    def plan(*args: str, status: int = 0, context: str = "admin") -> dict[str, Any]:
        where = ("--kubeconfig", fitting.kubeconfig, "--context", context)
        kubevirt_migrate("plan", "web.xml", "-d", "plan", "--site", "site.yaml", *where, *args, status=status)
        return json.loads((tmp_path / "plan/report.json").read_text())["vms"][0]

    yield plan


def ids(row: dict[str, Any], severity: str = "blocker") -> list[str]:
    return [finding["id"] for finding in row["findings"] if finding["severity"] == severity]


def test_facts_are_read_as_they_are(fitting: Server) -> None:
    modes = {"accessModes": ["ReadWriteMany"], "volumeMode": "Block"}
    least = {"annotations": {"cdi.kubevirt.io/minimumSupportedPvcSize": "4Gi"}}
    fitting.add("storageprofiles", "fast", metadata=least, status={"claimPropertySets": [modes]})
    fitting.add("storageprofiles", "slow")
    annotations = {"annotations": {"k8s.v1.cni.cncf.io/resourceName": "intel.com/vf"}}
    fitting.add("network-attachment-definitions", "fast-net", "vms", metadata=annotations, spec={"config": "{}"})
    fitting.add("virtualmachineclusterinstancetypes", "u1.small", spec={})
    fitting.add("virtualmachinepreferences", "linux", "vms", spec={})
    fitting.add("limitranges", "sizes", "vms", spec={"limits": [LIMIT, OF_CONTAINERS]})
    hard = {"hard": {"requests.storage": "5Gi"}}
    fitting.add("resourcequotas", "all", "vms", spec=hard, status=hard | {"used": {"requests.storage": "1Gi"}})
    urgent = {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}
    fitting.add(
        "resourcequotas", "urgent", "vms", spec={"hard": {"pods": 1}, "scopeSelector": {"matchExpressions": [urgent]}}
    )
    addresses = [{"name": "a", "mac": "02:AA:00:00:00:01"}]
    fitting.add("virtualmachineinstances", "db", "vms", spec=with_nic("office"), status={"interfaces": addresses})

    fitting.namespace("vms", **{cluster.POD_SECURITY: "baseline", cluster.MEMORY_RATIO: "1.5"})

    found = cluster.read(fitting.client, "vms")

    assert found.unread == ()
    assert found.namespaces.get("vms") == cluster.Namespace("baseline", Fraction("1.5"))
    assert found.namespaces.get("kubevirt") == cluster.Namespace("", Fraction(2))
    assert found.kubevirt == "v1.9.0"
    node = found.nodes.within()["n1"]
    devices = dict.fromkeys(DEVICES, 1000)
    assert node.allocatable == {"memory": 8 * GIB, "cpu": 4, "hugepages-1Gi": 2 * GIB, **devices}
    assert node.taints == ()
    assert (found.storage_classes.within(), found.virt_class) == ({"fast": False}, "fast")
    assert found.storage_profiles.within() == {"fast": (Modes(("ReadWriteMany",), "Block"),), "slow": ()}
    assert found.least_sizes == {"fast": 4 * GIB}
    assert found.networks.within("vms") == {"office": "", "fast-net": "intel.com/vf"}
    assert "VirtualMachineClusterInstancetype/u1.small" in found.instancetypes.within()
    assert "VirtualMachinePreference/linux" in found.preferences.within("vms")
    (of_claims, of_pods) = found.limits.within("vms")["sizes"]
    assert of_claims.most == {"storage": GIB / 2}
    assert (of_pods.defaults, of_pods.ratios) == ({"cpu": 2}, {"cpu": 4})
    assert found.quotas.within("vms")["all"].used == {"requests.storage": GIB}
    assert found.quotas.within("vms")["urgent"].scopes == (Scope("PriorityClass", "In", ("high",)),)
    assert found.addresses == {"02:aa:00:00:00:01": (Address("vms/db", "vms/office"),)}


@pytest.mark.parametrize(
    ("label", "ratio"),
    [
        ("3", 3),
        ("1", 1),
        ("1.25", 1.25),
        ("2.5e1", 25),
        ("0.99", 2),
        ("0", 2),
        ("much", 2),
        ("", 2),
        ("1_0", 2),
        ("1.2.3", 2),
        ("1e999", 2),
    ],
)
def test_a_ratio_that_is_none_counts_as_the_default(label: str, ratio: float) -> None:
    found = cluster._namespace({"metadata": {"name": "vms", "labels": {cluster.MEMORY_RATIO: label}}})
    assert found.memory_ratio == ratio


def test_version_and_gates_are_the_clusters(fitting: Server) -> None:
    found = cluster.read(fitting.client, "vms")
    gates, obsolete = frozenset({"+VSOCK", "-Snapshot"}), frozenset({"Conroe"})
    assert found.target() == cluster.Target("1.9", gates, vga_for_efi=True, obsolete=obsolete)
    assert found.target("-VSOCK").gates == {"-VSOCK", "-Snapshot"}


def test_what_an_administrator_widens_counts() -> None:
    allowed = {"arm64": {"emulatedMachines": ["virt*"]}, "amd64": {"emulatedMachines": ["q35*", "pc-i440fx*"]}}
    widened = {"architectureConfiguration": allowed, "persistentReservationConfiguration": {"enabled": True}}
    found = cluster.Cluster("c", kubevirt="v1.7.0", architecture="arm64", configuration=widened).target()
    assert found.gates == {"+PersistentReservation", "+MultiArchitecture"}
    assert found.machines == {"arm64/virt*", "amd64/q35*", "amd64/pc-i440fx*"}
    assert not found.vga_for_efi
    plugins = {
        "macvtap": {"domainAttachmentType": "tap", "migration": {}},
        "l2": {"domainAttachmentType": "managedTap"},
        "passt": {"sidecarImage": "a/b", "migration": {"method": "link-refresh"}},
        "odd": {"domainAttachmentType": "tap", "sidecarImage": "a/b"},
    }
    bound = cluster.Cluster("c", kubevirt="v1.9.0", configuration={"network": {"binding": plugins}})
    assert bound.target().plugins == {"macvtap/tap", "macvtap/migration", "l2/tap", "passt/migration"}
    assert cluster.Cluster("c", kubevirt="v1.9.0", configuration={"network": None}).target().plugins == frozenset()
    annotated = cluster.Cluster("c", kubevirt="v1.9.0", annotations={"kubevirt.io/vga-display-efi-x86": ""})
    assert annotated.target().vga_for_efi
    listed = cluster.Cluster("c", kubevirt="v1.9.0", configuration={"obsoleteCPUModels": {"Penryn": False}})
    assert listed.target().obsolete == {"Penryn"}
    older = cluster.Cluster("c", kubevirt="v1.7.0", configuration={"emulatedMachines": ["pc*"]}).target()
    assert older.machines == {f"{arch}/pc*" for arch in ("amd64", "arm64", "s390x")}


def test_without_kubevirt_the_version_has_to_be_named(kubernetes: Server) -> None:
    with pytest.raises(Refused, match="--kubevirt"):
        cluster.read(kubernetes.client, "vms").target()


def test_what_may_not_be_read_is_named_and_not_judged(fitting: Server) -> None:
    fitting.let_read("stranger", "nodes", "storageclasses")
    found = cluster.read(api.connect("stranger", fitting.kubeconfig), "vms")
    assert list(found.nodes.within()) == ["n1"]
    assert "kubevirts" in found.unread and "nodes" not in found.unread
    assert not found.networks.knows("vms")


def test_one_namespace_is_read_where_all_may_not_be(fitting: Server) -> None:
    fitting.let_read("stranger", "network-attachment-definitions", namespace="vms")
    found = cluster.read(api.connect("stranger", fitting.kubeconfig), "vms")
    assert list(found.networks.within("vms")) == ["office"]
    assert found.networks.knows("vms") and not found.networks.knows("other")
    assert "network-attachment-definitions of other namespaces" in found.unread


def test_kinds_of_the_cluster_are_known_where_those_of_one_namespace_are(fitting: Server) -> None:
    fitting.let_read("stranger", "virtualmachineclusterpreferences", "virtualmachineclusterinstancetypes")
    fitting.let_read("stranger", "virtualmachinepreferences", namespace="vms")
    found = cluster.read(api.connect("stranger", fitting.kubeconfig), "vms")
    assert [found.preferences.knows(inside) for inside in ("", "vms", "other")] == [True, True, False]
    assert [found.instancetypes.knows(inside) for inside in ("", "vms")] == [True, False]


def test_kinds_of_namespaces_are_known_where_those_of_the_cluster_are_not(fitting: Server) -> None:
    fitting.let_read("stranger", "virtualmachinepreferences")
    found = cluster.read(api.connect("stranger", fitting.kubeconfig), "vms")
    assert [found.preferences.knows(inside) for inside in ("", "vms", "other")] == [False, True, True]


def test_a_vm_that_fits_is_not_blocked(planned: Callable[..., Any]) -> None:
    assert ids(planned("--dry-run", "server")) == []


def test_findings_lead_back_to_the_rule_that_wrote_the_field(fitting: Server, planned: Callable[..., Any]) -> None:
    model = "cpu-model.node.kubevirt.io/Skylake-"
    labels = {f"{model}Client": None, f"{model}Server": "true"}
    fitting.client.patch(api.kinds()["nodes"], "n1", {"metadata": {"labels": labels}})
    row = planned(status=1)
    (finding,) = [finding for finding in row["findings"] if finding["id"] == "cluster/cpu-model"]
    assert finding["severity"] == "blocker"
    assert finding["rule"] == "cpu-model" or finding["rule"].startswith("cpu")
    assert "Skylake-Client" in finding["because"] and "Skylake-Server" in finding["remedy"]


def test_an_address_on_the_same_network_is_taken(fitting: Server, planned: Callable[..., Any]) -> None:
    template = {"spec": with_nic("vms/office", macAddress="52:54:00:00:00:01", bridge={})}
    fitting.add("virtualmachines", "other", "vms", spec={"runStrategy": "Halted", "template": template})
    assert "cluster/mac-taken" in ids(planned(status=1))


def test_a_limit_range_is_judged_as_the_api_server_does(
    fitting: Server, planned: Callable[..., Any], tmp_path: Path
) -> None:
    planned()
    claim = yaml.safe_load((tmp_path / "plan/web/claims.yaml").read_text())
    assert api.refusal(fitting.client, claim) is None
    fitting.add("limitranges", "small", "vms", spec={"limits": [LIMIT]})
    assert "cluster/limit-claim" in ids(planned(status=1))
    assert "maximum storage usage" in api.refusal(fitting.client, claim)


# What the VM's container of DOMAIN's pod asks for: renderresources.go of KubeVirt.
ASKED = {"requests": {"cpu": "200m", "memory": "809Mi", "ephemeral-storage": "50M"}}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"type": "Pod", "max": {"ephemeral-storage": "64Gi"}}, "No limit is specified"),
        ({"type": "Container", "default": {"memory": "512Mi"}}, "must be less than or equal to memory limit"),
        ({"type": "Container", "default": {"cpu": "4"}, "maxLimitRequestRatio": {"cpu": "4"}}, "provided ratio is 20"),
        ({"type": "Container", "max": {"cpu": "4"}, "maxLimitRequestRatio": {"cpu": "4"}}, "provided ratio is 20"),
        ({"type": "Container", "maxLimitRequestRatio": {"cpu": "4"}}, "no limit is specified"),
        ({"type": "Container", "max": {"memory": "64Gi"}, "defaultRequest": {"cpu": "4"}}, None),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value),
)
def test_a_limit_range_of_pods_is_judged_as_the_api_server_does(
    fitting: Server, planned: Callable[..., Any], row: dict[str, Any], says: str | None
) -> None:
    fitting.add("limitranges", "sizes", "vms", spec={"limits": [row]})
    containers = [{"name": "compute", "image": "x", "resources": ASKED}]
    pod = {"metadata": {"name": "p", "namespace": "vms"}, "spec": {"containers": containers}}
    refusal = api.refusal(fitting.client, {"apiVersion": "v1", "kind": "Pod", **pod})
    assert says in refusal if says else refusal is None
    assert ids(planned(status=1 if says else 0)) == ([f"cluster/limit-{row['type'].lower()}"] if says else [])


def test_a_quota_is_judged_as_the_api_server_does(fitting: Server, planned: Callable[..., Any], tmp_path: Path) -> None:
    planned()
    claim = yaml.safe_load((tmp_path / "plan/web/claims.yaml").read_text())
    hard = {"hard": {"requests.storage": "2Gi"}}
    fitting.add("resourcequotas", "disks", "vms", spec=hard, status=hard | {"used": {"requests.storage": "1536Mi"}})
    assert "cluster/quota" in ids(planned(status=1))
    assert "exceeded quota: disks" in api.refusal(fitting.client, claim)


def test_what_the_api_server_refuses_is_a_blocker_with_its_words(fitting: Server, planned: Callable[..., Any]) -> None:
    fitting.let_read("stranger", *api.kinds())
    assert ids(planned(context="stranger")) == []
    row = planned("--dry-run", "server", context="stranger", status=1)
    assert ids(row) == ["cluster/refused", "cluster/refused"]
    assert any('User "stranger" cannot patch resource "virtualmachines"' in item["because"] for item in row["findings"])


def test_what_the_api_server_refuses_can_be_waived(
    fitting: Server, planned: Callable[..., Any], tmp_path: Path
) -> None:
    fitting.let_read("stranger", *api.kinds())
    waivers = [{"finding": "cluster/refused", "reason": "another user creates it", "until": "2099-01-01"}]
    (tmp_path / "site.yaml").write_text(SITE + yaml.safe_dump({"waivers": waivers}))
    row = planned("--dry-run", "server", context="stranger")
    assert row["verdict"] != "blocked" and ids(row) == ["cluster/refused", "cluster/refused"]


def test_a_dry_run_leaves_nothing_behind(fitting: Server, planned: Callable[..., Any]) -> None:
    planned("--dry-run", "server")
    assert list(fitting.client.list(api.kinds()["virtualmachines"], namespace="vms")) == []
    assert list(fitting.client.list(api.kinds()["persistentvolumeclaims"], namespace="vms")) == []


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_api_server_takes_the_golden_manifests(kubernetes: Server, golden: Path) -> None:
    documents = [item for item in yaml.safe_load_all(golden.read_text()) if isinstance(item, dict) and "kind" in item]
    for item in documents:
        kubernetes.namespace(item["metadata"]["namespace"])
        assert api.refusal(kubernetes.client, item) is None
    assert documents or golden.stem == "site"


def test_the_namespace_of_the_command_line_counts(fitting: Server, planned: Callable[..., Any]) -> None:
    row = planned("-n", "elsewhere", status=1)
    assert row["disks"][0]["claim"].startswith("elsewhere/")
    assert "cluster/namespace" in ids(row)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("contexts: [{name: a, context: {cluster: gone, user: u}}]\nclusters: []\nusers: []\n", "gone"),
        ("contexts: [{name: b, context: {}}]\n", "no context a; it has b"),
        ("a: [", "not YAML"),
        (None, "No such file"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why(tmp_path: Path, config: str | None, says: str) -> None:
    file = tmp_path / "config"
    if config:
        file.write_text(config)
    with pytest.raises(Refused, match=says):
        api.connect("a", file)


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path, kubevirt_migrate: Callable[..., Any]) -> None:
    (tmp_path / "web.xml").write_text(DOMAIN)
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "a", "context": {"cluster": "c"}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    done = kubevirt_migrate("plan", "web.xml", "-d", "plan", "--kubeconfig", "config", "--context", "a", status=2)
    assert "no answer from the API server" in done.stderr and done.stderr.count("\n") == 1


def test_contexts_are_found_in_any_file_of_the_environment(
    kubernetes: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_text("contexts: []\nclusters: []\n")
    monkeypatch.setenv("KUBECONFIG", f"{other}:{kubernetes.kubeconfig}")
    assert cluster.read(api.connect("admin", None), "default").unread == ()


def test_a_login_program_of_version_1_is_asked(kubernetes: Server, tmp_path: Path) -> None:
    program = tmp_path / "login"
    program.write_text(
        f"#!{sys.executable}\nimport json, os\nasked = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "print(json.dumps({'apiVersion': asked['apiVersion'], 'status': {'token': 'admin-token'}}))\n"
    )
    program.chmod(0o755)
    config = yaml.safe_load(kubernetes.kubeconfig.read_text())
    login = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program)}
    config["users"] = [{"name": "admin", "user": {"exec": login}}]
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    assert cluster.read(api.connect("admin", tmp_path / "config"), "default").unread == ()


def test_nothing_of_kubernetes_is_imported_without_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "web.xml").write_text(DOMAIN)
    code = "import sys; from migrate.cli import _status; _status(); print('lightkube' in sys.modules)"
    command = [sys.executable, "-c", code, "plan", "web.xml", "-d", "plan", "-o", "json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
