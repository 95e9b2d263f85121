"""What the state of a VM on its source means for the plan, and the commands that clear it."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from migrate import inventory, pipeline, reporting, state, whatif
from migrate import site as sites
from migrate.mapping import rule_files
from migrate.model import VM, BlockJob, Disk, Image, Refused
from migrate.selection import Selection
from migrate.site import Site
from migrate.sources import files
from migrate.target.vocabulary import target

UUID = "8f2a6a3e-6a0a-4c4b-9d1e-2f2a6c1b7d10"
DOMAIN = """<domain type='kvm'><name>web</name><uuid>8f2a6a3e-6a0a-4c4b-9d1e-2f2a6c1b7d10</uuid>
<memory unit='GiB'>{memory}</memory><vcpu>2</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>
{cpu}<devices>{devices}</devices>{more}</domain>"""
MODEL = "<cpu mode='{}'><model>{}</model>{}</cpu>"


def domain(memory: int = 2, cpu: str = "<cpu mode='host-model'/>", devices: str = "", more: str = "") -> bytes:
    return DOMAIN.format(memory=memory, cpu=cpu, devices=devices, more=more).encode()


def vm(**facts: Any) -> VM:
    return VM("web", UUID, "libvirt", "qemu://h/system", "qemu:///system", "h", "web", **facts)


def differing(xml: bytes, live: bytes, site: Site | None = None) -> list[Any]:
    plan = pipeline.translate(vm(xml=xml, live=live, has_live=True), rule_files.load(), target("1.9"), site or Site())
    return [finding for finding in plan.findings if finding.id == "state/live-differs"]


@pytest.mark.parametrize(
    ("facts", "id", "severity", "command"),
    [
        ({"managed_save": True}, "managed-save", "blocker", "virsh managedsave-remove 'a b'"),
        ({"state": "paused"}, "suspended", "blocker", "virsh resume 'a b'"),
        ({"state": "pmsuspended"}, "suspended", "blocker", "virsh dompmwakeup 'a b'"),
        ({"state": "crashed"}, "suspended", "blocker", "virsh destroy 'a b'"),
        ({"state": "saved"}, "suspended", "blocker", "virsh restore FILE"),
        ({"state": "migrated"}, "migrated", "blocker", "Collect it from there."),
        ({"jobs": [BlockJob("vda", "pull")]}, "block-job", "blocker", "virsh blockjob 'a b' vda --info"),
        ({"jobs": [BlockJob("vda", "copy", True)]}, "block-job", "blocker", "virsh blockjob 'a b' vda --pivot"),
        ({"jobs": [BlockJob("vda", "backup")]}, "block-job", "blocker", "virsh domjobabort 'a b'"),
        ({"snapshots": ["one"]}, "snapshots", "warning", ""),
        ({"checkpoints": ["one"]}, "checkpoints", "note", ""),
    ],
)
def test_each_state_is_said_with_the_command_that_clears_it(
    facts: dict[str, Any], id: str, severity: str, command: str
) -> None:
    found = vm(**facts)
    found.name = "a b"
    (remark,) = state.remarks(found)
    assert (remark.id, remark.severity) == (id, severity)
    assert command in remark.remedy


def test_bug_virsh_takes_a_name_of_digits_for_an_id() -> None:
    found = vm(state="paused")
    for name, said in (("2", found.uuid), (" +2", found.uuid), ("2a", "2a"), ("\u0662", "'\u0662'")):
        found.name = name
        (remark,) = state.remarks(found)
        assert remark.remedy.startswith(f"virsh resume {said}, then virsh shutdown {said}.")


DISK = "<disk type='file'><source file='/d/a'/><target dev='vda' bus='virtio'/></disk>"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"state": "paused"}, ["state/suspended"]),
        ({"state": "paused", "managed_save": True}, ["state/managed-save", "state/suspended"]),
        ({"managed_save": True, "state": "shut off"}, ["state/managed-save"]),
        ({"state": "running"}, ["transfer/unfit"]),
        ({"state": "paused", "transient": True}, ["state/suspended", "transfer/unfit"]),
    ],
)
def test_a_paused_vm_was_told_twice_that_it_is_paused(facts: dict[str, Any], said: list[str]) -> None:
    xml = domain(devices=DISK)
    disks = [Disk("vda", capacity=1 << 30, path="/d/a", chain=[Image("/d/a", "raw")])]
    plan = pipeline.translate(vm(xml=xml, disks=disks, **facts), rule_files.load(), target("1.9"), Site())
    assert sorted(item.id for item in plan.findings if item.id.startswith(("state/", "transfer/"))) == said
    assert plan.disks[0].unfit


@pytest.mark.parametrize("name", ["shut off", "running", "unknown", "shutting down", "blocked"])
def test_other_states_are_left_to_the_transfer(name: str) -> None:
    assert not list(state.remarks(vm(state=name)))


@pytest.mark.parametrize(
    ("autostart", "strategy", "said"),
    [
        (True, "Halted", ["state/autostart"]),
        (True, "Manual", ["state/autostart"]),
        (True, "Always", []),
        (True, "RerunOnFailure", []),
        (False, "Halted", []),
        (False, "Manual", []),
        (False, "Always", ["state/no-autostart"]),
        (False, "RerunOnFailure", ["state/no-autostart"]),
        (None, "Halted", []),
        (None, "Always", []),
    ],
)
def test_a_guest_that_starts_by_itself_on_one_side_alone_is_a_note(
    autostart: bool | None, strategy: str, said: list[str]
) -> None:
    site = sites.checked({"vms": {"web": {"runStrategy": strategy}}}, "site")
    plan = pipeline.translate(vm(xml=domain(), autostart=autostart), rule_files.load(), target("1.9"), site)
    found = [finding for finding in plan.findings if finding.rule == "state"]
    assert [finding.id for finding in found] == said
    assert plan.manifest["spec"]["runStrategy"] == strategy
    for finding in found:
        assert (finding.severity, finding.target) == ("note", "VirtualMachine.spec.runStrategy")
        assert f"With the run strategy {strategy} KubeVirt" in finding.because


def test_a_value_that_differs_is_named_with_its_leaf_and_both_values() -> None:
    (finding,) = differing(domain(memory=2), domain(memory=4))
    assert (finding.path, finding.value, finding.severity) == ("memory.unit", "GiB", "warning")
    assert "domain.memory.guest: 4Gi now, 2Gi then" in finding.because


def test_a_device_more_or_less_is_one_finding() -> None:
    nic = "<interface type='user'><mac address='52:54:00:11:22:33'/><model type='virtio'/></interface>"
    (more,) = differing(domain(), domain(devices=nic))
    (less,) = differing(domain(devices=nic), domain())
    assert more.path.startswith("devices.interface")
    assert less.path.startswith("devices.interface")
    assert more.because != less.because


def nic(last: int, more: str = "", source: str = "network='lan'", kind: str = "network") -> str:
    return (
        f"<interface type='{kind}'><mac address='52:54:00:11:22:0{last}'/><source {source}/>{more}"
        "<model type='virtio'/></interface>"
    )


ACTUAL = "network='lan' portid='8f2a6a3e-6a0a-4c4b-9d1e-2f2a6c1b7d10' {}"
VLAN = "<vlan><tag id='42'/></vlan><bandwidth><inbound average='1000'/></bandwidth>"


@pytest.mark.parametrize(
    ("defined", "running"),
    [
        (nic(1), nic(1, source=ACTUAL.format("bridge='br0'"), kind="bridge")),
        (nic(1), nic(1, source=ACTUAL.format("dev='eth1' mode='private'"), kind="direct")),
        (nic(1), nic(1, VLAN, ACTUAL.format("bridge='br0'"), "bridge")),
        (
            nic(1),
            nic(1, kind="hostdev").replace(
                "<source network='lan'/>",
                "<driver name='vfio'/><source><address type='pci' domain='0' bus='3' slot='1' function='0'/></source>"
                "<vlan><tag id='42'/></vlan>",
            ),
        ),
    ],
)
def test_bug_how_a_network_is_reached_was_a_difference(defined: str, running: str) -> None:
    site = sites.checked({"networks": {"network:lan": {"multus": "lan"}, "bridge:br0": {"multus": "other"}}}, "site")
    assert not differing(domain(devices=defined), domain(devices=running), site)
    (finding,) = differing(domain(devices=defined), domain(devices=nic(1, source="bridge='br0'", kind="bridge")), site)
    assert "networkName: other now, lan then" in finding.because


def test_bug_where_a_usb_device_was_found_was_a_difference() -> None:
    usb = "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0x{}'/>{}</source></hostdev>"
    place = "<address bus='1' device='{}'/>"
    site = sites.checked({"hostDevices": {"usb:*": "vendor.com/usb"}}, "site")
    found = domain(devices=usb.format("beef", place.format(4)))
    assert not differing(domain(devices=usb.format("beef", "")), found, site)
    assert differing(domain(devices=usb.format("beef", place.format(3))), found, site)
    assert differing(domain(devices=usb.format("dead", "")), found, site)


def test_bug_a_block_job_was_a_difference_to_be_edited_away() -> None:
    mirror = "<mirror type='file' job='copy'><source file='/d/b'/></mirror>"
    disk = "<disk><source file='/d/a'/>{}<target dev='vda' bus='virtio'/></disk>"
    record = vm(xml=domain(devices=disk.format("")), live=domain(devices=disk.format(mirror)), has_live=True)
    record.jobs, record.disks = [BlockJob("vda", "copy")], [Disk("vda", path="/d/a", format="raw", capacity=1 << 30)]
    plan = pipeline.translate(record, rule_files.load(), target("1.9"), Site())
    assert [finding.id for finding in plan.findings if finding.id.startswith("state/")] == ["state/block-job"]


def test_bug_an_interface_that_was_unplugged_gave_its_address_to_the_next() -> None:
    site = sites.checked({"networks": {"default": {"multus": "lan"}}}, "site")
    three = domain(devices=nic(1) + nic(2) + nic(3))
    (finding,) = differing(three, domain(devices=nic(2) + nic(3)), site)
    assert finding.path == "devices.interface[0].type"
    assert "in devices.interface[0] (domain.devices.interfaces[interface-0].name: nothing now" in finding.because
    alike = domain(devices=nic(1) + nic(1) + nic(2))
    assert not differing(alike, alike, site)
    first, other = differing(three, domain(devices=nic(2) + nic(5) + nic(3)), site)
    assert "in devices.interface[1] of the running guest (domain.devices.interfaces[52:54:00:11:22:05]" in first.because
    assert "in devices.interface[0] (" in other.because


def test_bug_a_device_was_named_by_its_position_in_the_other_domain() -> None:
    disk = "<disk><source file='/d/{0}'/><target dev='vd{0}' bus='virtio'/>{1}</disk>"
    first, last, slow = disk.format("a", ""), disk.format("c", ""), "<iotune><read_iops_sec>9</read_iops_sec></iotune>"
    plugged = domain(devices=first + disk.format("b", "") + disk.format("c", slow))
    disks = [Disk(f"vd{name}", path=f"/d/{name}", format="raw", capacity=1 << 30) for name in "ac"]
    record = vm(xml=domain(devices=first + last), live=plugged, has_live=True, disks=disks)
    plan = pipeline.translate(record, rule_files.load(), target("1.9"), Site())
    new, changed = (finding for finding in plan.findings if finding.id == "state/live-differs")
    assert "in devices.disk[1] of the running guest (volumes[vdb].name" in new.because
    assert "in devices.disk[1] (disk-limits/lost: so now, nothing then)" in changed.because


def test_bug_a_finding_of_all_devices_changed_with_a_plugged_one() -> None:
    there = "<{0} model='virtio'>{1}<address type='pci' domain='0' bus='0' slot='{2}' function='0'/></{0}>"
    rng = there.format("rng", "<backend model='random'/>", 3)
    balloon = there.format("memballoon", "", 4)
    (finding,) = differing(domain(devices=balloon), domain(devices=balloon + rng))
    assert finding.path.startswith("devices.rng")
    assert "device-address/moved: so now, nothing then" in finding.because


def test_a_flag_that_only_the_running_guest_has_is_a_finding() -> None:
    (finding,) = differing(domain(), domain(devices="<shmem name='x'><size unit='M'>4</size></shmem>"))
    assert finding.path.startswith("devices.shmem")


def test_what_libvirt_completes_for_a_running_guest_is_no_difference() -> None:
    running = MODEL.format("custom", "Nehalem", "<vendor>Intel</vendor><feature policy='require' name='vmx'/>")
    label = "<seclabel type='dynamic' model='dac' relabel='yes'><label>+0:+0</label></seclabel>"
    assert not differing(domain(), domain(cpu=running, more=label))
    nic = "<interface type='network'><source network='lan'{}/></interface>"
    assert not differing(domain(devices=nic.format("")), domain(devices=nic.format(" dev='eth1' mode='vepa'")))
    defined = MODEL.format("custom", "Nehalem", "")
    assert not differing(domain(cpu=defined), domain(cpu=running))
    (finding,) = differing(domain(cpu=MODEL.format("custom", "Haswell", "")), domain(cpu=running))
    assert "Nehalem now, Haswell then" in finding.because


VMX = "<feature policy='{}' name='vmx'/>"


@pytest.mark.parametrize(
    ("defined", "running", "said"),
    [
        (MODEL.format("custom", "Haswell", VMX.format("require")), MODEL.format("custom", "Haswell", ""), "vmx then"),
        (
            MODEL.format("custom", "Haswell", VMX.format("disable")),
            MODEL.format("custom", "Haswell", VMX.format("require")),
            "require now, disable then",
        ),
        ("<cpu mode='host-passthrough'/>", MODEL.format("custom", "Haswell", ""), "Haswell now, host-passthrough then"),
        ("<cpu mode='host-model'/>", "<cpu mode='host-passthrough'/>", "host-passthrough now, host-model then"),
        (MODEL.format("custom", "Haswell", VMX.format("optional")), MODEL.format("custom", "Haswell", ""), None),
        (
            MODEL.format("custom", "Haswell", VMX.format("optional").replace("vmx", "osxsave")),
            MODEL.format("custom", "Haswell", ""),
            None,
        ),
        (
            MODEL.format("custom", "Icelake-Server", VMX.format("disable").replace("vmx", "pconfig")),
            MODEL.format("custom", "Icelake-Server", ""),
            None,
        ),
        ("<cpu mode='custom' match='minimum'><model>Nehalem</model></cpu>", MODEL.format("custom", "EPYC", ""), None),
        ("<cpu mode='host-model'/>", MODEL.format("custom", "Haswell", VMX.format("require")), None),
        ("", MODEL.format("custom", "qemu64", ""), None),
    ],
)
def test_bug_a_cpu_that_the_running_guest_alone_has_went_unsaid(defined: str, running: str, said: str | None) -> None:
    found = differing(domain(cpu=defined), domain(cpu=running))
    assert len(found) == (said is not None)
    assert all(said in finding.because for finding in found)


@pytest.mark.parametrize(
    ("defined", "running", "said"),
    [
        ("<memory>{}</memory>", ("219100", "219136"), None),
        ("<memory>{}</memory>", ("219100", "220160"), "domain.memory.guest: 215Mi now, 214Mi then"),
        ("<memory>4194304</memory><maxMemory slots='2'>{}</maxMemory>", ("8000001", "8000512"), None),
        (
            "<memory>2097152</memory><cpu><numa><cell id='0' cpus='0' memory='1048576'/>"
            "<cell id='1' cpus='1' memory='{}'/></numa></cpu>",
            ("1048001", "1048576"),
            None,
        ),
        ("<memory>2097152</memory><currentMemory unit='KiB'>{}</currentMemory>", ("1048001", "1048004"), None),
        ("<memory>2097152</memory><currentMemory unit='KiB'>{}</currentMemory>", ("1048576", "2097152"), None),
        (
            "<memory>2097152</memory><currentMemory unit='KiB'>{}</currentMemory>",
            ("2097152", "1048576"),
            "so now, nothing then",
        ),
        (
            "<memory>4096</memory><clock offset='variable' {}/>",
            ("basis='localtime' adjustment='5'", "basis='utc' adjustment='19805'"),
            None,
        ),
        (
            "<memory>4096</memory><clock offset='variable' {}/>",
            ("basis='localtime' adjustment='5'", "basis='utc' adjustment='19806'"),
            "offsetSeconds: 19806 now",
        ),
        (
            "<memory>4096</memory><devices><disk device='cdrom'><target dev='hda' bus='sata' {}/></disk></devices>",
            ("tray='open'", ""),
            None,
        ),
        (
            "<memory>4096</memory><devices><disk device='cdrom'><target dev='hda' bus='sata' {}/></disk></devices>",
            ("", "tray='open'"),
            "cdrom.tray: open now, nothing then",
        ),
    ],
)
def test_bug_what_libvirt_made_of_a_value_at_the_start_was_a_difference(
    defined: str, running: tuple[str, str], said: str | None
) -> None:
    bare = (
        "<domain type='kvm'><name>web</name><uuid>8f2a6a3e-6a0a-4c4b-9d1e-2f2a6c1b7d10</uuid><vcpu>2</vcpu>{}</domain>"
    )
    xml, live = (bare.format(defined.format(value)).encode() for value in running)
    site = sites.checked({"timezone": "Asia/Kolkata"}, "site")
    found = differing(xml, live, site)
    assert [said in finding.because for finding in found] == [True] * (said is not None)


def test_a_direct_interface_of_another_mode_is_a_difference() -> None:
    nic = "<interface type='direct'><source dev='eth0' mode='{}'/><mac address='52:54:00:11:22:33'/></interface>"
    site = sites.checked({"networks": {"default": {"pod": "masquerade"}}}, "site")
    (finding,) = differing(domain(devices=nic.format("passthrough")), domain(devices=nic.format("bridge")), site)
    assert "passthrough" in finding.because


IMAGE = "<disk type='{}'><driver name='qemu' type='{}'/><source {}='{}'/>{}<target dev='vda' bus='virtio'/></disk>"


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (("file", "raw", "file", "/d/b", ""), "image: /d/b (raw) now, /d/a (raw) then"),
        (("file", "qcow2", "file", "/d/a", ""), "image: /d/a (qcow2) now, /d/a (raw) then"),
        (("block", "raw", "dev", "/dev/x", ""), "image: /dev/x (raw) now, /d/a (raw) then"),
        (("file", "raw", "file", "/d/a", "<backingStore/><alias name='virtio-disk0'/>"), None),
    ],
)
def test_bug_a_guest_that_writes_to_another_image_went_unsaid(now: tuple[str, ...], said: str | None) -> None:
    xml = domain(devices=IMAGE.format("file", "raw", "file", "/d/a", ""))
    disks = [Disk("vda", path="/d/a", format="raw", capacity=1 << 30, pool="default")]
    record = vm(xml=xml, live=domain(devices=IMAGE.format(*now)), has_live=True, disks=disks)
    plan = pipeline.translate(record, rule_files.load(), target("1.9"), Site())
    found = [finding for finding in plan.findings if finding.id == "state/live-differs"]
    assert [said in finding.because for finding in found] == [True] * (said is not None)


def test_bug_a_disk_in_further_devices_that_is_another_image_now_stopped_the_plan() -> None:
    def further(path: str) -> bytes:
        devices = f"<devices>{IMAGE.format('file', 'raw', 'file', path, '')}</devices>"
        return domain().replace(b"</domain>", f"{devices}</domain>".encode())

    record = vm(xml=further("/d/a"), live=further("/d/b"), disks=[Disk("vda", path="/d/a", format="raw")])
    plan = pipeline.translate(record, rule_files.load(), target("1.9"), Site())
    assert {"repeated/further"} <= {finding.id for finding in plan.all_findings()}


def test_what_a_transient_disk_writes_to_is_no_difference() -> None:
    defined, running = (
        IMAGE.format("file", format, "file", path, "<transient/>")
        for format, path in (("raw", "/d/a"), ("qcow2", "/d/a.TRANSIENT-web"))
    )
    for capacity in (1 << 30, None):
        record = vm(xml=domain(devices=defined), live=domain(devices=running))
        record.disks = [Disk("vda", path="/d/a", format="raw", capacity=capacity)]
        plan = pipeline.translate(record, rule_files.load(), target("1.9"), Site())
        assert not [finding for finding in plan.findings if finding.id == "state/live-differs"]
    record.live = domain(devices=running.replace("<transient/>", ""))
    plan = pipeline.translate(record, rule_files.load(), target("1.9"), Site())
    (finding,) = (finding for finding in plan.findings if finding.id == "state/live-differs")
    assert "image: /d/a.TRANSIENT-web (qcow2) now, /d/a (raw) then" in finding.because


def test_bug_a_virtio_mem_device_that_the_guest_had_not_filled_yet_was_ballooned_memory() -> None:
    device = "<memory model='virtio-mem'><target><size>1048576</size><requested>524288</requested>{}</target></memory>"
    bare = (
        "<domain type='kvm'><name>web</name><uuid>8f2a6a3e-6a0a-4c4b-9d1e-2f2a6c1b7d10</uuid><vcpu>2</vcpu>"
        "<memory>3145728</memory><currentMemory>{}</currentMemory><devices>{}</devices></domain>"
    )
    xml = bare.format(3145728, device.format("")).encode()
    for now, ballooned in ((2097152, False), (1048576, True)):
        live = bare.format(now, device.format("<current>0</current>")).encode()
        assert bool(differing(xml, live)) == ballooned


def test_bug_the_running_domain_kept_what_a_rule_of_the_user_hides(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "rules: [{id: mine, owns: frob.key, secret: 'true', flag: note, because: Gone., remedy: None.}]"
    )
    xml = domain(more="<frob key='hunter2'/>")
    plan = pipeline.translate(vm(xml=xml, live=xml), rule_files.load(tmp_path), target("1.9"), Site())
    assert b"(redacted)" in plan.live and b"hunter2" not in plan.live


def test_what_libvirt_fills_in_of_a_device_that_is_not_carried_is_no_difference() -> None:
    there = (
        "<graphics type='spice' autoport='yes'/><channel type='spicevmc'><target type='virtio' name='x'/>{}</channel>"
    )
    running = there.replace("autoport", "port='5900' autoport").format("<alias name='channel0'/>")
    assert not differing(domain(devices=there.format("")), domain(devices=running))
    (finding,) = differing(domain(devices=there.format("")), domain(devices=running.replace("spice'", "sdl'")))
    assert "graphics-gate/sdl: so now, nothing then; graphics-gate/spice: nothing now, so then" in finding.because


def test_the_live_xml_is_kept_beside_the_domain_and_in_the_plan(tmp_path: Path) -> None:
    stock, plan = tmp_path / "inventory", tmp_path / "plan"
    inventory.write(stock, [vm(xml=domain(2), live=domain(4), has_live=True)], [])
    found = inventory.read(stock)
    assert [(item.xml, item.live) for item in found] == [(domain(2), domain(4))]
    assert "live" not in json.loads((stock / "inventory.json").read_text())["vms"][0]
    rules = rule_files.load()
    reporting.write_plan(plan, pipeline.plan(found, rules, target("1.9"), Site()), target("1.9"))
    answer = whatif.ask(plan, None, "", rules, Selection.parse(), date(2027, 1, 1))
    assert not answer.changes and not answer.unseen
    (stock / "web.live.xml").unlink()
    with pytest.raises(Refused):
        list(found)
    inventory.write(stock, [vm(xml=domain(2))], [])
    assert sorted(path.name for path in stock.iterdir()) == ["inventory.json", "web.xml"]


def test_the_project_of_openstack_is_read(tmp_path: Path) -> None:
    nova = """<metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'><nova:owner>
    <nova:project uuid='1'>finance</nova:project></nova:owner></nova:instance></metadata>"""
    (tmp_path / "web.xml").write_bytes(domain(more=nova))
    (found,) = files.collect(str(tmp_path / "web.xml"), Selection.parse())
    assert isinstance(found, VM) and found.project == "finance"
    (tmp_path / "web.xml").write_bytes(domain(more=nova.replace("openstack.org", "example.org")))
    (found,) = files.collect(str(tmp_path / "web.xml"), Selection.parse())
    assert isinstance(found, VM) and found.project == ""
