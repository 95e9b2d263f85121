"""The site file: what each key decides, which key counts, what is refused, and what is waived."""

from __future__ import annotations

import copy
import json
import re
import zoneinfo
from collections.abc import Iterator
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate import collisions, pipeline, reporting
from migrate import site as sites
from migrate.data import data_path
from migrate.decisions import FAMILIES
from migrate.inventory import Inventory
from migrate.mapping import rule_files
from migrate.model import VM, Disk, Finding, LeftOut, Refused, Skipped, Translation
from migrate.site import KEYS, VM_KEYS, Lun, Named, Network, Site
from migrate.target.vocabulary import strict, target

UUID = "6bb2d3d6-6f2a-4b1c-9d6e-3f9a0a4f7c11"
EXAMPLE = data_path("examples", "site.yaml")
SCHEMA = json.loads(data_path("reports", "site.schema.json").read_text())
DAY = date(2027, 1, 1)
DOMAIN = """
<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid><memory unit='GiB'>2</memory><vcpu>2</vcpu>
{metadata}<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><cpu mode='custom'><model>Opteron_G5</model></cpu>
<devices>
  <disk type='file'><source file='/srv/a.img'/><target dev='vda' bus='{bus}'/></disk>
  <interface type='bridge'><source bridge='br0'/><vlan><tag id='42'/></vlan><model type='virtio'/></interface>
</devices></domain>
"""
OSINFO = """
<metadata><l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'><l:os id='{}'/></l:libosinfo></metadata>
"""


def read(text: str) -> Site:
    """The site of a YAML text, which the JSON Schema takes too."""
    jsonschema.validate(_dates_as_text(yaml.safe_load(text)), SCHEMA)
    return sites.checked(sites.parse(text, "site.yaml"), "site.yaml")


def vm(name: str = "web-1", **facts: Any) -> VM:
    return VM(name, UUID, "libvirt", "qemu://kvm-1/system", "qemu:///system", "kvm-1", "web-1", "shut off", **facts)


def translated(text: str = "", today: date = DAY, bus: str = "virtio", osinfo: str = "", **facts: Any) -> Translation:
    disks = facts.pop("disks", [Disk("vda", path="/srv/a.img", format="raw", capacity=2**30)])
    found = vm(disks=disks, **facts)
    metadata = OSINFO.format(osinfo) if osinfo else ""
    found.xml = DOMAIN.format(name=found.name, uuid=UUID, bus=bus, metadata=metadata).encode()
    networks = "" if "networks" in text else "\nnetworks: {default: {multus: net}}\n"
    result = pipeline.translate(found, rule_files.load(), target("1.9"), read(text + networks), today)
    assert not result.internal
    for manifest in (result.manifest, *result.claims):
        assert not strict(manifest, target("1.9"))
    return result


def ids(translation: Translation) -> set[str]:
    return {finding.id for finding in translation.all_findings()}


def test_the_example_is_valid_and_has_every_key() -> None:
    text = EXAMPLE.read_text()
    data = _dates_as_text(yaml.safe_load(text))
    assert set(data) == set(KEYS)
    jsonschema.validate(data, SCHEMA)
    site = sites.load(EXAMPLE)
    assert site.text == text
    assert site.of(vm()).namespace == "shop"
    assert site.of(vm("db-9")).wave == 2


def test_the_schema_has_the_keys_that_the_reader_has() -> None:
    assert set(SCHEMA["properties"]) == set(KEYS)
    assert set(SCHEMA["$defs"]["vm"]["properties"]) == {*VM_KEYS, "skip", "wave"}
    waiver = SCHEMA["$defs"]["waiver"]["properties"]
    assert set(waiver) == set(sites.WAIVER_KEYS)
    assert SCHEMA["$defs"]["runStrategy"]["enum"][:-1] == list(sites.RUN_STRATEGIES)


@pytest.mark.parametrize("text", ["", "networks:", "storage: {}\nvms: {}\nwaivers: []"])
def test_a_file_that_decides_nothing_is_no_site(text: str) -> None:
    found = read(text).of(vm())
    assert (found.namespace, found.storage_of(Disk("vda")), found.run_strategy) == (
        "default",
        sites.Storage(),
        "Halted",
    )
    assert found.network("bridge", "br0") is None


NAMESPACES = """
namespace: rest
namespaces: {"host:kvm-*": byhost, "host:kvm-1": thishost, "project:fin*": money, "tag:shop": shop, "vm:db-*": db}
"""


@pytest.mark.parametrize(
    ("facts", "namespace"),
    [
        ({"name": "db-1", "tags": ["shop"], "project": "finance"}, "db"),
        ({"tags": ["a", "shop"], "project": "finance"}, "shop"),
        ({"project": "finance"}, "money"),
        ({}, "thishost"),
    ],
)
def test_the_nearest_owner_has_the_namespace(facts: dict[str, Any], namespace: str) -> None:
    assert read(NAMESPACES).of(vm(**facts)).namespace == namespace


def test_the_namespace_is_that_of_the_vm_and_of_its_claims_and_of_the_plan() -> None:
    found = translated('namespaces: {"host:kvm-1": apps}')
    objects = [found.manifest, *found.claims]
    assert [each["metadata"]["namespace"] for each in objects] == ["apps", "apps"]
    assert found.disks[0].namespace == "apps"


