"""Another host, as far as one machine can have one: its mounts, processes and name are its own, and so are libvirtd
and sshd. What lies in its `/srv/images` and `/tmp` nobody outside sees."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sources import daemon

from migrate.sources import libvirt as source

IMAGES = Path("/srv/images")

_BEGIN = """
set -e
mount --bind "$1" /srv
mount -t tmpfs -o mode=755 images /srv/images
for folder in /run /var/lib /var/cache /var/log; do mount -t tmpfs -o mode=755 own $folder; done
mount -t tmpfs -o mode=1777 own /tmp
mount --bind /srv/etc /etc/libvirt
mount --bind /srv/passwd /etc/passwd
mkdir /run/sshd
hostname elsewhere
/usr/sbin/sshd -f /srv/sshd_config -E /srv/sshd.log
libvirtd -l -f /srv/libvirtd.conf &
wait $!
"""

_SSHD = """
ListenAddress 127.0.0.1
Port {port}
HostKey /srv/host_key
AuthorizedKeysFile /srv/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PidFile none
MaxSessions 1
Match User closed
AllowStreamLocalForwarding no
"""

_LIBVIRTD = """
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:file:/srv/libvirtd.log"
listen_tls = 0
listen_tcp = 1
listen_addr = "127.0.0.1"
tcp_port = "{port}"
auth_tcp = "none"
"""

_QEMU = """
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""


@dataclass
class Host:
    """`folder` is outside what `/srv` is inside; `pid` is the first of its processes."""

    folder: Path
    pid: int
    ssh_port: int
    tcp_port: int

    def url(self, user: str = "root", transport: str = "ssh", ssh: str = "ssh") -> str:
        """A libvirt URI over ssh; `ssh` names a program in `folder`."""
        how = f"command={self.folder}/{ssh}&no_tty=1" if transport == "ssh" else f"known_hosts={self.folder}/known"
        return f"qemu+{transport}://{user}@127.0.0.1:{self.ssh_port}/system?keyfile={self.folder}/key&{how}"

    @property
    def tcp_url(self) -> str:
        return f"qemu+tcp://127.0.0.1:{self.tcp_port}/system"

    @cached_property
    def daemon(self) -> daemon.Daemon:
        """Its libvirtd by the socket it has inside."""
        socket = f"/proc/{self.pid}/root/run/libvirt/libvirt-sock"
        url = f"qemu+unix:///system?socket={socket}"
        return daemon.Daemon(url, source._library().open(url), IMAGES)

    def run(self, *command: object) -> str:
        """What a command says inside."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--uts", "--"]
        return subprocess.run([*enter, *map(str, command)], capture_output=True, text=True, check=True).stdout

    def define(self, name: str, devices: str = "") -> Any:
        return self.daemon.define(name, devices)

    def image(self, name: str, *writes: str, size: str = "8M", format: str = "qcow2", backing: str = "") -> Path:
        """An image in the folder nobody sees, with what qemu-io commands write."""
        path = IMAGES / name
        below = ["-b", backing, "-F", "qcow2"] if backing else []
        self.run("qemu-img", "create", "-q", "-f", format, *below, path, size)
        if writes:
            self.run("qemu-io", "-f", format, *(part for write in writes for part in ("-c", write)), path)
        return path

    def pool(self, folder: Path = IMAGES) -> None:
        """Makes a folder the host's pool, or reads it again."""
        connection = self.daemon.connection
        known = {pool.name(): pool for pool in connection.listAllStoragePools()}
        if folder.name in known:
            known[folder.name].refresh()
            return
        xml = f"<pool type='dir'><name>{folder.name}</name><target><path>{folder}</path></target></pool>"
        connection.storagePoolDefineXML(xml).create()

    def servers(self) -> list[str]:
        """The qemu-nbd and the folders of theirs that there are."""
        processes = self.run("ps", "-e", "-o", "comm=").split()
        return [name for name in processes if name == "qemu-nbd"] + self.run("ls", "/tmp").split()

    def clear(self) -> None:
        self.daemon.clear()
        self.run("find", IMAGES, "-mindepth", "1", "-delete")


@contextmanager
def running() -> Iterator[Host]:
    folder = Path(tempfile.mkdtemp(prefix="elsewhere-"))
    folder.chmod(0o755)
    ssh_port, tcp_port = daemon.free_port(), daemon.free_port()
    _configure(folder, ssh_port, tcp_port)
    script = ["sh", "-c", _BEGIN, "sh", str(folder)]
    apart = ["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*apart, *script], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        pid = _first_child(process)
        daemon.wait(f"qemu+unix:///system?socket=/proc/{pid}/root/run/libvirt/libvirt-sock", process)
        yield Host(folder, pid, ssh_port, tcp_port)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder)


def _configure(folder: Path, ssh_port: int, tcp_port: int) -> None:
    for name in ("images", "etc"):
        (folder / name).mkdir()
    (folder / "etc" / "qemu.conf").write_text(_QEMU)
    (folder / "libvirtd.conf").write_text(_LIBVIRTD.format(port=tcp_port))
    (folder / "sshd_config").write_text(_SSHD.format(port=ssh_port))
    (folder / "passwd").write_text(
        Path("/etc/passwd").read_text() + "keeper:*:64000:64000::/:/bin/sh\nclosed:*:0:0::/:/bin/sh\n"
    )
    for name in ("key", "host_key", "other_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    for known, key in (("known", "host_key"), ("wrong", "other_key"), ("none", None)):
        line = f"[127.0.0.1]:{ssh_port} {(folder / f'{key}.pub').read_text()}" if key else ""
        (folder / known).write_text(line)
        config = folder / f"{known}.conf"
        config.write_text(f"UserKnownHostsFile {folder / known}\nGlobalKnownHostsFile none\nIdentitiesOnly yes\n")
        program = folder / ("ssh" if known == "known" else f"ssh-{known}")
        program.write_text(f'#!/bin/sh\nexec ssh -F {config} "$@"\n')
        program.chmod(0o755)


def _first_child(process: subprocess.Popen) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (found := children.read_text().split()):
        assert process.poll() is None, "unshare ended"
        os.sched_yield()
    return int(found[0])
