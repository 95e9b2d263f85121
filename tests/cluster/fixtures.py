"""One API server for all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import double, server


@pytest.fixture(scope="session")
def api_server() -> Iterator[server.Server]:
    with server.running() as found:
        yield found


@pytest.fixture
def kubernetes(api_server: server.Server) -> Iterator[server.Server]:
    """The API server, with nothing in it of what other tests made but their namespaces."""
    yield api_server
    api_server.clear()


@pytest.fixture(scope="session")
def _doubles() -> Iterator[double.Cluster]:
    with server.running() as found, double.doubles(found) as made:
        yield made


@pytest.fixture
def cluster(_doubles: double.Cluster) -> Iterator[double.Cluster]:
    """A cluster whose claims, uploads, jobs and VMs are seen to, with nothing in it of what other tests made."""
    _doubles.offer()
    yield _doubles
    _doubles.clear()
    problems, _doubles.events.problems[:] = list(_doubles.events.problems), []
    assert not problems, "\n".join(problems)
