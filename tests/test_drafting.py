"""The first draft of a site file, and its `vms` as a table and back."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from migrate import drafting
from migrate import site as sites
from migrate.data import data_path
from migrate.inventory import Inventory
from migrate.mapping import interface, rule_files, vocabulary
from migrate.mapping.paths import Node, parse, without_secret
from migrate.mapping.rules import Rules
from migrate.mapping.signs import Context
from migrate.model import VM, Disk, Refused
from migrate.site import VM_KEYS, Site
from migrate.target.vocabulary import target

UUID = "8f2a6a3e-6a0a-4c4b-9d1e-2f2a6c1b7d1{}"
DOMAIN = """
<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid><memory unit='GiB'>2</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><cpu mode='custom'><model>Opteron_G5</model></cpu>
<metadata><l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'><l:os id='http://debian.org/debian/12'/></l:libosinfo></metadata>
<clock offset='localtime'/>
<devices>
  <interface type='bridge'><source bridge='{bridge}'/><vlan><tag id='20'/><tag id='3'/></vlan></interface>
  <interface type='network'><source network='ovs' portgroup='db'/></interface>
  <interface type='user'/>
  <interface type='hostdev'><source><address type='pci' domain='0' bus='6' slot='0x10' function='2'/></source></interface>
  <filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/w*w'/><target dir='www'/></filesystem>
  <filesystem type='ram'><source usage='1024'/><target dir='/tmp'/></filesystem>
  <hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='7' slot='0' function='0'/></source></hostdev>
  <hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>
</devices></domain>
"""  # noqa: E501
DISKS = [
    Disk("vda", pool="ssd", volume="a", capacity=1),
    Disk("vdb", path="/srv/images/a.img"),
    Disk("vdc", path="rbd://ceph/rbd/a", capacity=1),
    Disk("sda", device="cdrom"),
    Disk("sdb", device="lun", path="/dev/mapper/mpatha", capacity=1),
]


def vm(n: int = 0, name: str = "web", bridge: str = "br0", **facts: Any) -> VM:
    uuid = UUID.format(n)
    xml = DOMAIN.format(name="x", uuid=uuid, bridge=bridge).encode()
    source = ("libvirt", "qemu://kvm-1/system", "qemu:///system", "kvm-1", f"vm-{n}", "shut off")
    return VM(name, uuid, *source, disks=list(DISKS), xml=xml, **facts)


@cache
def rules() -> Rules:
    return rule_files.load()


def draft(*vms: VM) -> str:
    return drafting.draft(Inventory(list(vms)), rules())


def decided(text: str) -> Any:
    """The draft as it is when the # before every line that decides something is removed."""
    lines = (line.replace("# ", "", 1) if line.startswith("  # ") else line for line in text.splitlines())
    return yaml.safe_load("\n".join(lines))


