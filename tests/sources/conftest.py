from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sources.daemon import Daemon, running

from migrate.sources import libvirt as source


@pytest.fixture(scope="session")
def running_daemon() -> Iterator[tuple[str, Path]]:
    with running() as found:
        yield found


@pytest.fixture
def daemon(running_daemon: tuple[str, Path]) -> Iterator[Daemon]:
    url, base = running_daemon
    folder = Path(tempfile.mkdtemp(dir=base))
    folder.chmod(0o777)
    found = Daemon(url, source._library().open(url), folder)
    try:
        yield found
    finally:
        found.clear()
        found.connection.close()
