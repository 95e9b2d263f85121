"""Domain XML as a list of leaves: read safely, walked once, each leaf with one dotted path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from lxml import etree

from migrate.data import data_path
from migrate.model import Refused

MAX_BYTES = 16 * 1024 * 1024
# lxml holds about 150 bytes an element; markup beyond this is no domain that libvirt ever wrote.
MAX_TAGS = 200_000

# Foreign namespaces of libvirt domain XML and of the tools that write metadata, by URI.
PREFIXES = {
    "http://libvirt.org/schemas/domain/qemu/1.0": "qemu",
    "http://libvirt.org/schemas/domain/lxc/1.0": "lxc",
    "http://libvirt.org/schemas/domain/xen/1.0": "xen",
    "http://libvirt.org/schemas/domain/bhyve/1.0": "bhyve",
    "http://libvirt.org/schemas/domain/vmware/1.0": "vmware",
    "http://libvirt.org/schemas/domain/cloud-hypervisor/1.0": "ch",
    "http://libosinfo.org/xmlns/libvirt/domain/1.0": "libosinfo",
    "http://openstack.org/xmlns/libvirt/nova/1.0": "nova",
    "http://openstack.org/xmlns/libvirt/nova/1.1": "nova",
    "http://ovirt.org/vm/1.0": "ovirt-vm",
    "http://ovirt.org/vm/tune/1.0": "ovirt-tune",
}