def test_a_draft_decides_nothing_and_is_a_site_file(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(draft(vm(tags=["shop"], project="finance")))
    assert sites.load(tmp_path / "site.yaml") == Site()


def test_a_draft_has_every_host_pool_folder_network_device_and_unknown_size() -> None:
    data = decided(draft(vm(tags=["shop"], project="finance"), vm(1, "db")))
    assert set(data["namespaces"]) == {"host:kvm-1", "project:finance", "tag:shop"}
    storage = {"default", "pool:ssd", "path:/srv/images", "path:rbd://ceph/rbd", "path:/dev/mapper"}
    assert set(data["storage"]) == storage
    assert set(data["luns"]) == {"/dev/mapper/mpatha"}
    networks = {"bridge:br0/vlan:3,20", "network:ovs/portgroup:db", "user", "hostdev:0000:06:10.2"}
    assert set(data["networks"]) == networks
    assert set(data["hostDevices"]) == {"pci:0000:07:00.0", "usb:1234:beef"}
    assert set(data["filesystems"]) == {"/srv/w[*]w"}
    assert set(data["cpuModels"]) == {"Opteron_G5"}
    assert set(data["preferences"]) == set(data["instancetypes"]) == {"debian.org/debian/12"}
    assert set(data["sizes"]) == {"web/vdb", "db/vdb"}


def test_the_keys_of_a_draft_fit_what_they_were_made_of() -> None:
    data = decided(draft(vm(name="a*b", bridge="br[0]")))
    data["networks"] = {key: {"multus": "n/" + str(n)} for n, key in enumerate(data["networks"])}
    data["sizes"] = dict.fromkeys(data["sizes"], "1Gi")
    site = sites.checked({name: data[name] for name in ("networks", "sizes")}, "draft")
    assert site.network("bridge", "br[0]", "", "3,20")
    assert site.network("network", "ovs", "db")
    assert site.network("user", "")
    assert site.network("hostdev", "0000:06:10.2")
    assert site.of(vm(name="a*b")).size(DISKS[1]) == 2**30
    assert site.of(vm(name="axb")).size(DISKS[1]) is None


def test_a_draft_says_whose_each_line_is() -> None:
    text = draft(*(vm(n, f"web-{n}") for n in range(5)))
    assert '"bridge:br0/vlan:3,20": {multus: NAMESPACE/NAME} # web-0, web-1, web-2 and 2 more' in text
    assert "timezone" in text


@settings(deadline=None)
@given(name=st.text(min_size=1, max_size=40), bridge=st.text(alphabet="abc\u2028\u0085{}#:\"'*[]-", min_size=1))
def test_names_from_a_source_stay_in_their_comment(name: str, bridge: str) -> None:
    found = vm()
    found.name, found.host = name, name
    found.disks = [Disk(bridge, pool=bridge, volume="a"), Disk("vdb", path=f"/{name}/x")]
    text = draft(found)
    assert sites.checked(sites.parse(text, "draft"), "draft") == Site()
    assert isinstance(decided(text), dict)


# What XML can hold, with what means something in a key, in YAML or in a path.
NAMES = st.lists(
    st.characters(min_codepoint=0x20, exclude_categories=("Cs", "Cc", "Cn"))
    | st.sampled_from([*"/:*?[]'\"#{}, ", "://", "default", "\U000e0001"]),
    min_size=1,
    max_size=6,
).map("".join)
# What looks like the login of a URL is redacted, and no name any more.
NAMES = NAMES.filter(lambda name: without_secret(f"rbd://{name}") == f"rbd://{name}")
LINES = {
    "namespaces": "shop",
    "storage": {"storageClass": "fast"},
    "networks": {"multus": "shop/net"},
    "hostDevices": "example.com/device",
    "filesystems": "files",
    "luns": {"csi": {"driver": "example.com", "volumeHandle": "a"}},
    "cpuModels": "EPYC",
    "preferences": "preferred",
    "instancetypes": "typed",
    "sizes": 4096,
}
OTHER = "\x00other"


@settings(deadline=None)
@given(
    name=NAMES,
    kind=st.sampled_from(["network", "bridge", "direct", "default", "user"]),
    names=st.tuples(NAMES, NAMES, NAMES),
    path=NAMES | NAMES.map("/".__add__) | NAMES.map("rbd://".__add__) | st.just("rbd://x"),
)
def test_whatever_the_names_a_draft_loads_and_means_them(
    name: str, kind: str, names: tuple[str, str, str], path: str
) -> None:
    source, portgroup, vlan = names
    attribute = {"network": "network", "bridge": "bridge", "direct": "dev"}.get(kind, "name")
    domain = etree.fromstring(
        f"<domain type='kvm'><name>x</name><uuid>{UUID.format(0)}</uuid><cpu mode='custom'><model/></cpu><metadata>"
        "<l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'><l:os/></l:libosinfo></metadata><devices>"
        f"<interface type='{kind}'><source/><vlan><tag/></vlan></interface>"
        "<filesystem type='mount'><driver type='virtiofs'/><source/><target dir='www'/></filesystem>"
        "<hostdev mode='subsystem' type='mdev'><source><address/></source></hostdev></devices></domain>"
    )
    domain.find("cpu/model").text = name
    domain.find("metadata/*/*").set("id", f"http://{name}")
    nic = domain.find("devices/interface")
    nic.find("source").set(attribute, source)
    nic.find("source").set("portgroup", portgroup)
    nic.find("vlan/tag").set("id", vlan)
    domain.find("devices/filesystem/source").set("dir", path)
    domain.find("devices/hostdev/source/address").set("uuid", name)
    found = vm(name=name, tags=[name], project=name)
    found.host = name
    found.disks = [Disk("vda", pool=name, volume="a"), Disk("vdb", path=path), Disk("sdc", "lun", path=path)]
    found.xml = etree.tostring(domain)
    data = decided(draft(found))
    filled = {section: dict.fromkeys(keys, LINES[section]) for section, keys in data.items()}
    filled["storage"].pop("default", None)
    site = sites.checked(filled, "draft")
    assert {key.partition(":")[0] for key in filled["namespaces"]} == {"host", "project", "tag"}
    for owner in ({"tags": [name]}, {"project": name}):
        other = vm(**owner)
        other.host = ""
        assert site.of(other).namespace == "shop"
    assert site.of(vm(tags=[OTHER])).namespace == "default"
    assert site.storage_of(found.disks[0]) and not site.storage_of(Disk("x", pool=OTHER))
    on_path = path.startswith("/") or re.match("[a-z]+://", path)
    assert bool(site.storage_of(found.disks[1])) == bool(on_path)
    assert bool(site.lun(path)) == bool(on_path)
    assert site.host_device("mdev", name) and not site.host_device("mdev", OTHER)
    assert bool(site.filesystem(path)) == path.startswith("/")
    # Text of nothing but blanks is none.
    assert not name.strip() or site.cpu_model(name.strip())
    assert not site.cpu_model(OTHER)
    assert bool(site.preference(f"http://{name}")) == bool(site.instancetype(f"http://{name}")) == ("://" not in name)
    assert not site.preference(f"http://{OTHER}")
    assert site.of(found).size(found.disks[1]) == 4096 and site.of(vm(name=OTHER)).size(found.disks[1]) is None
    if kind == "default":
        assert set(filled["networks"]) == {"default"}
    else:
        (key,) = filled["networks"]
        assert site.network(*interface.names(*interface_of(found))) and key.startswith(kind)
        assert not site.network(kind, source, OTHER, OTHER)
        said = yaml.safe_load(interface.site_line(*interface_of(found)))["networks"]
        assert sites.checked({"networks": {key: {"multus": "a/b"} for key in said}}, "f").network(kind, source)


def test_bug_a_key_that_is_too_long_for_a_line_was_no_yaml() -> None:
    found = vm(name="x" * 1100)
    found.disks = [Disk("vda", path=f"/{'x' * 1100}/a")]
    data = decided(draft(found, vm(1)))
    assert f"path:/{'x' * 1100}" in data["storage"] and f"{'x' * 1100}/vda" in data["sizes"]


def interface_of(found: VM) -> tuple[Node, Context]:
    document = vocabulary.read(parse(found.xml, "x"))
    (node,) = document.nodes["devices.interface"]
    return node, Context(found, document, Site(), target("1.9"), {})


VMS = {
    "db-*": {"wave": 2, "labels": {"example.com/tier": "db"}},
    UUID.format(0): {
        "namespace": "shop",
        "runStrategy": "Always",
        "timezone": "Europe/Berlin",
        "storage": {"default": {"storageClass": "fast", "accessModes": ["ReadWriteMany"]}},
        "networks": {"bridge:br0": {"multus": "shop/dmz"}},
        "sizes": {"vdb": "100Gi"},
        "annotations": {"a": 'x, "y"; z'},
        "images": ["/srv/base"],
        "luns": {"/dev/mapper/mpatha": {"fc": {"wwids": ["3600508b400105e210000900000490000"]}}},
        "methods": ["file"],
    },
    UUID.format(1): {"skip": "is made anew, in the cluster"},
}


def test_the_table_holds_every_vm_and_is_read_back_as_it_was() -> None:
    text = drafting.table(Inventory([vm(), vm(1, "db"), vm(2, "new")]), VMS)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["vm"] for row in rows] == ["db-*", *(UUID.format(n) for n in range(3))]
    assert (rows[1]["name"], rows[1]["host"], rows[1]["disks"]) == ("web", "kvm-1", "5")
    assert yaml.safe_load(drafting.from_table(text, "t")) == {"vms": VMS}


