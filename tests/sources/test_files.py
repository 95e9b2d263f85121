import os
import subprocess
import sys

import pytest

from migrate import sources
from migrate.model import VM, Image, PlannedDisk, Refused, Skipped
from migrate.selection import Selection
from migrate.sources import _domain, files

UUID = "6ba410c5-1e5c-4d57-bee7-2228e7ffa32f"


def domain(name="web", devices="", uuid=UUID):
    identity = f"<name>{name}</name>" + (f"<uuid>{uuid}</uuid>" if uuid else "")
    return f"<!-- made by virsh edit -->\n<domain type='kvm'>{identity}<devices>{devices}</devices></domain>"


def collect(*paths, select=()):
    return list(sources.collect("files", [str(path) for path in paths], Selection.parse(select)))


def test_a_file_of_any_name_is_one_vm(tmp_path):
    path = tmp_path / "web.conf"
    path.write_text(domain())
    (vm,) = collect(path)
    assert (vm.name, vm.uuid, vm.source, vm.url) == ("web", UUID, f"files://{path}", str(path))
    assert (vm.kind, vm.host, vm.state, vm.xml) == ("files", "", "unknown", path.read_bytes())
    assert files.xml(vm) == vm.xml


def test_a_relative_path_is_the_same_vm(tmp_path, monkeypatch):
    (tmp_path / "web.xml").write_text(domain())
    monkeypatch.chdir(tmp_path)
    assert collect("web.xml") == collect(tmp_path / "web.xml")
    assert len(collect("web.xml", tmp_path / "web.xml", "./web.xml", tmp_path)) == 1


def test_a_folder_gives_the_xml_below_it_and_skips_bad_files(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a.xml").write_text(domain("a"))
    (tmp_path / "b" / "b.xml").write_text(domain("b"))
    (tmp_path / "b" / "bad.xml").write_text("<domain>")
    (tmp_path / "notes.txt").write_text("not read")
    found = collect(tmp_path)
    assert [item.name for item in found if isinstance(item, VM)] == ["a", "b"]
    (skipped,) = (item for item in found if isinstance(item, Skipped))
    assert skipped.source == f"files://{tmp_path}/b/bad.xml"
    assert "well-formed" in skipped.reason


def test_links_to_folders_are_not_followed_and_linked_files_are_one_vm(tmp_path):
    (tmp_path / "qemu" / "autostart").mkdir(parents=True)
    (tmp_path / "qemu" / "web.xml").write_text(domain())
    (tmp_path / "qemu" / "autostart" / "web.xml").symlink_to(tmp_path / "qemu" / "web.xml")
    (tmp_path / "qemu" / "loop").symlink_to(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "other.xml").write_text(domain("other"))
    (tmp_path / "qemu" / "linked").symlink_to(tmp_path / "elsewhere")
    assert [item.name for item in collect(tmp_path / "qemu")] == ["web"]


def test_libvirts_networks_beside_its_domains_are_no_vms(tmp_path):
    (tmp_path / "networks").mkdir()
    network = "<?xml version='1.0'?>\n<!--\nWARNING: <made> by virsh\n-->\n<network><name>default</name></network>"
    (tmp_path / "networks" / "default.xml").write_text(network)
    (tmp_path / "web.xml").write_text(domain())
    assert [item.name for item in collect(tmp_path)] == ["web"]
    (tmp_path / "stray.xml").write_text(network)
    assert [type(item) for item in collect(tmp_path)] == [Skipped, VM]


BAD = {
    "malformed": b"<domain><name>x</name>",
    "empty": b"",
    "text": b"hello",
    "network": b"<network><name>x</name></network>",
    "domstatus": f"<domstatus state='running'>{domain()}</domstatus>".encode().replace(
        b"<!-- made by virsh edit -->", b""
    ),
    "snapshot": f"<domainsnapshot><name>s</name>{domain()}</domainsnapshot>".encode(),
    "entity": b"<!DOCTYPE domain [<!ENTITY a 'b'>]><domain><name>&a;</name></domain>",
    "file entity": b"<!DOCTYPE domain [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><domain><name>&a;</name></domain>",
    "deep": b"<domain>" + b"<a>" * 100_000,
    "large": b"<domain><name>x</name>" + b" " * (16 << 20) + b"</domain>",
    "nameless": b"<domain><uuid>6ba410c5-1e5c-4d57-bee7-2228e7ffa32f</uuid></domain>",
    "blank name": b"<domain><name> \n</name></domain>",
    "bad uuid": b"<domain><name>x</name><uuid>../../etc</uuid></domain>",
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_file_is_refused_alone_and_skipped_among_others(tmp_path, bad):
    path = tmp_path / "bad.xml"
    path.write_bytes(BAD[bad])
    with pytest.raises(Refused) as refusal:
        collect(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    (tmp_path / "good.xml").write_text(domain())
    for found in (collect(tmp_path), collect(path, tmp_path / "good.xml"), collect(tmp_path / "good.xml", path)):
        assert {type(item) for item in found} == {VM, Skipped}
        assert [item.source for item in found if isinstance(item, Skipped)] == [f"files://{path}"]


def test_many_bad_files_are_refused(tmp_path):
    with pytest.raises(Refused, match="none of 2"):
        collect(tmp_path / "missing.xml", tmp_path / "also-missing.xml")


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.xml")
    for path in (tmp_path / "pipe.xml", tmp_path / "missing", "/dev/zero"):
        with pytest.raises(Refused):
            collect(path)
    (skipped,) = collect(tmp_path)
    assert "not a file" in skipped.reason


def test_a_folder_without_xml_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"no \*.xml"):
        collect(tmp_path)


def test_a_file_of_a_hundred_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "huge.xml"
    path.write_text(domain())
    os.truncate(path, 100 << 30)
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from migrate import sources; from migrate.selection import Selection\n"
        "list(sources.collect('files', sys.argv[1:], Selection.parse()))"
    )
    result = subprocess.run([sys.executable, "-c", limited, path], capture_output=True, text=True, check=False)
    assert "Refused" in result.stderr and "16 MB" in result.stderr


def test_a_vm_without_uuid_is_the_same_in_every_run_and_another_in_another_file(tmp_path):
    for name in ("a.xml", "b.xml"):
        (tmp_path / name).write_text(domain(uuid=None))
    first, second = collect(tmp_path)
    assert first.uuid != second.uuid
    assert [first, second] == collect(tmp_path)


@pytest.mark.parametrize("text", [UUID.upper(), UUID.replace("-", ""), f"\n {UUID} "])
def test_a_uuid_has_one_form(tmp_path, text):
    (tmp_path / "a.xml").write_text(domain(uuid=text))
    assert collect(tmp_path)[0].uuid == UUID


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "x" * 300, "网站", "a&#10;b", "&lt;b>", "-"])
def test_hostile_names_are_kept_as_they_are(tmp_path, name):
    (tmp_path / "a.xml").write_text(domain(name), encoding="utf-8")
    expected = name.replace("&#10;", "\n").replace("&lt;", "<")
    assert collect(tmp_path)[0].name == expected