def test_a_vm_that_no_namespace_is_for_is_blocked_unless_one_is_given_for_the_rest() -> None:
    assert "site/no-namespace" in ids(translated('namespaces: {"host:other": apps}'))
    assert translated('namespaces: {"host:other": apps}').verdict == "blocked"
    assert "site/no-namespace" not in ids(translated('namespace: vms\nnamespaces: {"host:other": apps}'))
    assert "site/no-namespace" not in ids(translated('namespaces: {"host:o": a}\nvms: {web-1: {namespace: b}}'))


STORAGE = """
storage:
  default: {storageClass: slow, accessModes: [ReadWriteMany]}
  "pool:ssd*": {storageClass: fast}
  "pool:ssd-db": {storageClass: faster, volumeMode: Block}
  "path:/srv/fast": {storageClass: srv}
  "path:/srv/*/db*": {storageClass: db}
vms: {own-*: {storage: {default: {storageClass: own}}}}
"""


@pytest.mark.parametrize(
    ("disk", "expected"),
    [
        ({}, "slow"),
        ({"pool": "ssd1"}, "fast"),
        ({"pool": "ssd-db"}, "faster"),
        ({"path": "/srv/fast/x/y.img"}, "srv"),
        ({"path": "/srv/fast"}, "srv"),
        ({"path": "/srv/faster/y.img"}, "slow"),
        ({"path": "/srv/other/db-1"}, "db"),
    ],
)
def test_storage_goes_by_pool_and_path(disk: dict[str, str], expected: str) -> None:
    found = read(STORAGE).of(vm()).storage_of(Disk("vda", **disk))
    assert found
    assert (found.storage_class, found.access_modes) == (expected, ("ReadWriteMany",))
    assert found.volume_mode == ("Block" if expected == "faster" else "Filesystem")


def test_what_a_vm_has_of_its_own_counts_before_what_is_more_exact_for_all() -> None:
    found = read(STORAGE).of(vm("own-1")).storage_of(Disk("vda", pool="ssd-db"))
    assert found and (found.storage_class, found.access_modes) == ("own", ("ReadWriteMany",))


def test_a_disk_that_no_storage_is_for_blocks_its_vm() -> None:
    found = translated('storage: {"pool:ssd": {storageClass: fast}}')
    assert "site/no-storage" in ids(found) and found.verdict == "blocked"
    assert "site/no-storage" not in ids(translated('storage: {"path:/srv": {storageClass: fast}}'))


@pytest.mark.parametrize(
    ("entry", "network"),
    [
        ("{pod: bridge}", Network("bridge")),
        ("{pod: {plugin: passt}}", Network("", None, "passt")),
        ("{multus: a/b}", Network("bridge", "a/b")),
        ("{multus: a/b, binding: sriov}", Network("sriov", "a/b")),
        ("{multus: a/b, binding: {plugin: macvtap}}", Network("", "a/b", "macvtap")),
    ],
)
def test_a_network_is_bound_by_kubevirt_or_by_a_plugin(entry: str, network: Network) -> None:
    assert read(f"networks: {{default: {entry}}}").network("direct", "eth0") == network
    jsonschema.validate({"networks": {"default": yaml.safe_load(entry)}}, SCHEMA)


@pytest.mark.parametrize("binding", ["macvtap", {}, {"plugin": ""}, {"plugin": 1}, {"plugin": "a", "b": "c"}])
def test_the_schema_refuses_what_is_no_binding(binding: Any) -> None:
    for entry in ({"pod": binding}, {"multus": "a/b", "binding": binding}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"networks": {"default": entry}}, SCHEMA)


def test_bug_a_namespace_and_storage_that_nobody_chose_were_not_said() -> None:
    said = {item.id: item for item in translated().findings if item.id.startswith("site/")}
    assert set(said) == {"site/default-namespace", "site/default-storage"}
    assert {item.severity for item in said.values()} == {"note"}
    assert said["site/default-namespace"].because.endswith("go to default.")
    assert said["site/default-storage"].because.endswith("default class: web-1-vda (Filesystem, ReadWriteOnce).")
    two = [Disk(name, path=f"/srv/{name}", format="raw", capacity=2**30) for name in ("vda", "vdb")]
    assert len([item for item in translated(disks=two).findings if item.id == "site/default-storage"]) == 1
    chosen = 'storage: {"path:/srv": {storageClass: fast}}\n'
    for namespace in ("namespace: default", "vms: {web-1: {namespace: a}}", 'namespaces: {"vm:web-1": a}'):
        assert not [name for name in ids(translated(chosen + namespace)) if name.startswith("site/")]


def test_a_null_chooses_no_namespace() -> None:
    assert "site/default-namespace" in ids(translated("namespace:"))
    assert "site/no-namespace" in ids(translated('namespace:\nnamespaces: {"host:other": apps}'))


