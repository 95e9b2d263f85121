"""The main job runs on both ways to reach a libvirt."""

from __future__ import annotations

from pathlib import Path

import pytest
from real.host import Host

SITE = """
namespace: real
networks:
  "network:default": {pod: masquerade}
"""


@pytest.fixture(params=["embedded", "served"])
def host(request: pytest.FixtureRequest) -> Host:
    return request.getfixturevalue(request.param)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    return path


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--kills")