def test_a_file_whose_name_is_not_utf8_is_skipped(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.xml", "w") as file:
        file.write(domain())
    (skipped,) = collect(tmp_path)
    assert skipped.source == f"files://{tmp_path}/\\xff.xml"
    assert "rename" in skipped.reason


def test_only_selected_vms_are_given(tmp_path):
    for name in ("web1", "web2", "db"):
        (tmp_path / f"{name}.xml").write_text(domain(name))
    assert [vm.name for vm in collect(tmp_path, select=["web*"])] == ["web1", "web2"]


DISKS = """
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a.qcow2'/><target dev='vda'/></disk>
<disk type='block'><source dev='/dev/sdb'/><target dev='vdb'/></disk>
<disk type='file' device='cdrom'><target dev='sda'/></disk>
<disk type='volume' device='disk'><source pool='default' volume='v.img'/><target dev='vdc'/></disk>
<disk type='network'><driver type='raw'/><auth username='admin'><secret type='ceph' usage='secret'/></auth>
 <source protocol='rbd' name='pool/image'><host name='mon' port='6789'/></source><target dev='vdd'/></disk>
<disk type='nvme'><source type='pci' namespace='1'><address domain='0'/></source><target dev='vde'/></disk>
<disk type='vhostuser'><source type='unix' path='/tmp/v.sock'/><target dev='vdf'/></disk>
<disk type='file'><source file='/b.img'/></disk>
<disk type='file'><source file='/c.img'/><target dev='vda'/></disk>
<disk type='dir' device='floppy'><source dir='/floppy'/><target dev='disk7'/></disk>
"""


def test_every_disk_of_the_xml_has_a_record(tmp_path):
    (tmp_path / "a.xml").write_text(domain(devices=DISKS))
    (vm,) = collect(tmp_path)
    rows = [(disk.target, disk.device, disk.type, disk.path, disk.format) for disk in vm.disks]
    assert rows == [
        ("vda", "disk", "file", "/a.qcow2", "qcow2"),
        ("vdb", "disk", "block", "/dev/sdb", "raw"),
        ("sda", "cdrom", "file", None, "raw"),
        ("vdc", "disk", "volume", None, None),
        ("vdd", "disk", "network", "rbd://mon:6789/pool/image", "raw"),
        ("vde", "disk", "nvme", None, "raw"),
        ("vdf", "disk", "vhostuser", "/tmp/v.sock", "raw"),
        ("disk70", "disk", "file", "/b.img", "raw"),
        ("disk8", "disk", "file", "/c.img", "raw"),
        ("disk7", "floppy", "dir", "/floppy", "raw"),
    ]
    assert (vm.disks[3].pool, vm.disks[3].volume) == ("default", "v.img")
    assert all(disk.capacity is None for disk in vm.disks)
    assert [disk.target for disk in vm.disks if not disk.problem] == ["sda"]
    assert files.unfit(vm, PlannedDisk("vda", "n", "c", ["file"], None, None, None, None, None))


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("<host name='2001:db8::1' port='8443'/>", "https://[2001:db8::1]:8443/a.img"),
        ("<host name='2001:db8::1'/>", "https://[2001:db8::1]/a.img"),
        ("<host name='192.0.2.1' port='8443'/>", "https://192.0.2.1:8443/a.img"),
        ("<host transport='unix' socket='/run/a:b.sock'/>", "https:///run/a:b.sock/a.img"),
    ],
)
def test_bug_an_ipv6_host_made_an_address_that_nothing_can_pull(host, place, tmp_path):
    disk = f"<disk type='network'><source protocol='https' name='a.img'>{host}</source><target dev='vda'/></disk>"
    (tmp_path / "a.xml").write_text(domain(devices=disk))
    (vm,) = collect(tmp_path)
    assert vm.disks[0].path == place


