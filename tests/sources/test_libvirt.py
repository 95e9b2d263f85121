import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
from sources.daemon import DOMAIN, disk, image

from migrate import sources
from migrate.model import VM, Disk, Image, PlannedDisk, Refused, Skipped, Unfinished
from migrate.selection import Selection
from migrate.sources import libvirt as source
from migrate.transfer import _bytes

MiB = 1 << 20


def collect(*urls, select=()):
    return list(sources.collect("libvirt", list(urls), Selection.parse(select)))


def one_at(url, name="web"):
    (vm,) = collect(url, select=[name])
    assert isinstance(vm, VM), vm
    return vm


def one(daemon, name="web"):
    return one_at(daemon.url, name)


def planned(vm, index=0, allowed=()):
    found = vm.disks[index]
    return PlannedDisk(
        found.target, "default", "claim", ["file"], found.path, found.format, found.capacity, found.allocation,
        found.capacity, found.chain, list(allowed),
    )  # fmt: skip


def test_the_test_driver_is_for_mapping_only():
    (vm,) = collect("test:///default")
    assert (vm.name, vm.kind, vm.state, vm.url) == ("test", "libvirt", "unknown", "test:///default")
    assert vm.autostart is None
    assert vm.source == f"test://{vm.host}/default"
    assert vm.xml.startswith(b"<domain")
    assert [(item.target, item.capacity) for item in vm.disks] == [("vda", None)]
    assert vm.disks[0].problem
    assert "mapping" in source.unfit(vm, planned(vm))


def test_a_test_driver_file_has_its_own_domains(tmp_path):
    path = tmp_path / "node.xml"
    domain = "<domain type='test'><name>{}</name><memory>1024</memory><os><type>hvm</type></os></domain>"
    path.write_text(f"<node>{domain.format('b')}{domain.format('a')}</node>")
    found = collect(f"test://{path}")
    assert [(vm.name, vm.source) for vm in found] == [(name, f"test://{found[0].host}{path}") for name in "ab"]


def test_without_a_url_the_default_uri_is_taken(monkeypatch):
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///default")
    assert [vm.url for vm in collect()] == ["test:///default"]


def test_an_unreachable_host_is_refused_alone_and_skipped_among_others():
    bad = "qemu+tcp://user:hunter2@127.0.0.1:1/system"
    with pytest.raises(Refused) as refusal:
        collect(bad)
    assert "daemon" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    found = collect(bad, "test:///default")
    assert [type(item) for item in found] == [VM, Skipped]
    assert found[1].source == "qemu+tcp://user@127.0.0.1:1/system"
    assert "hunter2" not in repr(refusal.value) + repr(found)