def test_bug_two_vms_of_one_uuid_made_a_table_that_is_not_read_back() -> None:
    vms = {UUID.format(0): {"wave": 2, "annotations": {"a": "b\x85c\x7fd\u00fc"}}}
    text = drafting.table(Inventory([vm(), vm(name="twin")]), vms)
    assert yaml.safe_load(drafting.from_table(text, "t")) == {"vms": vms}


def test_bug_what_the_plan_asks_for_was_not_in_the_draft() -> None:
    odd = vm(name="odd")
    odd.disks = [Disk("sda", path="[ds] a.vmdk"), Disk("sdb", path="X:\\a.vhdx")]
    odd.xml = odd.xml.replace(b"<interface type='user'/>", b"<interface type='ethernet'/>")
    found = decided(draft(odd))
    assert set(found["sizes"]) == {"odd/sda", "odd/sdb"}
    assert "default" in found["storage"] and "default" in found["networks"]
    assert "default" not in decided(draft(vm()))["networks"]


@pytest.mark.parametrize(
    "vms",
    [
        {"a": {"preferences": {"x/*": None}, "storage": {"default": None}}},
        {"a": {"annotations": {"k": "\U0001f600\U000e0001 \x85\u2028"}}},
        {"a": {"annotations": {"k": "x" * 140_000}}},
        {" a": {"wave": 1}},
        {"\ta": {"wave": 1}},
        {"a* ": {"wave": 1}},
        {"'a ": {"skip": "a\nb"}},
    ],
)
def test_bug_a_table_did_not_come_back(vms: dict[str, Any]) -> None:
    assert sites.checked({"vms": vms}, "site")
    text = drafting.table(Inventory([]), vms)
    assert yaml.safe_load(drafting.from_table(text, "t")) == {"vms": vms}