LAYER = "<backingStore type='{}'><format type='{}'/><source {}/>{}</backingStore>"
BLOCK = LAYER.format("block", "raw", "dev='/dev/b'", "<backingStore/>")
NBD = LAYER.format("network", "raw", "protocol='nbd'", "")
TOP = Image("/a", "qcow2")


@pytest.mark.parametrize(
    ("below", "named", "ends"),
    [
        ("", [], False),
        ("<backingStore/>", [TOP], True),
        (BLOCK, [TOP, Image("/dev/b", "raw")], True),
        (
            LAYER.format("file", "qcow2", "file='/b'", BLOCK),
            [TOP, Image("/b", "qcow2"), Image("/dev/b", "raw")],
            True,
        ),
        (NBD, [TOP, Image("", "raw")], False),
    ],
)
def test_the_chain_that_the_xml_names_is_recorded(tmp_path, below, named, ends):
    disk = f"<disk><driver type='qcow2'/><source file='/a'/>{below}<target dev='vda'/></disk>"
    (tmp_path / "a.xml").write_text(domain(devices=disk))
    (found,) = collect(tmp_path)[0].disks
    assert (found.named, found.ends) == (named, ends)


@pytest.mark.parametrize(("data_file", "differs"), [("/d", False), ("/e", True), (None, False)])
def test_bug_a_data_file_that_the_xml_names_is_compared(tmp_path, data_file, differs):
    store = "<dataStore type='file'><format type='raw'/><source file='/d'/></dataStore>"
    disk = f"<disk><driver type='qcow2'/><source file='/a'>{store}</source><target dev='vda'/></disk>"
    (tmp_path / "a.xml").write_text(domain(devices=disk))
    (found,) = collect(tmp_path)[0].disks
    assert found.named == [Image("/a", "qcow2", "/d")]
    assert _domain.differs(found, [Image("/a", "qcow2", data_file), Image("/b", "raw")], os.path.normpath) is differs


@pytest.mark.parametrize(
    ("name", "format"),
    [("aio", "raw"), ("iso", "raw"), ("raw", "raw"), ("vpc", "vpc"), ("vhd", "vhd")],
)
def test_a_format_has_the_name_that_qemu_has_for_it(tmp_path, name, format):
    disk = f"<disk><driver type='{name}'/><source file='/a'/><target dev='vda'/></disk>"
    (tmp_path / "a.xml").write_text(domain(devices=disk))
    assert collect(tmp_path)[0].disks[0].format == format


def test_a_source_that_is_not_there_is_refused():
    with pytest.raises(Refused, match="files"):
        list(sources.collect("vmware", ["x"], Selection()))


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "web.xml").symlink_to("/nonexistent/web.xml")
    (item,) = files.collect(str(tmp_path), Selection())
    assert (item.name, item.source) == ("/nonexistent/web.xml", "files:///nonexistent/web.xml")
    assert f"({tmp_path}/web.xml is a link to it)" in item.reason