@pytest.mark.parametrize(
    "url",
    [
        "not a uri",
        "qemu+warp://h/system",
        "test:///no/such.xml",
        "qemu:///embed",
        "qemu+unix:///system?socket=/none",
        "://",
    ],
)
def test_a_wrong_uri_is_one_line_and_nothing_on_stderr(url, capfd):
    with pytest.raises(Refused) as refusal:
        collect(url)
    assert url in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_library_says_what_to_install():
    code = (
        "import sys; sys.modules['libvirt'] = None\n"
        "from migrate import sources; from migrate.selection import Selection\n"
        "list(sources.collect('libvirt', ['test:///default'], Selection()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'kubevirt-migrate[libvirt]'" in result.stderr.splitlines()[-1]


def test_a_shut_off_domain_with_a_backing_chain(daemon):
    base = image(daemon.folder / "base.qcow2", "4M")
    top = image(daemon.folder / "top.qcow2", "8M", backing=base)
    domain = daemon.define("web", disk(top))
    vm = one(daemon)
    assert (vm.uuid, vm.state, vm.transient, vm.managed_save) == (domain.UUIDString(), "shut off", False, False)
    assert (vm.url, vm.source) == (daemon.url, f"qemu://{vm.host}/session")
    assert vm.disks[0].chain == [Image(str(top), "qcow2"), Image(str(base), "qcow2")]
    assert (vm.disks[0].capacity, vm.disks[0].problem) == (8 * MiB, None)
    assert vm.disks[0].allocation == top.stat().st_blocks * 512
    assert vm.xml == domain.XMLDesc(2).encode()
    assert source.unfit(vm, planned(vm)) is None


BELOW = "<backingStore type='file'><format type='{}'/><source file='{}'/>{}</backingStore>"
NETWORK = (
    "<backingStore type='network'><format type='qcow2'/><source protocol='nbd'><host name='h'/></source></backingStore>"
)


@pytest.mark.parametrize(
    ("below", "other"),
    [
        (BELOW.format("qcow2", "{base}", ""), False),
        (BELOW.format("qcow2", "{link}", "<backingStore/>"), False),
        (BELOW.format("qcow2", "{base}", BELOW.format("raw", "{top}", "")), True),
        (BELOW.format("raw", "{base}", "<backingStore/>"), True),
        (BELOW.format("qcow2", "/elsewhere.qcow2", "<backingStore/>"), True),
        (NETWORK, True),
        ("<backingStore/>", True),
        ("", False),
    ],
)
def test_bug_the_domain_names_another_chain_than_the_headers(daemon, below, other):
    base = image(daemon.folder / "base.qcow2", "4M")
    top = image(daemon.folder / "top.qcow2", "8M", backing=base)
    (daemon.folder / "link.qcow2").symlink_to(base)
    named = below.format(base=base, link=daemon.folder / "link.qcow2", top=top)
    daemon.define("web", disk(top).replace("<target", f"{named}<target"))
    vm = one(daemon)
    assert (vm.disks[0].problem == source.OTHER_CHAIN) == other
    refused = pytest.raises(Refused, match="another backing chain") if other else nullcontext()
    with refused, source.open(vm, planned(vm)):
        pass


def test_a_running_guest_names_the_chain_of_its_headers(daemon):
    base = image(daemon.folder / "base.qcow2", "4M")
    devices = disk(image(daemon.folder / "top.qcow2", "8M", backing=base))
    daemon.connection.createXML(DOMAIN.format(name="web", devices=devices), 1)  # paused
    (found,) = one(daemon).disks
    assert [item.path for item in found.named[1:]] == [str(base)]
    assert (found.ends, found.problem) == (True, None)


def test_bug_a_chain_that_collect_may_not_read_is_compared_before_the_copy(daemon, monkeypatch):
    base, other = image(daemon.folder / "base.qcow2"), image(daemon.folder / "other.qcow2")
    top = disk(image(daemon.folder / "top.qcow2", backing=base))
    daemon.define("web", top.replace("<target", f"{BELOW.format('qcow2', other, '<backingStore/>')}<target"))

    def denied(*_: object) -> None:
        raise _bytes.NotAllowed("root alone may read it")

    with monkeypatch.context() as patch:
        patch.setattr(_bytes, "chain", denied)
        vm = one(daemon)
    assert (vm.disks[0].chain, vm.disks[0].problem) == ([], None)
    with pytest.raises(Refused, match="another backing chain"), source.open(vm, planned(vm)):
        pass


def test_a_chain_that_the_domain_names_anew_is_a_changed_disk(daemon):
    top = disk(image(daemon.folder / "top.qcow2", backing=image(daemon.folder / "base.qcow2")))
    daemon.define("web", top)
    vm = one(daemon)
    changed = DOMAIN.format(name="web", devices=top.replace("<target", "<backingStore/><target"))
    daemon.connection.defineXML(changed.replace("<memory", f"<uuid>{vm.uuid}</uuid><memory", 1))
    with pytest.raises(Refused, match="disks were changed"), source.hold(vm):
        pass


def test_bug_a_disc_in_a_pool_is_raw(daemon):
    pool = daemon.pool("images", daemon.folder / "images")
    path = daemon.folder / "images" / "a.iso"
    path.write_bytes(bytes(0x8001) + b"CD001" + bytes(1 << 16))  # ISO 9660: the first volume descriptor
    pool.refresh()
    daemon.define(
        "web",
        "<disk type='volume' device='cdrom'><source pool='images' volume='a.iso'/>"
        "<target dev='sda' bus='sata'/></disk>",
    )
    (found,) = one(daemon).disks
    assert (found.format, found.capacity, found.problem) == ("raw", path.stat().st_size, None)
    assert found.chain == [Image(str(path), "raw")]


def test_a_disk_has_the_size_its_declared_format_shows(daemon):
    # A guest can write a qcow2 header into its raw disk: it stays raw.
    path = image(daemon.folder / "disk.img", "1G")
    daemon.define("web", disk(path, "vda", "raw") + disk(path, "vdb", None))
    vm = one(daemon)
    assert [(item.format, item.capacity) for item in vm.disks] == [("raw", path.stat().st_size)] * 2
    assert vm.disks[0].chain == [Image(str(path), "raw")]


def test_a_volume_is_found_through_its_pool(daemon):
    daemon.pool("images", daemon.folder / "images")
    volume = daemon.connection.storagePoolLookupByName("images").createXML(
        "<volume><name>v.qcow2</name><capacity unit='MiB'>16</capacity><target><format type='qcow2'/></target></volume>"
    )
    os.chmod(volume.path(), 0o666)
    image(daemon.folder / "images" / "fake.img", "1G")
    daemon.connection.storagePoolLookupByName("images").refresh()
    disks = "".join(
        f"<disk type='volume'><driver name='qemu' type='{format}'/><source pool='{pool}' volume='{name}'/>"
        f"<target dev='{target}'/></disk>"
        for format, pool, name, target in (
            ("qcow2", "images", "v.qcow2", "vda"),
            ("raw", "images", "fake.img", "vdb"),
            ("raw", "images", "gone.img", "vdc"),
            ("raw", "nopool", "v.img", "vdd"),
        )
    )
    daemon.define("web", disks)
    vm = one(daemon)
    assert vm.pool_paths == [str(daemon.folder / "images")]
    first, fake, gone, poolless = vm.disks
    assert (first.path, first.format, first.capacity) == (volume.path(), "qcow2", 16 * MiB)
    assert first.chain == [Image(volume.path(), "qcow2")]
    assert (first.pool, first.volume, first.problem) == ("images", "v.qcow2", None)
    assert fake.capacity == (daemon.folder / "images" / "fake.img").stat().st_size
    assert "gone.img" in gone.problem and gone.capacity is None
    assert "nopool" in poolless.problem and poolless.chain == []


def test_what_cannot_be_sized_says_why(daemon):
    daemon.define(
        "web",
        disk(daemon.folder / "gone.qcow2")
        + "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>"
        + "<disk type='network'><driver name='qemu' type='raw'/><source protocol='nbd' name='x'>"
        "<host name='h.invalid' port='10809'/></source><target dev='vdb'/></disk>",
    )
    gone, cdrom, network = one(daemon).disks
    assert "No such file" in gone.problem and gone.capacity is None
    assert (cdrom.device, cdrom.path, cdrom.problem) == ("cdrom", None, None)
    assert network.path == "nbd://h.invalid:10809/x"
    assert network.problem and "\n" not in network.problem


def test_a_pipe_in_place_of_an_image_held_libvirt_up(daemon):
    os.mkfifo(daemon.folder / "pipe")
    daemon.define("web", disk(daemon.folder / "pipe", "vda", "raw"))
    (found,) = one(daemon).disks
    assert (found.capacity, found.chain) == (None, [])
    assert "neither a file nor a block device" in found.problem


def test_a_backing_format_that_is_not_named_is_a_problem(daemon):
    top = image(daemon.folder / "top.qcow2", backing=image(daemon.folder / "base.qcow2"))
    # The header extension that names the format becomes one that nobody knows.
    top.write_bytes(top.read_bytes().replace(b"\xe2\x79\x2a\xca", b"\x11\x11\x11\x11"))
    daemon.define("web", disk(top))
    found = one(daemon).disks[0]
    assert found.chain == []
    assert "format" in found.problem


def test_images_outside_of_the_allowed_folders_are_recorded_and_not_opened(daemon, tmp_path):
    (daemon.folder / "a").mkdir()
    (daemon.folder / "b").mkdir()
    base = image(daemon.folder / "b" / "base.qcow2")
    top = image(daemon.folder / "a" / "top.qcow2", backing=base)
    daemon.define("web", disk(top))
    vm = one(daemon)
    assert [item.path for item in vm.disks[0].chain] == [str(top), str(base)]
    assert str(base) in source.unfit(vm, planned(vm))
    assert source.unfit(vm, planned(vm, allowed=[str(daemon.folder / "b")])) is None
    assert source.unfit(vm, planned(vm, allowed=[str(daemon.folder)])) is None
    assert source.unfit(vm, planned(vm, allowed=[str(base)[:-1]]))
    with pytest.raises(Refused, match="outside"), source.open(vm, planned(vm)):
        pass


def test_a_disk_is_opened_with_its_size(daemon):
    top = image(daemon.folder / "top.qcow2", "8M", backing=image(daemon.folder / "base.qcow2", "4M"))
    daemon.define("web", disk(top))
    vm = one(daemon)
    with source.open(vm, planned(vm)) as opened:
        assert opened.uri.startswith("nbd+unix://")
        assert opened.size == 8 * MiB
        opened.check()


def test_snapshots_and_checkpoints_are_recorded(daemon):
    domain = daemon.define("web", disk(image(daemon.folder / "a.qcow2")))
    for name in ("two", "one"):
        domain.snapshotCreateXML(f"<domainsnapshot><name>{name}</name></domainsnapshot>")
    assert one(daemon).snapshots == ["one", "two"]


def test_whether_a_domain_starts_with_its_host_is_recorded_where_libvirt_knows(daemon):
    domain = daemon.define("web")
    assert one(daemon).autostart is False
    domain.setAutostart(1)
    assert one(daemon).autostart is True
    domain.createWithFlags(1)  # paused
    assert one(daemon).autostart is True
    daemon.connection.createXML(DOMAIN.format(name="brief", devices=""), 1)
    assert one(daemon, "brief").autostart is None


def test_of_a_persistent_domain_the_inactive_definition_is_read_and_of_a_transient_one_the_live(daemon):
    domain = daemon.define("web", disk(image(daemon.folder / "a.qcow2")))
    domain.createWithFlags(1)  # paused
    transient = daemon.connection.createXML(DOMAIN.format(name="brief", devices=""), 1)
    web, brief = one(daemon), one(daemon, "brief")
    assert (web.state, web.transient, web.xml) == ("paused", False, domain.XMLDesc(2).encode())
    assert (brief.state, brief.transient, brief.xml) == ("paused", True, transient.XMLDesc(0).encode())
    assert web.disks[0].capacity == 8 * MiB
    assert [vm.name for vm in collect(daemon.url, select=["state=paused"])] == ["brief", "web"]
    assert collect(daemon.url, select=["state=shut off"]) == []
    assert "shut it down" in source.unfit(web, planned(web))
    assert "transient" in source.unfit(brief, planned(web))
    with pytest.raises(Unfinished, match="shut it down"), source.hold(web):
        pass


def test_a_managed_save_image_is_recorded_and_in_the_way(daemon):
    domain = daemon.define("web", disk(image(daemon.folder / "a.qcow2")))
    held = one(daemon)
    domain.create()
    domain.managedSave()
    vm = one(daemon)
    assert (vm.state, vm.managed_save) == ("shut off", True)
    assert "managed-save" in source.unfit(vm, planned(vm))
    with pytest.raises(Unfinished, match="managed-save"), source.hold(held):
        pass


def test_bug_a_saved_guest_was_called_shut_off(daemon):
    domain = daemon.define("web", disk(image(daemon.folder / "a.qcow2")))
    held = one(daemon)
    domain.create()
    domain.save(str(daemon.folder / "memory"))
    assert (one(daemon).state, one(daemon).managed_save) == ("saved", False)
    with pytest.raises(Unfinished, match="its state is saved"), source.hold(held):
        pass
    daemon.connection.restore(str(daemon.folder / "memory"))
    domain.destroy()
    assert one(daemon).state == "shut off"


def test_passwords_are_not_read(daemon):
    graphics = "<graphics type='vnc' port='-1' passwd='hunter2'/>"
    domain = daemon.define("web", graphics)
    assert b"hunter2" not in one(daemon).xml
    assert "hunter2" in domain.XMLDesc(1)


def test_a_held_domain_that_stays_off_passes_every_check(daemon):
    daemon.define("web", disk(image(daemon.folder / "a.qcow2")))
    with source.hold(one(daemon)) as check:
        check()
        check()


def test_a_held_domain_that_runs_fails_the_check(daemon):
    domain = daemon.define("web", disk(image(daemon.folder / "a.qcow2")))
    with source.hold(one(daemon)) as check:
        domain.createWithFlags(1)
        with pytest.raises(Unfinished, match="paused"):
            check()


def test_a_held_domain_that_ran_in_between_fails_the_check(daemon):
    domain = daemon.define("web", disk(image(daemon.folder / "a.qcow2")))
    with source.hold(one(daemon)) as check:
        domain.createWithFlags(1)
        domain.destroy()
        with pytest.raises(Unfinished, match="ran during the copy"):
            check()


def test_a_domain_whose_disks_changed_or_that_is_gone_is_not_held(daemon):
    domain = daemon.define("web", disk(image(daemon.folder / "a.qcow2")))
    vm = one(daemon)
    domain.undefine()
    with pytest.raises(Refused, match="collect and plan again"), source.hold(vm):
        pass
    changed = DOMAIN.format(name="web", devices=disk(image(daemon.folder / "b.qcow2")))
    daemon.connection.defineXML(changed.replace("<memory", f"<uuid>{vm.uuid}</uuid><memory", 1))
    with pytest.raises(Refused, match="disks were changed"), source.hold(vm):
        pass


def test_another_host_behind_the_url_is_not_held(daemon):
    daemon.define("web")
    with pytest.raises(Refused, match="run this on"), source.hold(replace(one(daemon), source="qemu://h2/session")):
        pass


def test_a_vm_that_cannot_be_read_is_skipped_and_the_others_are_not(daemon):
    daemon.define("bad")
    daemon.define("good")
    lib = source._library()
    domain = daemon.connection.lookupByName("bad")
    huge = "<a>" + "<b/>" * 310_000 + "</a>"
    domain.setMetadata(lib.VIR_DOMAIN_METADATA_ELEMENT, huge, "x", "http://example.org", lib.VIR_DOMAIN_AFFECT_CONFIG)
    bad, good = collect(daemon.url)
    assert (bad.name, bad.source, good.name) == ("bad", good.source, "good")
    assert isinstance(bad, Skipped) and "markup" in bad.reason


def test_two_ways_to_one_host_are_one_source(daemon):
    daemon.define("web")
    (local,), (remote,) = collect(daemon.url), collect(daemon.remote_url)
    assert (local.id, local.url, remote.url) == (remote.id, daemon.url, daemon.remote_url)
    assert [vm.name for vm in collect(daemon.url, daemon.remote_url)] == ["web"]


def test_a_remote_host_tells_the_chain_through_its_pools(daemon):
    pool = daemon.pool("images", daemon.folder / "images")
    base = image(daemon.folder / "images" / "base.qcow2", "4M")
    top = image(daemon.folder / "images" / "top.qcow2", "8M", backing=base)
    outside = image(daemon.folder / "stray.qcow2", "2M")
    pool.refresh()
    daemon.define("web", disk(top) + disk(outside, "vdb"))
    (vm,) = collect(daemon.remote_url)
    first, second = vm.disks
    assert first.chain == [Image(str(top), "qcow2"), Image(str(base), "qcow2")]
    assert (first.capacity, first.problem) == (8 * MiB, None)
    assert (second.chain, second.capacity) == ([Image(str(outside), "qcow2")], 2 * MiB)
    assert source.unfit(vm, planned(vm)) is None
    assert str(outside) in source.unfit(vm, planned(vm, 1))


def test_bug_another_chain_of_a_remote_host_has_another_path_and_not_another_name(daemon):
    for name in ("v1", "v2"):
        daemon.pool(name, daemon.folder / name)
        image(daemon.folder / name / "base.qcow2")
    base, other = (daemon.folder / name / "base.qcow2" for name in ("v1", "v2"))
    top = disk(image(daemon.folder / "v1" / "top.qcow2", backing=base))
    for pool in daemon.connection.listAllStoragePools():
        pool.refresh()
    for name, path in (("same", base), ("other", other)):
        daemon.define(name, top.replace("<target", f"{BELOW.format('qcow2', path, '<backingStore/>')}<target"))
    found = {vm.name: vm.disks[0].problem for vm in collect(daemon.remote_url)}
    assert found == {"same": None, "other": source.OTHER_CHAIN}


def test_bug_a_chain_outside_of_a_remote_hosts_pools_is_not_taken_for_another(daemon):
    base = image(daemon.folder / "base.qcow2")
    top = disk(image(daemon.folder / "top.qcow2", backing=base))
    daemon.define("web", top.replace("<target", f"{BELOW.format('qcow2', base, '<backingStore/>')}<target"))
    (found,) = one_at(daemon.remote_url).disks
    assert (len(found.chain), found.problem) == (1, None)


def test_bug_an_image_of_a_remote_host_that_nothing_reads_is_a_problem(daemon):
    pool = daemon.pool("images", daemon.folder / "images")
    base, top = daemon.folder / "images" / "base.qed", daemon.folder / "images" / "top.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qed", base, "8M"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qed", top], check=True)
    pool.refresh()
    daemon.define("web", disk(top))
    (found,) = one_at(daemon.remote_url).disks
    assert "format 'qed', which is not served" in found.problem


EMBEDDED = """
import json, os, sys
from dataclasses import asdict
from migrate import sources
from migrate.model import PlannedDisk
from migrate.selection import Selection
from migrate.sources import libvirt as source
root, domain = sys.argv[1:]
url = f"qemu:///embed?root={root}"
writer = source._library().open(url)
writer.defineXML(domain)
writer.close()
def row(vm):
    return asdict(vm) | {"xml": None, "live": None, "unfit": source.unfit(vm, plan)}
vms = list(sources.collect("libvirt", [url], Selection()))
again = list(sources.collect("libvirt", [url], Selection()))
disk = vms[0].disks[0]
plan = PlannedDisk("vda", "n", "c", ["file"], disk.path, disk.format, disk.capacity, disk.allocation, disk.capacity,
    disk.chain)
with source.hold(vms[0]) as check, source.open(vms[0], plan) as opened:
    check()
    size = opened.size
print(json.dumps({"vms": [row(vm) for vm in vms], "same": vms == again, "size": size}))
"""


def test_the_embedded_driver_needs_no_daemon(tmp_path):
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "qemu.conf").write_text('user = "root"\ngroup = "root"\nsecurity_driver = "none"\n')
    top = image(tmp_path / "top.qcow2", "8M", backing=image(tmp_path / "base.qcow2", "4M"))
    domain = DOMAIN.format(name="web", devices=disk(top))
    result = subprocess.run(
        [sys.executable, "-c", EMBEDDED, tmp_path / "root", domain], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    (vm,) = found["vms"]
    assert (vm["state"], vm["unfit"]) == ("shut off", None)
    assert vm["source"] == f"qemu://{vm['host']}/embed?root={tmp_path}/root"
    assert [item["path"] for item in vm["disks"][0]["chain"]] == [str(top), str(tmp_path / "base.qcow2")]
    assert vm["disks"][0]["capacity"] == found["size"] == 8 * MiB
    assert found["same"]


def test_two_embedded_drivers_in_one_run_are_refused_with_the_reason(tmp_path):
    urls = []
    for name in "ab":
        (tmp_path / name / "etc").mkdir(parents=True)
        (tmp_path / name / "etc" / "qemu.conf").write_text('user = "root"\ngroup = "root"\n')
        urls.append(f"qemu:///embed?root={tmp_path / name}")
    code = (
        "import sys; from migrate import sources; from migrate.selection import Selection\n"
        "print(*sources.collect('libvirt', sys.argv[1:], Selection()))"
    )
    result = subprocess.run([sys.executable, "-c", code, *urls], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("Skipped(") == 1
    assert "opens no other of its kind" in result.stdout


def test_the_unfit_reasons_come_in_the_order_of_what_helps():
    vm = VM("web", "u", "libvirt", "qemu://h/system", "qemu:///system", "h", state="shut off", disks=[Disk("vda")])
    assert source.unfit(vm, planned(vm)) is None
    assert "running" in source.unfit(replace(vm, state="running"), planned(vm))
    assert "managed-save" in source.unfit(replace(vm, state="shut off", managed_save=True), planned(vm))
    far = replace(vm, url="qemu+tcp://h/system", state="running", disks=[Disk("vda", path="/a")])
    assert "in none of its pools" in source.unfit(far, planned(far))
    socket = "qemu+unix:///system?socket=/run/another-host"
    assert "in none of its pools" in source.unfit(replace(far, url=socket), planned(far))