@settings(deadline=None)
@given(portgroup=st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1))
def test_bug_the_draft_line_of_a_port_group_with_a_slash_was_refused(portgroup: str) -> None:
    odd = vm()
    attribute = quoteattr(portgroup, {"'": "&apos;"})
    odd.xml = odd.xml.decode().replace("portgroup='db'", f"portgroup={attribute}").encode()
    keys = decided(draft(odd))["networks"]
    site = sites.checked({"networks": {key: {"multus": "n/a"} for key in keys if key != "default"}}, "site")
    assert site.network("network", "ovs", portgroup)


@pytest.mark.parametrize("text", ["vm,wave,wave\na,1,2\n", "vm,wave,vm\na,1,b\n", "vm,name,name\na,,\n"])
def test_bug_of_a_column_that_is_there_twice_the_last_counted(text: str) -> None:
    with pytest.raises(Refused, match="is there twice; keep one"):
        drafting.from_table(text, "t")


def test_the_table_has_a_column_for_every_key_of_a_vm() -> None:
    assert set(drafting.COLUMNS) >= {*VM_KEYS, "skip", "wave"}


@settings(deadline=None)
@given(
    key=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(lambda text: text == text.strip()),
    reason=st.sampled_from(["=1+1", "'quoted", "a,b", 'a "b" c', "a;b", "@x", "+1", "-1"]),
)
def test_names_and_reasons_come_back_from_a_table_and_are_no_formulas(key: str, reason: str) -> None:
    vms = {key: {"skip": reason}}
    text = drafting.table(Inventory([]), vms)
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t"))]
    assert yaml.safe_load(drafting.from_table(text, "t")) == {"vms": vms}


def test_a_table_of_a_spreadsheet_with_semicolons_is_read() -> None:
    assert yaml.safe_load(drafting.from_table("vm;wave\nweb-*;3\n", "t")) == {"vms": {"web-*": {"wave": 3}}}


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\t=1"])
def test_no_name_is_a_formula(name: str) -> None:
    (row,) = csv.DictReader(io.StringIO(drafting.table(Inventory([vm(name=name)]), {})))
    assert not row["name"].startswith(("=", "+", "-", "@", "\t"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vm,namspace\na,b\n", "did you mean namespace?"),
        ("name,wave\na,1\n", "'vm' is missing"),
        ("vm,wave\n,1\n", "line 2: the column 'vm' is empty"),
        ("vm,wave\na,1\na,2\n", "twice"),
        ("vm,wave\na,1,2\n", "as many cells"),
        ("vm,wave\na\n", "as many cells"),
        ("vm,wave\na,x\n", "whole number"),
        ("vm,labels\na,{b\n", "line 2: labels"),
        ("vm,runStrategy\na,Once\n", "Halted"),
        ('vm,skip\na,"b\n', "not CSV"),
        ("", "'vm' is missing"),
    ],
)
def test_a_table_is_read_strictly(text: str, says: str) -> None:
    with pytest.raises(Refused) as refusal:
        drafting.from_table(text, "t")
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def cli(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "migrate", *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(data_path().resolve())}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_command_writes_drafts_and_tables_and_never_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "web.xml").write_text(DOMAIN.format(name="web", uuid=UUID.format(0), bridge="br0"))
    draft, table, vms = tmp_path / "site.yaml", tmp_path / "vms.csv", tmp_path / "vms.yaml"
    assert '"bridge:br0/vlan:3,20"' in cli("site", tmp_path / "web.xml").stdout
    assert cli("site", tmp_path / "web.xml", "-o", draft).returncode == 0
    assert sites.load(draft) == Site()
    again = cli("site", tmp_path / "web.xml", "-o", draft)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    draft.write_text(json.dumps({"vms": {"web": {"wave": 4}}}))
    assert cli("site", tmp_path / "web.xml", "--csv", "--site", draft, "-o", table).returncode == 0
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert cli("site", "--from-csv", table, "-o", vms).returncode == 0
    assert sites.load(vms).vms == {"web": {"wave": 4}}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    for bad in (["site"], ["site", tmp_path, "--from-csv", table], ["site", "--from-csv", tmp_path / "none"]):
        assert cli(*bad).returncode == 2
