"""Runs single documents through the engine, as `plan` does, without files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from lxml import etree

from migrate import site as sites
from migrate.mapping import ledger, rule_files, vocabulary
from migrate.mapping import rules as all_rules
from migrate.mapping.paths import as_xml, parse
from migrate.mapping.signs import Context
from migrate.model import VM, Disk
from migrate.target.vocabulary import target

UUID = "8f2a6a3e-6a0a-4c4b-9d1e-2f2a6c1b7d10"
BASE = f"""
<domain type='kvm'>
  <name>vm</name><uuid>{UUID}</uuid><memory unit='GiB'>1</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><devices/>
</domain>
"""


def document(xml: str) -> bytes:
    """A domain of the given children; those replace the children of a plain base domain that have the same name."""
    if "<domain" in xml:
        return xml.encode()
    base = etree.fromstring(BASE)
    children = list(etree.fromstring(f"<children>{xml}</children>"))
    for name in {child.tag for child in children}:
        for old in base.findall(name):
            base.remove(old)
    base.extend(children)
    return etree.tostring(base)


def _run(
    xml: str, rules: all_rules.Rules, example: dict[str, Any] | None = None, collected: bool = False
) -> ledger.Ledger:
    """The ledger of a domain, by way of an inventory where it is `collected`.

    `example` can hold `site`, `kubevirt`, `gates` and `disks` as rule examples do, and fields of `Target`.
    """
    settings = example or {}
    disks = [
        Disk(name, **facts | ({"capacity": int(facts["capacity"])} if "capacity" in facts else {}))
        for name, facts in (settings.get("disks") or {}).items()
    ]
    vm = VM("vm", UUID, "libvirt", "qemu://host/system", "qemu:///system", "host", "vm", disks=disks, xml=document(xml))
    root = parse(vm.xml, "example")
    if collected:
        ledger.redact_secrets(vocabulary.read(root), rules)
        root = parse(as_xml(root), "example")
    found = vocabulary.read(root)
    ledger.imply(found, rules)
    chosen = target(settings.get("kubevirt", "1.9"), settings.get("gates", ""))
    plugins = frozenset(settings.get("plugins", ()))
    chosen = replace(chosen, vga_for_efi=settings.get("vga_for_efi", False), plugins=plugins)
    site = sites.checked(settings.get("site") or {}, "example")
    return ledger.run(found, rules, Context(vm, found, site, chosen, {disk.target: disk for disk in disks}))


@pytest.fixture(scope="session")
def run() -> Callable[..., ledger.Ledger]:
    """`run(xml, rules, example, collected)`: the ledger of a domain."""
    return _run


@pytest.fixture(scope="session")
def rules() -> all_rules.Rules:
    return rule_files.load()
