"""One API server for all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import server


@pytest.fixture(scope="session")
def api_server() -> Iterator[server.Server]:
    with server.running() as found:
        yield found


@pytest.fixture
def kubernetes(api_server: server.Server) -> Iterator[server.Server]:
    """The API server, with nothing in it of what other tests made but their namespaces."""
    yield api_server
    api_server.clear()
