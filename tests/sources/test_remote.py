"""Disks of another host: over its ssh, through its pools, or not at all."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from sources.daemon import disk
from sources.elsewhere import IMAGES, Host
from sources.test_libvirt import one_at, planned

from migrate.model import VM, Disk, Image, PlannedDisk, Refused, Unfinished
from migrate.sources import _ssh
from migrate.sources import libvirt as source
from migrate.transfer import _nbd

MiB = 1 << 20


def content(uri: str) -> bytes:
    with _nbd.Connection(uri) as connection:
        buffer = bytearray(connection.size)
        connection.pread(0, buffer, 0, len(buffer))
    return bytes(buffer)


def gone(host: Host) -> bool:
    """Whether no server and no folder is left on the host, in the end."""
    deadline = time.monotonic() + 60
    while host.servers():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def web(host: Host, url: str, *devices: str) -> VM:
    host.define("web", "".join(devices))
    return one_at(url)


@pytest.mark.parametrize("transport", ["ssh", "libssh", "libssh2"])
def test_a_chain_is_read_over_the_ssh_that_libvirt_has(elsewhere: Host, transport: str):
    base = elsewhere.image("base.qcow2", "write -P 1 0 1M", "write -P 2 2M 1M", size="4M")
    top = elsewhere.image("top.qcow2", "write -P 3 512k 1M", backing=str(base))
    vm = web(elsewhere, elsewhere.url(transport=transport), disk(top))
    assert not top.exists()
    assert source.unfit(vm, planned(vm)) is None
    with source.hold(vm) as check, source.open(vm, planned(vm)) as opened:
        check()
        opened.check()
        assert (opened.size, len(elsewhere.servers())) == (8 * MiB, 2)
        seen = content(opened.uri)
    half = MiB // 2
    assert seen == b"\1" * half + b"\3" * MiB + bytes(half) + b"\2" * MiB + bytes(5 * MiB)
    assert gone(elsewhere)


def test_many_connections_go_over_one_ssh(elsewhere: Host):
    path = elsewhere.image("a.raw", "write -P 1 0 8M", format="raw")
    vm = web(elsewhere, elsewhere.url(), disk(path, format="raw"))
    with source.open(vm, planned(vm)) as opened:
        connections = [_nbd.Connection(opened.uri) for _ in range(16)]
        assert {connection.size for connection in connections} == {8 * MiB}
        for connection in connections:
            connection.close()
        assert elsewhere.run("ps", "-e", "-o", "comm=").split().count("qemu-nbd") == 1


def test_a_block_device_is_read_over_ssh(elsewhere: Host):
    path = elsewhere.image("a.raw", "write -P 1 0 1M", format="raw")
    device = elsewhere.run("losetup", "--find", "--show", path).strip()
    try:
        vm = web(
            elsewhere,
            elsewhere.url(),
            disk(device, format="raw").replace("'file'", "'block'", 1).replace("file=", "dev="),
        )
        with source.open(vm, planned(vm)) as opened:
            assert content(opened.uri) == b"\1" * MiB + bytes(7 * MiB)
            opened.check()
            elsewhere.run("dd", "if=/dev/zero", f"of={device}", "bs=4096", "count=1", "oflag=direct")
            with pytest.raises(Unfinished, match="changed during the copy"):
                opened.check()
    finally:
        elsewhere.run("losetup", "--detach", device)


def test_raw_is_not_probed_over_ssh(elsewhere: Host):
    path = elsewhere.image("guest-wrote-a-header.qcow2")
    size = int(elsewhere.run("stat", "-c", "%s", path))
    vm = web(elsewhere, elsewhere.url(), disk(path, format="raw"))
    with source.open(vm, planned(vm)) as opened:
        assert opened.size == size + -size % 512
        assert content(opened.uri)[:4] == b"QFI\xfb"


@pytest.mark.parametrize("by", ["ssh", "pool"])
def test_an_image_that_points_outside_is_refused_by_its_header(elsewhere: Host, by: str):
    elsewhere.run("mkdir", IMAGES / "secret")
    base = elsewhere.image("secret/base.qcow2", "write -P 1 0 1M")
    top = elsewhere.image("top.qcow2", backing=str(base))
    elsewhere.pool()
    vm = web(elsewhere, elsewhere.url() if by == "ssh" else elsewhere.tcp_url, disk(top))
    # The inventory may know less than the header says.
    known = replace(planned(vm), chain=[Image(str(top), "qcow2")])
    with pytest.raises(Refused, match=r"secret.*outside"), source.open(vm, known):
        pass
    assert gone(elsewhere)


def test_a_link_that_leads_outside_is_refused_over_ssh(elsewhere: Host):
    elsewhere.run("mkdir", IMAGES / "secret")
    elsewhere.image("secret/base.qcow2")
    elsewhere.run("ln", "-s", "secret/base.qcow2", IMAGES / "link.qcow2")
    vm = web(elsewhere, elsewhere.url(), disk(elsewhere.image("top.qcow2", backing=f"{IMAGES}/link.qcow2")))
    with pytest.raises(Refused, match=r"secret.*outside"), source.open(vm, planned(vm)):
        pass
    with source.open(vm, planned(vm, allowed=[f"{IMAGES}/secret"])) as opened:
        assert opened.size == 8 * MiB


@pytest.mark.parametrize(("named", "other"), [("link.qcow2", False), ("other.qcow2", True)])
def test_bug_another_chain_is_refused_over_ssh(elsewhere: Host, named: str, other: bool):
    base = elsewhere.image("base.qcow2")
    elsewhere.image("other.qcow2")
    elsewhere.run("ln", "-s", base, IMAGES / "link.qcow2")
    below = f"<backingStore type='file'><format type='qcow2'/><source file='{IMAGES / named}'/></backingStore>"
    top = disk(elsewhere.image("top.qcow2", backing=str(base)))
    vm = web(elsewhere, elsewhere.url(), top.replace("<target", f"{below}<target"))
    assert vm.disks[0].problem is None  # the host has no pool, so nothing is known of what is below
    refused = pytest.raises(Refused, match="another backing chain") if other else nullcontext()
    with refused, source.open(vm, planned(vm)):
        pass


HOSTILE = [
    "'; touch /srv/pwned; '.qcow2",
    "$(touch /srv/pwned).qcow2",
    '`touch /srv/pwned`".qcow2',
    "-rf *; a & b | c > d \\ e\t.qcow2",
    "blank line ÄÖ ' \" !! {a,b} ~ #.qcow2",
    "a,b=c:d%s\\n.qcow2",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_only_a_name(elsewhere: Host, name: str):
    name = name.replace("/", "\N{FRACTION SLASH}")
    path = IMAGES / name
    elsewhere.run("mv", "--", elsewhere.image("a.qcow2", "write -P 1 0 1M"), path)
    domain = VM("web", "u", "libvirt", "", elsewhere.url(), "elsewhere", state="shut off")
    wanted = PlannedDisk("vda", "n", "c", "file", str(path), "qcow2", 8 * MiB, 0, 8 * MiB, [], [name])
    with source.open(domain, wanted) as opened:
        assert content(opened.uri)[:MiB] == b"\1" * MiB
    assert gone(elsewhere)


def test_a_hostile_name_runs_nothing(elsewhere: Host):
    for name in ("/x'; touch /srv/pwned; '", "/$(touch /srv/pwned)", "/`touch /srv/pwned`", "/a\ntouch /srv/pwned\n"):
        with _ssh.connected(elsewhere.url()) as files:
            with pytest.raises(Refused):
                files.entry(name)
            with pytest.raises(Refused):
                files.read(name, 0, 10)
            assert files.entry(str(IMAGES.parent / "passwd")).block is False
    assert not (elsewhere.folder / "pwned").exists()


def test_a_changed_image_voids_the_copy(elsewhere: Host):
    path = elsewhere.image("a.raw", format="raw")
    vm = web(elsewhere, elsewhere.url(), disk(path, format="raw"))
    with source.open(vm, planned(vm)) as opened:
        opened.check()
        elsewhere.run("qemu-io", "-f", "raw", "-c", "write -P 1 0 512", path)
        with pytest.raises(Unfinished, match="changed during the copy"):
            opened.check()
        elsewhere.run("rm", path)
        with pytest.raises(Unfinished, match="is gone"):
            opened.check()


def test_an_image_that_a_machine_writes_is_not_read(elsewhere: Host):
    path = elsewhere.image("a.raw", format="raw")
    vm = web(elsewhere, elsewhere.url(), disk(path, format="raw"))
    enter = ["nsenter", f"--target={elsewhere.pid}", "--mount", "--pid", "qemu-io", "-f", "raw", str(path)]
    with subprocess.Popen(enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        writer.stdin.write("write -P 1 0 512\n")
        writer.stdin.flush()
        writer.stdout.readline()
        with pytest.raises(Unfinished, match="in use by a running machine"), source.open(vm, planned(vm)):
            pass
        writer.stdin.close()
    with source.open(vm, planned(vm)):
        pass


def test_a_start_during_the_copy_is_seen_over_ssh(elsewhere: Host):
    vm = web(elsewhere, elsewhere.url(), disk(elsewhere.image("a.raw", format="raw"), format="raw"))
    with source.hold(vm) as check, source.open(vm, planned(vm)):
        domain = elsewhere.daemon.connection.lookupByName("web")
        domain.createWithFlags(1)
        domain.destroy()
        with pytest.raises(Unfinished, match="ran during the copy"):
            check()


OPEN = """
import sys, time
from migrate.model import VM, PlannedDisk
from migrate.sources import libvirt as source
url, path = sys.argv[1:]
vm = VM("web", "u", "libvirt", "", url, "elsewhere", state="shut off")
with source.open(vm, PlannedDisk("vda", "n", "c", "file", path, "qcow2", 1, 0, 1, [], [])) as opened:
    print(opened.size, flush=True)
    time.sleep(1000)