NETWORKS = """
networks:
  default: {multus: n/default}
  bridge: {multus: n/bridges}
  "bridge:br*": {multus: n/br}
  "bridge:br0": {multus: n/br0}
  "bridge:br*/vlan:42": {multus: n/vlan42}
  "bridge:br0/vlan:10,20": {multus: n/trunk}
  "network:ovs": {multus: n/ovs}
  "network:ovs/portgroup:db": {multus: n/db}
  "network/vlan:7": {multus: n/seven}
  user: {pod: masquerade}
  "hostdev:0000:06:10.*": {multus: n/vf, binding: sriov}
"""


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (("bridge", "virbr0"), "bridges"),
        (("bridge", "br1"), "br"),
        (("bridge", "br0"), "br0"),
        (("bridge", "br0", "", "42"), "vlan42"),
        (("bridge", "br0", "", "10,20"), "trunk"),
        (("bridge", "br0", "", "10"), "br0"),
        (("network", "ovs"), "ovs"),
        (("network", "ovs", "web"), "ovs"),
        (("network", "ovs", "db"), "db"),
        (("network", "other", "", "7"), "seven"),
        (("hostdev", "0000:06:10.3"), "vf"),
        (("direct", "eth0"), "default"),
    ],
)
def test_networks_go_by_kind_name_port_group_and_vlan(source: tuple[str, ...], name: str) -> None:
    found = read(NETWORKS).network(*source)
    assert found and found.multus == f"n/{name}"
    assert read(NETWORKS).network("user", "") == Network("masquerade")


def test_the_vlan_of_an_interface_is_seen() -> None:
    found = translated("networks: {default: {multus: net}, 'bridge:br0/vlan:42': {multus: net/42}}")
    spec = found.manifest["spec"]["template"]["spec"]
    assert spec["networks"][0]["multus"]["networkName"] == "net/42"


def test_a_bracketed_character_stands_for_itself() -> None:
    site = read('networks: {"bridge:br[*]": {multus: star}, "bridge:br*": {multus: any}}')
    assert site.network("bridge", "br*") == Network("bridge", "star")
    assert site.network("bridge", "br1") == Network("bridge", "any")


def test_host_devices_and_cpu_models_take_globs() -> None:
    site = read("hostDevices: {'pci:0000:06:*': a.b/c, 'usb:1234:beef': a.b/d}\ncpuModels: {'Opteron_*': EPYC}")
    assert site.host_device("pci", "0000:06:12.5") == "a.b/c"
    assert site.host_device("usb", "", "1234:beef") == "a.b/d"
    assert site.cpu_model("Opteron_G3") == "EPYC"
    assert site.cpu_model("Haswell") is None


def test_a_claim_is_named_for_a_folder_and_not_for_those_below_it() -> None:
    site = read("filesystems: {/srv/www: www-files, '/srv/data-*': data}")
    assert site.filesystem("/srv/www") == "www-files"
    assert site.filesystem("/srv/data-1") == "data"
    assert site.filesystem("/srv/www/static") is None
    site = read("luns: {/dev/sdb: {fc: {wwids: [3600]}}, 'iscsi://*/1': {local: {path: /dev/sdc}, nodes: [a]}}")
    assert site.lun("/dev/sdb") == Lun({"fc": {"wwids": [3600]}})
    assert site.lun("iscsi://10.0.0.1:3260/iqn/1") == Lun({"local": {"path": "/dev/sdc"}}, ("a",))
    assert site.lun("/dev/sdb/1") is site.lun("") is None


@pytest.mark.parametrize(
    ("text", "version", "grown"),
    [
        ("luns: {/dev/sdb: {fc: {wwids: ['3600']}}}", "1.9", "vda"),
        ("", "1.9", "vda, sdb"),
        ("", "1.8", "vda, sdb"),
        # KubeVirt expands disks itself from 1.9 on.
        ("methods: [file]", "1.9", "vda, sdb"),
        ("methods: [file]", "1.8", None),
        ("methods: [adopt]", "1.8", None),
    ],
)
def test_a_lun_that_is_handed_over_was_said_to_grow(text: str, version: str, grown: str | None) -> None:
    lun = (
        "<disk type='block' device='lun'><source dev='/dev/sdb'/><target dev='sdb' bus='scsi'/></disk>"
        "<controller type='scsi' model='virtio-scsi'/></devices>"
    )
    xml = DOMAIN.format(name="web-1", uuid=UUID, bus="virtio", metadata="").replace("</devices>", lun).encode()
    disks = [Disk("vda", capacity=2**30), Disk("sdb", "lun", "block", "/dev/sdb", capacity=2**30)]
    site = read(text + "\nnetworks: {default: {multus: net}}")
    found = pipeline.translate(vm(xml=xml, disks=disks), rule_files.load(), target(version), site)
    said = [gain.value for gain in found.gains if "Filesystem claim" in gain.because]
    assert said == ([grown] if grown else [])


def test_a_cpu_model_is_replaced_and_said() -> None:
    found = translated("cpuModels: {Opteron_G5: host-model}")
    assert found.manifest["spec"]["template"]["spec"]["domain"]["cpu"]["model"] == "host-model"
    assert "cpu-model/decided" in ids(found)
    assert "cpu-model/decided" not in ids(translated("cpuModels: {Opteron_G5: Opteron_G5}"))


def test_the_most_exact_libosinfo_id_counts_and_default_is_for_the_rest() -> None:
    choices = "{'redhat.com/rhel/9*': nine, 'redhat.com/*': {kind: VirtualMachinePreference, name: red}, '*': any"
    site = read(
        f"preferences: {choices}, default: rest}}\nvms: {{web-*: {{preferences: {{'redhat.com/rhel/8*': null}}}}}}"
    )
    cluster = "VirtualMachineClusterPreference"
    assert site.preference("http://redhat.com/rhel/9.2") == Named(cluster, "nine")
    assert site.preference("http://redhat.com/rhel/8.1") == Named("VirtualMachinePreference", "red")
    assert site.preference("http://debian.org/debian/12") == Named(cluster, "any")
    assert site.preference("") == Named(cluster, "rest")
    assert site.instancetype("http://redhat.com/rhel/9.2") is None
    assert site.of(vm()).preference("http://redhat.com/rhel/8.1") is None
    assert site.of(vm()).preference("http://redhat.com/rhel/9.2") == Named(cluster, "nine")


