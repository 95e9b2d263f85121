"""A libvirt daemon of its own on a private socket: an unprivileged one, whose files all lie in one folder."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrate.sources import libvirt as source

DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64'>hvm</type></os><devices>{devices}</devices></domain>"""


def image(path: Path, size: str = "8M", format: str = "qcow2", backing: Path | None = None) -> Path:
    """A real image file, which the daemon's user may write."""
    below = ["-b", str(backing), "-F", "qcow2"] if backing else []
    subprocess.run(["qemu-img", "create", "-q", "-f", format, *below, str(path), size], check=True)
    path.chmod(0o666)
    return path


def disk(path: Path | str, target: str = "vda", format: str | None = "qcow2") -> str:
    driver = f"<driver name='qemu' type='{format}'/>" if format else ""
    return (
        f"<disk type='file' device='disk'>{driver}<source file='{path}'/><target dev='{target}' bus='virtio'/></disk>"
    )


@dataclass
class Daemon:
    """`connection` may write; `folder` is a new one for each test."""

    url: str
    connection: Any
    folder: Path

    @property
    def remote_url(self) -> str:
        """The same daemon, reached as another host's is."""
        port = re.search('tcp_port = "(.*)"', (self.folder.parent / "libvirtd.conf").read_text())[1]
        return f"qemu+tcp://127.0.0.1:{port}/session"

    def define(self, name: str, devices: str = "") -> Any:
        return self.connection.defineXML(DOMAIN.format(name=name, devices=devices))

    def pool(self, name: str, folder: Path) -> Any:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
        pool = self.connection.storagePoolDefineXML(
            f"<pool type='dir'><name>{name}</name><target><path>{folder}</path></target></pool>"
        )
        pool.create()
        return pool

    def clear(self) -> None:
        lib = source._library()
        for domain in self.connection.listAllDomains():
            if domain.isActive():
                domain.destroy()
        for domain in self.connection.listAllDomains():
            domain.undefineFlags(
                lib.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                | lib.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                | lib.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            )
        for pool in self.connection.listAllStoragePools():
            if pool.isActive():
                pool.destroy()
            pool.undefine()


@contextmanager
def running() -> Iterator[tuple[str, Path]]:
    # A socket's path is at most 108 bytes long, and the daemon's user must reach it.
    folder = Path(tempfile.mkdtemp(prefix="libvirt-"))
    folder.chmod(0o777)
    for part in ("run", "home", "runtime"):
        (folder / part).mkdir()
        (folder / part).chmod(0o777)
    conf = folder / "libvirtd.conf"
    conf.write_text(
        f'unix_sock_dir = "{folder}/run"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\n'
        f'log_outputs = "3:file:{folder}/home/log"\n'
        f'listen_tls = 0\nlisten_tcp = 1\nlisten_addr = "127.0.0.1"\ntcp_port = "{free_port()}"\nauth_tcp = "none"\n'
    )
    # Two daemons on one machine would give their guests' displays the same port, and one of the guests would not start.
    display = min(free_port(), 65_400)
    settings = folder / "home" / ".config" / "libvirt"
    settings.mkdir(parents=True)
    (settings / "qemu.conf").write_text(
        f"remote_display_port_min = {display}\nremote_display_port_max = {display + 99}\n"
    )
    for part in (settings, settings.parent):
        part.chmod(0o777)
    nobody = pwd.getpwnam("nobody")
    user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    daemon = subprocess.Popen(
        [shutil.which("libvirtd") or "/usr/sbin/libvirtd", "-l", "-f", conf, "-p", folder / "run" / "pid"],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": f"{folder}/home", "XDG_RUNTIME_DIR": f"{folder}/runtime"},
        cwd=folder,
        stderr=subprocess.DEVNULL,
        **user,
    )
    url = f"qemu+unix:///session?socket={folder}/run/libvirt-sock"
    try:
        wait(url, daemon)
        yield url, folder
    finally:
        daemon.terminate()
        daemon.wait()
        shutil.rmtree(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait(url: str, daemon: subprocess.Popen) -> None:
    lib = source._library()
    for _ in range(600):
        assert daemon.poll() is None, "libvirtd ended"
        try:
            lib.openReadOnly(url).close()
            return
        except lib.libvirtError:
            time.sleep(0.05)
    raise AssertionError("libvirtd does not answer")
