"""What two VMs of one plan take from each other."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from test_cli import UUID, cli, domain

SHARED = """<disk type='file'><driver name='qemu' type='raw'/><source file='/san/quorum.raw'/>
<target dev='vdb' bus='virtio'/><shareable/></disk>"""


def collected(
    tmp_path: Path, *, sizes: tuple[int, int] = (1 << 30, 1 << 30), hosts: tuple[str, str] = ("", "")
) -> Path:
    """An inventory of `a` and `b`, which share a disk of these sizes on these hosts."""
    for n, name in enumerate("ab"):
        (tmp_path / f"{name}.xml").write_text(domain(name, n, SHARED))
    stock = tmp_path / "inventory"
    cli("collect", "files", tmp_path / "a.xml", tmp_path / "b.xml", "-d", stock)
    document = json.loads((stock / "inventory.json").read_text())
    for vm, size, host in zip(document["vms"], sizes, hosts, strict=True):
        vm["host"] = host
        vm["disks"][0]["capacity"] = 1 << 20
        vm["disks"][1]["capacity"] = size
        for disk in vm["disks"]:
            disk["problem"] = None
    (stock / "inventory.json").write_text(json.dumps(document))
    return stock


def findings(tmp_path: Path, stock: Path, *args: object) -> dict[str, set[tuple[str, str]]]:
    cli("plan", stock, "-d", tmp_path / "plan", *args)
    report = json.loads((tmp_path / "plan/report.json").read_text())
    found = {vm["name"]: {(item["id"], item["severity"]) for item in vm["findings"]} for vm in report["vms"]}
    names = ("claim/", "identity/mac")
    return {vm: {item for item in items if item[0].startswith(names)} for vm, items in found.items()}


def test_a_shared_claim_stands_once_in_the_kustomize_base(tmp_path: Path) -> None:
    assert findings(tmp_path, collected(tmp_path)) == {"a": set(), "b": set()}
    plan = tmp_path / "plan"
    resources = yaml.safe_load((plan / "kustomization.yaml").read_text())["resources"]
    assert len(resources) == len(set(resources))
    objects = [item for name in resources for item in yaml.safe_load_all((plan / name).read_text())]
    names = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert sorted(names) == sorted(set(names))
    referred = {
        volume["persistentVolumeClaim"]["claimName"]
        for item in objects
        if item["kind"] == "VirtualMachine"
        for volume in item["spec"]["template"]["spec"]["volumes"]
    }
    assert referred == {name for kind, name in names if kind == "PersistentVolumeClaim"}


def test_a_shared_claim_of_two_sizes_is_a_blocker(tmp_path: Path) -> None:
    stock = collected(tmp_path, sizes=(1 << 30, 2 << 30))
    assert findings(tmp_path, stock) == {"a": set(), "b": {("claim/unequal", "blocker")}}
    resources = yaml.safe_load((tmp_path / "plan/kustomization.yaml").read_text())["resources"]
    assert resources == ["claims.yaml", "a/claims.yaml", "a/vm.yaml"]


def test_one_path_on_two_hosts_is_a_warning(tmp_path: Path) -> None:
    stock = collected(tmp_path, hosts=("one", "two"))
    assert findings(tmp_path, stock) == {"a": set(), "b": {("claim/two-hosts", "warning")}}


def test_a_disk_shared_by_vms_of_two_namespaces_is_a_blocker(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text('namespaces: {"vm:a": x, "vm:b": y}\n')
    stock = collected(tmp_path)
    found = findings(tmp_path, stock, "--site", tmp_path / "site.yaml")
    assert found == {"a": set(), "b": {("claim/two-namespaces", "blocker")}}


def test_two_disks_that_come_to_one_claim_name_are_a_blocker(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "1.xml").write_text(domain("a-b", 0))
    (source / "2.xml").write_text(domain("a", 1).replace("dev='vda'", "dev='b-vda'"))
    stock = tmp_path / "inventory"
    cli("collect", "files", source, "-d", stock)
    text = (stock / "inventory.json").read_text()
    (stock / "inventory.json").write_text(text.replace('"capacity": null', '"capacity": 1048576'))
    assert findings(tmp_path, stock) == {"a": set(), "a-b": {("claim/taken", "blocker")}}


def test_one_mac_address_in_two_vms_is_a_warning_that_names_the_other(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.xml").write_text(domain("a", 0))
    (source / "b.xml").write_text(domain("b", 0).replace(UUID.format(0), UUID.format(7)))
    assert findings(tmp_path, source) == {"a": set(), "b": {("identity/mac-twice", "warning")}}
    (item,) = (
        item
        for vm in json.loads((tmp_path / "plan/report.json").read_text())["vms"]
        for item in vm["findings"]
        if item["id"] == "identity/mac-twice"
    )
    assert "The VM a has" in item["because"]