def test_without_the_keys_no_preference_and_no_instance_type_is_selected() -> None:
    spec = translated(osinfo="http://debian.org/debian/12").manifest["spec"]
    assert not {"preference", "instancetype"} & set(spec)
    assert spec["template"]["spec"]["domain"]["cpu"]["sockets"] == 2
    assert "bootloader" not in spec["template"]["spec"]["domain"]["firmware"]


def test_a_preference_does_not_turn_a_bios_guest_into_one_of_efi() -> None:
    found = translated("preferences: {'debian.org/*': debian}", osinfo="http://debian.org/debian/12")
    assert found.manifest["spec"]["preference"] == {"kind": "VirtualMachineClusterPreference", "name": "debian"}
    assert found.manifest["spec"]["template"]["spec"]["domain"]["firmware"]["bootloader"] == {"bios": {}}


@pytest.mark.parametrize("osinfo", ["", "http://debian.org/debian/12"])
def test_an_instance_type_takes_the_place_of_the_sizes_and_each_is_said(osinfo: str) -> None:
    found = translated("instancetypes: {default: u1.medium, 'debian.org/*': u1.medium}", osinfo=osinfo)
    assert found.manifest["spec"]["instancetype"] == {"kind": "VirtualMachineClusterInstancetype", "name": "u1.medium"}
    domain = found.manifest["spec"]["template"]["spec"]["domain"]
    assert "memory" not in domain
    assert domain["cpu"] == {"model": "Opteron_G5"}
    assert {"cpu-topology/instancetype", "memory-size/instancetype"} <= ids(found)
    assert not [finding for finding in found.all_findings() if finding.severity == "blocker"]
    assert {entry.fate for entry in found.entries if entry.path in ("vcpu", "memory", "memory.unit")} == {"flag"}


def test_an_annotation_of_the_site_file_took_the_place_of_a_rules(tmp_path: Path) -> None:
    rule = "{id: frob, owns: level, copy: VirtualMachine.metadata.annotations, why: w, examples: []}"
    (tmp_path / "frob.yaml").write_text(f"about: a\neach: frob\nrules: [{rule}]\n")
    xml = DOMAIN.format(name="web-1", uuid=UUID, bus="virtio", metadata="<frob level='3'/>").encode()
    site = read("annotations: {frob-0: mine, other: mine}")
    found = pipeline.translate(vm(xml=xml, disks=[Disk("vda")]), rule_files.load(tmp_path), target("1.9"), site)
    annotations = found.manifest["metadata"]["annotations"]
    assert (annotations["frob-0"], annotations["other"]) == ("3", "mine")
    (said,) = [item for item in found.findings if item.id == "site/written"]
    assert (said.severity, said.target) == ("warning", "VirtualMachine.metadata.annotations[frob-0]")
    assert "rule frob" in said.because


def test_run_strategy_labels_and_annotations_are_written_and_are_gains() -> None:
    found = translated(
        "runStrategy: Always\nlabels: {a/b: c}\nvms: {web-*: {labels: {d: ''}, annotations: {e: 'f g'}}}"
    )
    assert found.manifest["spec"]["runStrategy"] == "Always"
    assert {"a/b": "c", "d": ""}.items() <= found.manifest["metadata"]["labels"].items()
    assert found.manifest["spec"]["template"]["metadata"]["labels"] == {"a/b": "c", "d": ""}
    assert found.manifest["metadata"]["annotations"]["e"] == "f g"
    assert {"VirtualMachine.metadata.labels[a/b]", "VirtualMachine.metadata.annotations[e]"} <= {
        gain.path for gain in found.gains
    }


UNSIZED = [Disk("vda", path="/srv/a.img", format="raw", problem="not there")]


def test_a_given_size_makes_the_claim_of_a_disk_of_unknown_size() -> None:
    without = translated(disks=UNSIZED)
    assert not without.claims and without.disks[0].unfit
    for text in ("sizes: {'web-*/vda': 3Gi}", f"sizes: {{{UUID}/v*: 3221225472}}", "vms: {web-1: {sizes: {vda: 3Gi}}}"):
        found = translated(text, disks=UNSIZED)
        assert found.disks[0].bytes == 3 * 2**30
        assert found.claims and not found.disks[0].unfit
    assert not translated("sizes: {'db-*/vda': 3Gi}", disks=UNSIZED).claims
    assert UNSIZED[0].capacity is None


def test_a_size_that_the_source_knows_better_is_said() -> None:
    found = translated("sizes: {web-1/vda: 3Gi}")
    assert found.disks[0].bytes == 2**30
    assert "site/size" in ids(found)
    assert "site/size" not in ids(translated("sizes: {web-1/vda: 1Gi}"))


def test_of_several_keys_for_a_vm_the_most_exact_counts_and_maps_are_merged() -> None:
    site = read(
        f"vms: {{{UUID}: {{namespace: one, labels: {{a: uuid}}}}, 'w*': {{namespace: two, wave: 3, labels: {{b: w}}}},"
        " 'web-1': {namespace: three, labels: {a: name}}}"
    )
    found = site.of(vm())
    assert (found.namespace, found.wave, found.labels) == ("one", 3, {"a": "uuid", "b": "w"})