"""


def test_kill_leaves_nothing_on_the_host(elsewhere: Host):
    path = elsewhere.image("a.qcow2")
    command = [sys.executable, "-c", OPEN, elsewhere.url(), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == f"{8 * MiB}\n"
        assert len(elsewhere.servers()) == 2
        reader.kill()
    assert gone(elsewhere)


def test_a_cut_line_leaves_nothing_on_the_host_and_is_unfinished(elsewhere: Host):
    vm = web(elsewhere, elsewhere.url(), disk(elsewhere.image("a.qcow2")))
    with source.open(vm, planned(vm)) as opened:
        shell = elsewhere.run("ps", "-C", "qemu-nbd", "-o", "ppid=").strip()
        session = elsewhere.run("ps", "-p", shell, "-o", "ppid=").strip()
        elsewhere.run("kill", "-9", session)
        with pytest.raises(Unfinished, match="run again"):
            opened.check()
        with pytest.raises(Unfinished):
            content(opened.uri)
    assert gone(elsewhere)


def test_a_silent_line_leaves_nothing_on_the_host(elsewhere: Host, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_ssh, "PATIENCE_SECONDS", 2)
    path = str(elsewhere.image("a.qcow2"))
    with _ssh.connected(elsewhere.url()) as files, files.serve([Image(path, "qcow2")]):
        os.kill(files._process.pid, signal.SIGSTOP)
        try:
            assert gone(elsewhere)
        finally:
            os.kill(files._process.pid, signal.SIGCONT)


def test_signs_of_life_keep_the_server(elsewhere: Host, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_ssh, "PATIENCE_SECONDS", 3)
    monkeypatch.setattr(_ssh, "BEAT_SECONDS", 0.2)
    path = str(elsewhere.image("a.qcow2"))
    with _ssh.connected(elsewhere.url()) as files, files.serve([Image(path, "qcow2")]):
        time.sleep(5)
        assert len(elsewhere.servers()) == 2


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"ssh": "ssh-wrong"}, Refused, "Host key verification failed.*known_hosts"),
        ({"ssh": "ssh-none"}, Refused, "Host key verification failed.*known_hosts"),
        ({"user": "nobody-there"}, Refused, "Permission denied.*ssh-copy-id"),
        ({"user": "closed"}, Refused, "forwards no sockets.*AllowStreamLocalForwarding"),
        ({"user": "keeper"}, Refused, "Permission denied; log in as root there"),
        ({"ssh": "no-such-program"}, Refused, "cannot be run: No such file"),
    ],
)
def test_what_is_in_the_way_of_ssh_is_one_line_with_what_to_do(elsewhere: Host, how: dict, error: type, words: str):
    path = elsewhere.image("a.qcow2")
    elsewhere.run("chmod", "600", path)
    vm = replace(web(elsewhere, elsewhere.url(), disk(path)), url=elsewhere.url(**how))
    with pytest.raises(error, match=words) as refusal, source.open(vm, planned(vm)):
        pass
    assert "\n" not in str(refusal.value)
    assert gone(elsewhere)


def test_a_raw_image_that_only_qemu_nbd_opens_says_who_may_read_it(elsewhere: Host):
    path = elsewhere.image("a.raw", format="raw")
    elsewhere.run("chmod", "600", path)
    vm = web(elsewhere, elsewhere.url(), disk(path, format="raw"))
    vm.url = elsewhere.url(user="keeper")
    with pytest.raises(Refused, match="Permission denied; log in as root there"), source.open(vm, planned(vm)):
        pass


def test_a_host_that_does_not_answer_is_unfinished(elsewhere: Host):
    vm = web(elsewhere, elsewhere.url(), disk(elsewhere.image("a.qcow2")))
    vm.url = vm.url.replace(f":{elsewhere.ssh_port}/", ":1/")
    with pytest.raises(Unfinished, match=r"Connection refused; run again when"), source.open(vm, planned(vm)):
        pass


@pytest.fixture
def without_qemu_nbd(elsewhere: Host):
    elsewhere.run("mount", "--bind", "/dev/null", "/usr/bin/qemu-nbd")
    yield elsewhere
    elsewhere.run("umount", "/usr/bin/qemu-nbd")


def test_a_host_without_qemu_nbd_sends_its_volumes(without_qemu_nbd: Host):
    host = without_qemu_nbd
    path = host.image("a.qcow2", "write -P 1 0 1M")
    vm = web(host, host.url(), disk(path))
    with pytest.raises(Refused, match="install there qemu-utils"), source.open(vm, planned(vm)):
        pass
    host.pool()
    vm = one_at(host.url())
    with source.open(vm, planned(vm)) as opened:
        assert content(opened.uri) == b"\1" * MiB + bytes(7 * MiB)


def test_volumes_come_over_tcp_as_they_are_and_sparse(elsewhere: Host):
    base = elsewhere.image("base.qcow2", "write -P 1 0 1M", size="4M")
    top = elsewhere.image("top.qcow2", "write -P 3 512k 1M", backing="base.qcow2")
    raw = elsewhere.image("a.raw", "write -P 4 1M 1M", format="raw", size="4G")
    elsewhere.pool()
    vm = web(elsewhere, elsewhere.tcp_url, disk(top), disk(raw, "vdb", "raw"))
    assert [item.path for item in vm.disks[0].chain] == [str(top), str(base)]
    with source.hold(vm), source.open(vm, planned(vm)) as opened:
        assert content(opened.uri) == b"\1" * (MiB // 2) + b"\3" * MiB + bytes(6 * MiB + MiB // 2)
        opened.check()
    with source.open(vm, planned(vm, 1)) as opened, _nbd.Connection(opened.uri) as connection:
        assert opened.size == 4 << 30
        assert (MiB, 2 * MiB) in connection.data_ranges()
        assert MiB <= kept() < 64 * MiB
    assert elsewhere.servers() == []


def kept() -> int:
    """The bytes of the files without a name that this process has open."""
    found = {}
    for item in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # The one that lists them is gone.
            if os.readlink(item).endswith(" (deleted)"):
                status = item.stat()
                found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def test_a_changed_volume_voids_the_copy(elsewhere: Host):
    path = elsewhere.image("a.raw", format="raw")
    elsewhere.pool()
    vm = web(elsewhere, elsewhere.tcp_url, disk(path, format="raw"))
    with source.open(vm, planned(vm)) as opened:
        opened.check()
        elsewhere.run("qemu-io", "-f", "raw", "-c", "write -P 1 0 512", path)
        with pytest.raises(Unfinished, match="changed during the copy"):
            opened.check()


def test_a_volume_that_went_is_refused_with_what_to_do(elsewhere: Host):
    path = elsewhere.image("a.qcow2")
    elsewhere.pool()
    vm = web(elsewhere, elsewhere.tcp_url, disk(path))
    elsewhere.run("rm", path)
    with pytest.raises(Refused, match="a volume of an active pool"), source.open(vm, planned(vm)):
        pass


def test_a_volume_that_has_no_room_here_is_refused_before_it_comes(
    elsewhere: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = elsewhere.image("a.raw", "write -P 1 0 8M", format="raw")
    elsewhere.pool()
    vm = web(elsewhere, elsewhere.tcp_url, disk(path, format="raw"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "small", tmp_path], check=True)
    try:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        with pytest.raises(Refused, match=r"no room for \d+ bytes.*TMPDIR"), source.open(vm, planned(vm)):
            pass
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_what_neither_ssh_nor_a_pool_reaches_is_refused_in_the_plan(elsewhere: Host):
    path = elsewhere.image("a.qcow2")
    vm = web(elsewhere, elsewhere.tcp_url, disk(path))
    reason = source.unfit(vm, planned(vm))
    assert str(path) in reason and "qemu+ssh" in reason and "virsh pool-create-as" in reason
    with pytest.raises(Refused, match="in none of its pools"), source.open(vm, planned(vm)):
        pass
    elsewhere.pool()
    assert source.unfit(one_at(elsewhere.tcp_url), planned(vm)) is None


def test_a_password_for_ssh_is_refused_in_the_plan():
    vm = VM("web", "u", "libvirt", "qemu://h/system", "", "h", state="shut off", disks=[Disk("vda", path="/a")])
    for methods, fits in (("password", False), ("password,privkey", True), ("agent", True)):
        vm.url = f"qemu+libssh2://h/system?sshauth={methods}"
        assert (source.unfit(vm, planned(vm)) is None) == fits


def test_only_what_comes_through_pools_is_taken_over_whole():
    vm = VM("web", "u", "libvirt", "qemu://h/system", "qemu+tcp://h/system", "h", disks=[Disk("vda", path="/a")])
    assert source.spools(vm, planned(vm))
    for url in ("qemu+ssh://h/system", "qemu+libssh2://h/system", "qemu:///system"):
        assert not source.spools(replace(vm, url=url), planned(vm))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("qemu+ssh://h/system", ["ssh", "-T", "--", "h"]),
        ("qemu+ssh://a%40b@h.example:2222/system", ["-p", "2222", "-l", "a@b", "--", "h.example"]),
        ("qemu+ssh://u@[fe80::1]:22/system", ["-p", "22", "-l", "u", "--", "fe80::1"]),
        ("qemu+ssh://-oProxyCommand=x/system", ["--", "-oProxyCommand=x"]),
        ("qemu+ssh://h/system?keyfile=/k%20y&command=/bin/my-ssh", ["/bin/my-ssh", "-i", "/k y", "--", "h"]),
        ("qemu+ssh://h/system?no_verify=1", ["StrictHostKeyChecking=no", "--", "h"]),
        ("qemu+libssh://h/system?known_hosts=/k h", ['UserKnownHostsFile="/k h"', "--", "h"]),
        ("qemu+libssh2://h/system?known_hosts_verify=auto", ["StrictHostKeyChecking=accept-new", "--", "h"]),
        ("qemu+libssh2://h/system?known_hosts_verify=ignore", ['UserKnownHostsFile="/dev/null"', "--", "h"]),
        ("qemu+libssh2://h/system?sshauth=privkey", ["IdentityAgent=none", "--", "h"]),
        ("qemu+libssh2://h/system?command=/bin/evil", ["ssh", "--", "h"]),
    ],
)
def test_ssh_is_called_as_libvirt_calls_it(url: str, words: list[str]):
    command = _ssh.arguments(url)
    assert [word for word in command if word in words] == words
    assert command[-2] == "--"
    assert "BatchMode=yes" in command


def test_a_url_without_a_host_is_refused():
    for url in ("qemu+ssh:///system", "qemu+ssh://h:x/system", "qemu+ssh://a:b:c/system"):
        with pytest.raises(Refused, match="names no host"):
            _ssh.arguments(url)
