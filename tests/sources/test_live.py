"""Guests that run under a real libvirt: their live XML, the jobs on their disks, and what a plan says of both."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sources.daemon import Daemon, disk, image

from migrate import pipeline, sources
from migrate import site as sites
from migrate.mapping import rule_files
from migrate.model import VM, BlockJob, Translation
from migrate.selection import Selection
from migrate.sources import libvirt as source
from migrate.target.vocabulary import target

GUEST = """<domain type='qemu'><name>guest</name><memory unit='KiB'>65001</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><cpu mode='{cpu}'/><features><acpi/></features>
<clock offset='variable' adjustment='3' basis='localtime'/><devices>
{disks}<disk type='file' device='cdrom'><target dev='sda' bus='sata' tray='open'/></disk>{more}
<graphics type='vnc' autoport='yes' passwd='hunter2'/><video><model type='vga'/></video>
<serial type='pty'/><console type='pty'/><input type='tablet' bus='usb'/>
<rng model='virtio'><backend model='random'/></rng>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>"""
NIC = "<interface type='user'><mac address='52:54:00:11:22:3{n}'/><model type='virtio'/></interface>"
Guest = Callable[..., Any]


@pytest.fixture
def guest(daemon: Daemon) -> Iterator[Guest]:
    """`guest(cpu)`: a domain that runs, with one disk and one interface."""

    def start(cpu: str = "host-model") -> Any:
        disks = disk(image(daemon.folder / "a.qcow2"))
        domain = daemon.connection.defineXML(GUEST.format(cpu=cpu, disks=disks, more=NIC.format(n=1)))
        domain.create()
        return domain

    yield start


def collected(daemon: Daemon) -> VM:
    (vm,) = sources.collect("libvirt", [daemon.url], Selection.parse())
    assert isinstance(vm, VM), vm
    vm.folder = "guest"
    return vm


def planned(daemon: Daemon, folder: Path) -> Translation:
    """The VM collected into an inventory and planned."""
    rules = rule_files.load()
    inventory = pipeline.collect("libvirt", [daemon.url], Selection.parse(), rules, folder)
    networks = sites.checked({"networks": {"user/vlan:9": {"pod": "masquerade"}, "default": {"multus": "net"}}}, "t")
    (found,) = pipeline.plan(inventory, rules, target("1.9"), networks)
    assert isinstance(found, Translation) and not found.internal
    return found


def of(found: Translation, id: str) -> list[Any]:
    return [finding for finding in found.all_findings() if finding.id == id]


@pytest.mark.parametrize("cpu", ["host-model", "custom"])
def test_a_guest_that_runs_as_it_is_defined_differs_in_nothing(
    cpu: str, guest: Guest, daemon: Daemon, tmp_path: Path
) -> None:
    guest(cpu)
    found = planned(daemon, tmp_path / "i")
    assert not of(found, "state/live-differs")
    assert b"alias name='virtio-disk0'" in (tmp_path / "i/guest.live.xml").read_bytes().replace(b'"', b"'")
    assert not [path for path in (tmp_path / "i").iterdir() if b"hunter2" in path.read_bytes()]


def test_a_device_that_was_plugged_into_the_running_guest_is_a_finding(
    guest: Guest, daemon: Daemon, tmp_path: Path
) -> None:
    lib = source._library()
    guest().attachDeviceFlags(disk(image(daemon.folder / "b.qcow2"), "vdb"), lib.VIR_DOMAIN_AFFECT_LIVE)
    (finding,) = of(planned(daemon, tmp_path / "i"), "state/live-differs")
    assert (finding.path, finding.severity) == ("devices.disk[1].type", "warning")
    assert "domain.devices.disks[vdb].name: vdb now, nothing then" in finding.because


def test_what_changed_in_the_definition_since_the_start_is_a_finding(
    guest: Guest, daemon: Daemon, tmp_path: Path
) -> None:
    text = guest().XMLDesc(source._library().VIR_DOMAIN_XML_INACTIVE)
    daemon.connection.defineXML(text.replace("52:54:00:11:22:31", "52:54:00:11:22:39"))
    (finding,) = of(planned(daemon, tmp_path / "i"), "state/live-differs")
    assert finding.path == "devices.interface[0].mac.address"
    assert "52:54:00:11:22:31 now, 52:54:00:11:22:39 then" in finding.because


def test_a_guest_that_was_shut_off_has_no_live_xml_any_more(guest: Guest, daemon: Daemon, tmp_path: Path) -> None:
    domain = guest()
    planned(daemon, tmp_path / "i")
    domain.destroy()
    assert not of(planned(daemon, tmp_path / "i"), "state/live-differs")
    assert sorted(path.name for path in (tmp_path / "i").iterdir()) == ["guest.xml", "inventory.json"]


def test_a_paused_guest_is_a_blocker_with_the_command(guest: Guest, daemon: Daemon, tmp_path: Path) -> None:
    guest().suspend()
    (finding,) = of(planned(daemon, tmp_path / "i"), "state/suspended")
    assert finding.severity == "blocker" and "virsh resume guest" in finding.remedy


def test_a_managed_save_is_a_blocker_with_the_command(guest: Guest, daemon: Daemon, tmp_path: Path) -> None:
    guest().managedSave()
    (finding,) = of(planned(daemon, tmp_path / "i"), "state/managed-save")
    assert finding.severity == "blocker" and "virsh managedsave-remove guest" in finding.remedy


def test_a_copy_of_a_disk_is_a_job_until_it_is_ended(guest: Guest, daemon: Daemon, tmp_path: Path) -> None:
    lib, domain = source._library(), guest()
    copy = f"<disk type='file'><driver type='qcow2'/><source file='{image(daemon.folder / 'copy.qcow2')}'/></disk>"
    domain.blockCopy("vda", copy, flags=lib.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | lib.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
    assert within(10, lambda: collected(daemon).jobs == [BlockJob("vda", "copy", ready=True)])
    (finding,) = of(planned(daemon, tmp_path / "i"), "state/block-job")
    assert finding.severity == "blocker" and "virsh blockjob guest vda --pivot" in finding.remedy
    domain.blockJobAbort("vda", 0)
    assert within(10, lambda: collected(daemon).jobs == [])


def test_a_merge_that_waits_for_its_end_is_a_job(guest: Guest, daemon: Daemon) -> None:
    lib, domain = source._library(), guest()
    overlay = image(daemon.folder / "over.qcow2", backing=daemon.folder / "a.qcow2")
    snapshot = f"<domainsnapshot><disks><disk name='vda'><source file='{overlay}'/></disk></disks></domainsnapshot>"
    flags = lib.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | lib.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    domain.snapshotCreateXML(snapshot, flags | lib.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT)
    domain.blockCommit("vda", None, None, 0, lib.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
    assert within(10, lambda: collected(daemon).jobs == [BlockJob("vda", "active-commit", ready=True)])


def test_a_slow_pull_is_a_job(guest: Guest, daemon: Daemon) -> None:
    lib = source._library()
    base = daemon.folder / "base.raw"
    base.write_bytes(b"x" * (8 << 20))
    base.chmod(0o644)
    top = daemon.folder / "top.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(top)], check=True)
    top.chmod(0o666)
    domain = guest()
    domain.attachDeviceFlags(disk(top, "vdb"), lib.VIR_DOMAIN_AFFECT_LIVE)
    domain.blockPull("vdb", 1, lib.VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES)
    assert collected(daemon).jobs == [BlockJob("vdb", "pull")]


def within(seconds: float, test: Callable[[], bool]) -> bool:
    """Whether a test comes true within some seconds."""
    end = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