def test_a_vm_left_out_is_listed_with_the_reason_and_does_not_count(tmp_path: Path) -> None:
    site = read("vms: {scratch: {skip: made anew}}")
    items = list(pipeline.plan(Inventory([vm("scratch")]), rule_files.load(), target("1.9"), site, DAY))
    assert [type(item) for item in items] == [LeftOut]
    summary = reporting.write_plan(tmp_path / "plan", items, target("1.9"))
    (row,) = json.loads((tmp_path / "plan/report.json").read_text())["skipped"]
    assert row["leftOut"] and "made anew" in row["reason"]
    assert not summary.reaches("note")
    summary.add(reporting.Row(Skipped("x", "y", "z")))
    assert summary.reaches("blocker")


WAIVED = "waivers: [{{finding: {finding}, vm: '{vm}', reason: checked, until: {until}}}]"


def waivers(finding: str = "disk-bus/ide", vm: str = "*", until: str = "2027-01-01") -> str:
    return WAIVED.format(finding=finding, vm=vm, until=until)


@pytest.mark.parametrize(
    ("waiver", "holds"),
    [
        ({}, True),
        ({"finding": "disk-bus"}, True),
        ({"finding": "'disk-*'"}, True),
        ({"finding": "disk-bus/scsi"}, False),
        ({"vm": "web-*"}, True),
        ({"vm": UUID}, True),
        ({"vm": "db-*"}, False),
        ({"until": "2026-12-31"}, False),
        ({"until": "'2027-01-02'"}, True),
    ],
)
def test_a_waived_finding_stays_and_does_not_count(waiver: dict[str, str], holds: bool, tmp_path: Path) -> None:
    found = translated(waivers(**waiver), bus="ide")
    (finding,) = [item for item in found.all_findings() if item.id == "disk-bus/ide"]
    assert bool(finding.waived) == holds
    ended = waiver.get("until") == "2026-12-31"
    assert bool(finding.ended) == ended
    summary = reporting.write_plan(tmp_path / "plan", [found], target("1.9"), "namespace: x")
    report = json.loads((tmp_path / "plan/report.json").read_text())
    jsonschema.validate(report, json.loads(data_path("reports", "report.schema.json").read_text()))
    (row,) = [item for item in report["vms"][0]["findings"] if item["id"] == "disk-bus/ide"]
    assert ("waived" in row, "waiverEnded" in row) == (holds, ended)
    assert bool(report["summary"]["waived"]) == holds
    assert [item.reason for item in summary.ended.values()] == ["checked"] * ended


@pytest.mark.parametrize(
    ("finding", "nearest"),
    [
        ("disk-buss/ide", "disk-bus/ide"),
        ("disk-bus/idee", "disk-bus/ide"),
        ("disk-bus/virtio", "disk-bus/"),
        ("admision/cpu-count", "admission"),
        ("'disc-*'", "disk-"),
        ("internal", ""),
    ],
)
def test_bug_a_waiver_of_no_finding_was_ignored(finding: str, nearest: str) -> None:
    with pytest.raises(Refused, match=f"no such finding or rule; did you mean {nearest}"):
        sites.check_waivers(read(waivers(finding)), rule_files.load())


@pytest.mark.parametrize(
    "finding",
    [
        "disk-bus",
        "disk-bus/ide",
        "disk-bus/unsupported",
        "'disk-*'",
        "'*/ide'",
        "'*'",
        "admission/cpu-count",
        "unknown",
    ],
)
def test_a_waiver_is_of_ids_rules_and_families(finding: str) -> None:
    sites.check_waivers(read(waivers(finding)), rule_files.load())
    sites.check_waivers(sites.load(EXAMPLE), rule_files.load())


def test_every_family_of_findings_that_no_rule_makes_can_be_waived() -> None:
    text = "".join(Path(module.__file__).read_text() for module in (pipeline, collisions))
    assert set(re.findall(r'"([a-z]+)/[a-z{]', text)) == set(FAMILIES)


def test_the_verdict_does_not_count_what_is_waived(tmp_path: Path) -> None:
    blocked = 'storage: {"pool:ssd": {storageClass: fast}}\n'
    assert translated(blocked).verdict == "blocked"
    waived = translated(blocked + waivers("site/no-storage"))
    assert waived.verdict != "blocked"
    summary = reporting.write_plan(tmp_path / "plan", [waived], target("1.9"))
    assert not summary.reaches("blocker")
    assert "web-1/vm.yaml" in (tmp_path / "plan/kustomization.yaml").read_text()


PLUGIN = "networks: {default: {multus: net, binding: {plugin: macvtap}}}\n"


@pytest.mark.parametrize(
    ("text", "on", "expected"),
    [
        (PLUGIN, "1.9", set()),
        (PLUGIN, "1.4", {"nic-network/unsupported"}),
        (PLUGIN + waivers("nic-network/unsupported"), "1.4", {"nic-network/unsupported", "admission/nic-binding"}),
    ],
)
def test_a_missing_binding_is_one_blocker_unless_it_is_waived(text: str, on: str, expected: set[str]) -> None:
    found = vm(disks=[Disk("vda", path="/srv/a.img", format="raw", capacity=2**30)])
    found.xml = DOMAIN.format(name=found.name, uuid=UUID, bus="virtio", metadata="").encode()
    result = pipeline.translate(found, rule_files.load(), target(on), read(text), DAY)
    assert {each.id for each in result.all_findings() if each.severity == "blocker"} == expected


