"""Domains of a few elements, translated as `plan` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mapping.conftest import UUID, document

from migrate import pipeline
from migrate import site as sites
from migrate.mapping import rule_files
from migrate.model import VM, Translation
from migrate.sources import _domain
from migrate.target.vocabulary import target

GIB = 2**30


@pytest.fixture(scope="session")
def translated() -> Callable[..., Translation]:
    """`translated(xml, site, sizes)`: a shut-off VM of a libvirt host; `sizes` are bytes by target dev, else 1 GiB."""
    rules = rule_files.load()

    def run(
        xml: str,
        site: dict[str, Any] | None = None,
        sizes: dict[str, int | None] | None = None,
        problem: str | None = None,
    ) -> Translation:
        from lxml import etree

        data = document(xml)
        disks = _domain.disks(etree.fromstring(data))
        for disk in disks:
            disk.capacity = (sizes or {}).get(disk.target, GIB)
            disk.chain, disk.problem = [], problem
        vm = VM("vm", UUID, "libvirt", "qemu://h/system", "qemu:///system", "h", "vm", "shut off", disks=disks)
        vm.xml = data
        return pipeline.translate(vm, rules, target("1.9"), sites.checked(site or {}, "site.yaml"))

    return run
