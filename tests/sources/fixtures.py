"""A host that this machine reaches over the network alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sources.elsewhere import Host, running


@pytest.fixture(scope="session")
def running_elsewhere() -> Iterator[Host]:
    with running() as found:
        yield found


@pytest.fixture
def elsewhere(running_elsewhere: Host) -> Iterator[Host]:
    yield running_elsewhere
    running_elsewhere.clear()