def test_without_a_day_every_waiver_has_ended() -> None:
    found = translated(waivers(), date.max, "ide")
    assert not any(finding.waived for finding in found.all_findings())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("storge: {}", "did you mean storage?"),
        ("namespaces: {'hots:a': b}", "hots:a"),
        ("namespaces: {host: b}", "say which host"),
        ("namespaces: {'host:a': B}", "no name that Kubernetes takes"),
        ("storage: {'pool:': {}}", "say which pool"),
        ("storage: {'path:srv': {}}", "absolute path"),
        ("storage: {default: {class: a}}", "there is no key 'class'"),
        ("storage: {default: {accessModes: [RWO]}}", "RWO"),
        ("networks: {'bridge:br0/vlna:1': {multus: a}}", "did you mean vlan?"),
        ("networks: {'bridge:br0/vlan': {multus: a}}", "/vlan:42"),
        ("networks: {'bridge:br0/vlan:1/vlan:2': {multus: a}}", "twice"),
        ("networks: {'default/vlan:1': {multus: a}}", "stands alone"),
        ("networks: {'bridge:': {multus: a}}", "the name is empty"),
        ("networks: {'brigde:br0': {multus: a}}", "did you mean bridge?"),
        (
            "networks: {default: {multus: a, binding: macvtap}}",
            "is none of bridge, sriov; a plugin is named by `{plugin: NAME}`",
        ),
        ("networks: {default: {pod: bridge, binding: {plugin: a}}}", "or `pod: {plugin: NAME}` alone"),
        ("networks: {default: {pod: {plugn: passt}}}", "did you mean plugin?"),
        ("networks: {default: {pod: {plugin: 1}}}", "registers the plugin"),
        ("networks: {default: {pod: {plugin: ''}}}", "registers the plugin"),
        ("networks: {default: {pod: {}}}", "registers the plugin"),
        ("storage: {defualt: {storageClass: a}}", "did you mean default?"),
        ("storage: {'pol:x': {storageClass: a}}", "did you mean pool?"),
        ("storage: {'default:x': {storageClass: a}}", "`default` stands alone"),
        ("hostDevices: {'pic:0000:06:12.5': a.com/b}", "did you mean pci?"),
        ("methods: [lun]", "none of adopt"),
        ("hostDevices: {pci: a}", "say which pci"),
        ("filesystems: {srv/www: a}", "no absolute path"),
        ("filesystems: {/srv/www: A}", "no name that Kubernetes takes"),
        ("luns: {sdb: {fc: {}}}", "no absolute path"),
        ("luns: {/dev/sdb: {}}", "give one of iscsi, fc, csi, local"),
        ("luns: {/dev/sdb: {fc: {}, csi: {driver: a, volumeHandle: b}}}", "give one of"),
        ("luns: {/dev/sdb: {iscsi: {targetPortal: a, iqn: b}}}", "lun is missing"),
        ("luns: {/dev/sdb: {local: {path: /dev/sdb}}}", "name the `nodes`"),
        ("luns: {/dev/sdb: {iscssi: {}}}", "did you mean iscsi"),
        ("cpuModels: {a: 'b c'}", "CPU model"),
        ("preferences: {'http://debian.org/debian/12': a}", "without http://"),
        ("preferences: {'debian.org/*': {kind: VirtualMachineInstancetype, name: a}}", "VirtualMachinePreference"),
        ("preferences: {'debian.org/*': {kind: VirtualMachinePreference}}", "no name that Kubernetes takes"),
        ("instancetypes: {'debian.org/*': {nam: a}}", "did you mean name?"),
        ("instancetypes: {'debian.org/*': U1}", "no name that Kubernetes takes"),
        ("sizes: {vda: 1Gi}", "VM/DISK"),
        ("sizes: {a/vda: big}", "no size"),
        ("sizes: {a/vda: -1}", "no size"),
        ("sizes: {a/vda: 0}", "no size"),
        ("sizes: {a/vda: NaN}", "no size"),
        ("sizes: {a/vda: 1e99}", "no size"),
        ("runStrategy: Once", "Halted"),
        ("labels: {a: 1}", "no value of a label"),
        ("labels: {'a b': c}", "no key that Kubernetes takes"),
        ("annotations: {kubevirt-migrate/name: c}", "kubevirt-migrate"),
        ("annotations: {a: 1}", "quote it"),
        ("vms: {a: {wave: x}}", "whole number"),
        ("vms: {a: {wave: 0}}", "whole number"),
        ("vms: {a: {skip: ''}}", "say why"),
        ("vms: {a: {vms: {}}}", "there is no key 'vms'"),
        ("vms: {a: {namspace: b}}", "did you mean namespace?"),
        ("waivers: {}", "give a list"),
        ("waivers: [{finding: a, reason: b}]", "no day"),
        ("waivers: [{finding: a, reason: b, until: soon}]", "no day"),
        ("waivers: [{finding: a, until: 2027-01-01}]", "say why"),
        ("waivers: [{reason: a, until: 2027-01-01}]", "finding"),
        ("waivers: [{finding: a, reason: b, untill: 2027-01-01}]", "did you mean until?"),
        ("namespace: a\nnamespace: b", "twice"),
        ("vms: {a: {wave: 1}, a: {wave: 2}}", "twice"),
        ("- a", "pairs"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(Refused) as refusal:
        sites.checked(sites.parse(text, "site.yaml"), "site.yaml")
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    if says != "twice":
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(_dates_as_text(yaml.safe_load(text)), SCHEMA)


# Values and keys that are right in one place of a site file and wrong in others.
ODD = [
    *(
        "",
        " ",
        "x",
        "A",
        "a b",
        "*",
        "default",
        "/",
        "/a",
        "//",
        "a/b",
        "a/b/c",
        "-a",
        ".a",
        "a..b",
        "x" * 64,
        "x" * 254,
    ),
    *("http://a", "vm:", "vm:x", "pci:", "network:", "network:x/vlan:", "network:x/vlan:1/vlan:2", "network:x/frob:1"),
    *("network:x/vlan:1/portgroup:y", "user", "user:", "hostdev", "default:x", "default/vlan:1", "bridge:a:b"),
    *(
        "path:x",
        "path:/x",
        "path:rbd://x",
        "pool:",
        "pool:x",
        "kubevirt-migrate/x",
        "example.com/x",
        "a/",
        "/b/",
        "Block",
    ),
    *(
        "masquerade",
        "sriov",
        "Halted",
        "Once",
        "20Gi",
        "0",
        "0Gi",
        "1.5Gi",
        "-1",
        "1e3",
        "1Ki",
        "1K",
        "20 Gi",
        "..",
        "1.",
    ),
    *("2027-01-01", "2027-13-01", "20270101", "2027-W01-1", None, 0, 1, -1, 1.5, 10000, True, [], {}, ["a"], [1]),
    *({"a": "b"}, {"name": "x"}, {"name": None}, {"name": "x", "kind": None}, {"pod": "masquerade"}, {"multus": "a/b"}),
    *({"plugin": "a"}, {"plugin": ""}, {"plugin": None}, {"plugin": "a", "name": "b"}, {"pod": {"plugin": "a"}}),
    *({"multus": "a", "pod": "bridge"}, {"pod": "masquerade", "binding": "bridge"}, {"multus": "a", "binding": None}),
    *(
        {"storageClass": None},
        {"volumeMode": None},
        {"accessModes": []},
        {"accessModes": None},
        {"fc": {}},
        {"fc": None},
    ),
    *({"fc": {"wwids": ["1"]}}, {"fc": {"targetWWNs": ["1"]}}, {"iscsi": {}}, {"local": {"path": "/x"}}),
    *({"local": {"path": "/x"}, "nodes": []}, {"local": {"path": "/x"}, "nodes": ["n"]}, ["file", "file"], ["nope"]),
]


def _places(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every value of a file."""
    yield at
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from _places(value, (*at, key))


@settings(deadline=None, max_examples=300)
@given(
    place=st.sampled_from([*_places(yaml.safe_load(EXAMPLE.read_text()))][1:]),
    odd=st.sampled_from(ODD),
    key=st.booleans(),
)
def test_the_schema_takes_what_the_reader_takes_and_nothing_else(place: tuple[Any, ...], odd: Any, key: bool) -> None:
    data = yaml.safe_load(EXAMPLE.read_text())
    home = data
    for name in place[:-1]:
        home = home[name]
    if key and isinstance(odd, str) and isinstance(home, dict):
        home[odd] = home.pop(place[-1])
    elif place[-1] != "timezone":  # The schema does not list the time zones.
        home[place[-1]] = odd
    try:
        sites.checked(copy.deepcopy(data), "site.yaml")
        taken = True
    except Refused:
        taken = False
    assert jsonschema.Draft202012Validator(SCHEMA).is_valid(_dates_as_text(data)) is taken


def _dates_as_text(data: Any) -> Any:
    return json.loads(json.dumps(data, default=str))


def test_a_bug_of_ours_is_never_waived() -> None:
    finding = Finding("internal", ("k",), "disk-bus", "blocker", None, None, None, "because", "remedy")
    read(waivers("'*'")).waive(vm(), [finding], DAY)
    assert finding.waived is None and finding.ended is None


def test_bug_a_sizes_glob_of_the_vm_itself_gave_way_to_those_of_all() -> None:
    disk = Disk("vda")
    text = "sizes: {'*/vda': 20Gi}\nvms: {web-1: {sizes: {'*': 100Gi}}, 'web-*': {sizes: {vda: 5Gi}}}"
    given = {name: read(text).of(vm(name)).size(disk) for name in ("web-1", "web-2", "db")}
    assert given == {"web-1": 100 << 30, "web-2": 5 << 30, "db": 20 << 30}


@pytest.mark.parametrize("name", ["a..b", "a.-b", "a-.b", "a.", f"{'a.' * 126}bc"])
def test_bug_a_name_with_an_empty_part_was_a_name(name: str) -> None:
    for data in (
        {"storage": {"default": {"storageClass": name}}},
        {"networks": {"default": {"multus": name}}},
        {"networks": {"default": {"multus": f"my.ns/{name}"}}},
        {"networks": {"default": {"multus": "my.ns/a"}}},
        {"networks": {"default": {"multus": f"{'n' * 64}/a"}}},
        {"labels": {f"{name}/x": "y"}},
        {"filesystems": {"/a": name}},
        {"instancetypes": {"debian": name}},
        {"preferences": {"debian": {"name": name}}},
        {"luns": {"/a": {"local": {"path": "/b"}, "nodes": [name]}}},
    ):
        with pytest.raises(Refused, match="no name that Kubernetes takes"):
            sites.checked(data, "site.yaml")
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data, SCHEMA)
    assert read(f"networks: {{default: {{multus: {'n' * 63}/a.b-c}}}}").networks


@pytest.mark.parametrize("value", ["2027-01-01", ".inf", "{a: [2027-01-01]}", "1.5"])
def test_bug_a_lun_with_what_json_has_no_place_for_was_our_bug(value: str) -> None:
    text = f"luns: {{/dev/x: {{csi: {{driver: d.example.com, volumeHandle: {value}}}}}}}"
    with pytest.raises(Refused, match="quote it"):
        sites.checked(sites.parse(text, "site.yaml"), "site.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("luns: {/dev/sdb: {csi: &a {driver: d, volumeHandle: *a}}}", "holds its own alias"),
        ("vms: &a {b: {labels: *a}}", "holds its own alias"),
        (f"luns: {{/dev/sdb: {{csi: {{driver: d, volumeHandle: 0x{'f' * 5000}}}}}}}", "beyond 64 bits"),
        ("vms: {a: {wave: 9223372036854775808}}", "beyond 64 bits"),
        (f"luns: {'[' * 700}{']' * 700}", "recursion"),
    ],
)
def test_bug_a_circle_or_an_endless_number_was_our_bug(text: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        sites.checked(sites.parse(text, "site.yaml"), "site.yaml")


def test_an_anchor_may_be_used_many_times() -> None:
    text = "storage: {'pool:a': &a {storageClass: fast}, 'pool:b': *a, 'pool:c': *a}"
    assert len(set(map(str, sites.checked(sites.parse(text, "site"), "site").storage[0].values()))) == 1


def test_bug_a_site_file_without_end_was_read_without_end(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").symlink_to("/dev/zero")
    with pytest.raises(Refused, match="larger than 16 MB"):
        sites.load(tmp_path / "site.yaml")


def test_a_site_file_that_is_too_large_is_said_to_be_wherever_it_is_cut(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("#" + "\u00fc" * 2**23)
    with pytest.raises(Refused, match="larger than 16 MB"):
        sites.load(tmp_path / "site.yaml")


def test_bug_names_with_a_slash_fitted_no_key() -> None:
    text = "namespaces: {'project:a/b': one, 'tag:x/*': two}"
    site = sites.checked(sites.parse(text, "site"), "site")
    assert site.of(VM("v", "u", "libvirt", "s", "s", project="a/b")).namespace == "one"
    assert site.of(VM("v", "u", "libvirt", "s", "s", tags=["x/y"])).namespace == "two"
    assert not site.of(VM("v", "u", "libvirt", "s", "s", project="a")).placed


@pytest.mark.parametrize(
    ("sizes", "gibibytes"),
    [
        ({"*/vda": "1Gi", "web-1/*": "2Gi"}, 2),
        ({"web-*/*": "1Gi", "*/vda": "2Gi"}, 1),
        ({"web-1/*": "1Gi", "web-1/vda": "2Gi"}, 2),
        ({"web-1/vdb": "1Gi", "*/vda": "2Gi"}, 2),
    ],
)
def test_bug_a_size_for_more_vms_went_before_that_of_one(sizes: dict[str, str], gibibytes: int) -> None:
    site = sites.checked({"sizes": sizes}, "site")
    assert site.of(VM("web-1", "u", "libvirt", "s", "s")).size(Disk("vda")) == gibibytes * 2**30


@pytest.mark.parametrize("text", ["? [a]\n: b", "vms: {? {a: b} : c}", "labels: &a {? *a : b}", "{[]: b}"])
def test_bug_a_list_or_map_as_a_key_was_our_bug(text: str) -> None:
    with pytest.raises(Refused, match="line 1: a list or map is no key"):
        sites.parse(text, "site.yaml")


def test_bug_aliases_of_aliases_took_forever() -> None:
    names = "abcdefghij"
    rows = [f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]" for below, name in pairwise(names)]
    source = ", ".join(["driver: d", "volumeHandle: v", f"a: &a [{', '.join('x' * 10)}]", *rows])
    with pytest.raises(Refused, match="aliases written out"):
        sites.parse(f"luns: {{/dev/x: {{csi: {{{source}}}}}}}", "site.yaml")


def test_bug_a_port_group_with_a_wildcard_in_its_name_was_lost_where_its_key_names_it() -> None:
    site = read("networks: {'network:ovs/portgroup:db[*]': {multus: a/b}}")
    assert site.network_is_for("portgroup", "network", "ovs", "db*", "")
    assert not site.network_is_for("portgroup", "network", "ovs", "db1", "")
    site = sites.checked({"networks": {"network:ovs/portgroup:d?b": {"multus": "n/a"}}}, "site")
    assert site.network_is_for("portgroup", "network", "ovs", "d/b", "")


@pytest.mark.parametrize("zone", ["localtime", "Factory", "posix/Europe/Berlin", "right/UTC", "zone.tab", "", [], 1])
@pytest.mark.parametrize("of_the_machine", [True, False])
def test_bug_a_file_among_the_zones_was_a_time_zone(zone: Any, of_the_machine: bool) -> None:
    zoneinfo.reset_tzpath(None if of_the_machine else [])
    try:
        assert read("timezone: Europe/Berlin").timezone == "Europe/Berlin"
        assert read("timezone: UTC").timezone == "UTC"
        with pytest.raises(Refused, match="no IANA time zone"):
            sites.checked({"timezone": zone}, "site.yaml")
    finally:
        zoneinfo.reset_tzpath()
