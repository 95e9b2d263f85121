"""Real libvirt with real QEMU: the embedded driver, and a daemon on a private socket."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from real.host import Host
from sources import daemon


@pytest.fixture(scope="session")
def embedded_uri() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="embed-") as root:
        Path(root, "etc").mkdir()
        if os.geteuid() == 0:
            # Run by root, libvirt asks anew what QEMU can do at every start unless it runs QEMU as root too.
            Path(root, "etc/qemu.conf").write_text('user = "root"\ngroup = "root"\n')
        yield f"qemu:///embed?root={root}"


@pytest.fixture
def embedded(embedded_uri: str, tmp_path: Path) -> Iterator[Host]:
    folder = tmp_path / "host"
    folder.mkdir()
    yield from _cleared(Host(embedded_uri, folder))


@pytest.fixture(scope="session")
def running_daemon() -> Iterator[tuple[str, Path]]:
    with daemon.running() as found:
        yield found


@pytest.fixture
def served(running_daemon: tuple[str, Path]) -> Iterator[Host]:
    url, base = running_daemon
    folder = Path(tempfile.mkdtemp(dir=base))
    folder.chmod(0o777)
    yield from _cleared(Host(url, folder))


def _cleared(host: Host) -> Iterator[Host]:
    yield host
    for name in host.virsh("list", "--name").split():
        host.virsh("destroy", name)
    for name in host.virsh("list", "--all", "--name").split():
        host.virsh("undefine", name)
