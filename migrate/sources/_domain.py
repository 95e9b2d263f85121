"""What every source reads from a domain XML: who the domain is, and which disks it names."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from migrate.mapping.paths import printable
from migrate.model import Disk, Image, Refused

if TYPE_CHECKING:
    from lxml.etree import _Element


# libvirt makes raw of Xen's `aio` when a domain is defined. Its pools call a raw disc `iso`; its QEMU driver refuses
# that in a domain ("use 'raw' instead").
RAW = ("raw", "aio", "iso")


def name_of(domain: _Element) -> str:
    """The domain's name as it stands; a domain without one is Refused."""
    name = (domain.findtext("name") or "").strip()
    if not name:
        raise Refused("the domain has no <name>; add one")
    return name


def uuid_of(domain: _Element, source: str) -> str:
    """The domain's uuid in its usual form.

    libvirt makes up a new one for a domain without; here it follows from the source and the name, so that the VM is
    the same one in every run. Text that is no uuid is Refused, as libvirt does.
    """
    text = domain.findtext("uuid")
    if text is None:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{source}#{name_of(domain)}"))
    digits = re.sub(r"[-\s]", "", text)
    if not re.fullmatch("[0-9a-fA-F]{32}", digits):
        raise Refused(f"the uuid {printable(text, 60)!r} is none; give 32 hex digits")
    return str(uuid.UUID(digits))


def project_of(domain: _Element) -> str:
    """The OpenStack project that Nova names in the metadata, or nothing."""
    found = domain.find("metadata/{*}instance/{*}owner/{*}project")
    known = found is not None and found.tag.startswith("{http://openstack.org/xmlns/libvirt/nova/")
    return (found.text or "").strip() if known else ""


def disks(domain: _Element) -> list[Disk]:
    """A record for each `<disk>` in document order, with what the XML alone says.

    A disk without a target dev, or with another's, is named by its position: `disk0`.
    """
    found: dict[str, Disk] = {}
    taken = {target.get("dev") for target in domain.iterfind("devices/disk/target")}
    for position, element in enumerate(domain.iterfind("devices/disk")):
        target = _attribute(element, "target", "dev")
        if not target or target in found:
            target = f"disk{position}"
            while target in taken:
                target = f"disk{target[4:]}0"
            taken.add(target)
        found[target] = _disk(element, target)
    return list(found.values())


def _disk(element: _Element, target: str) -> Disk:
    disk = Disk(target, element.get("device", "disk"), element.get("type", "file"))
    disk.pool, disk.volume = _attribute(element, "source", "pool"), _attribute(element, "source", "volume")
    disk.path = _path(element, disk.type)
    # libvirt reads a disk without a driver type as raw; a volume has its own type.
    disk.format = plain_format(_attribute(element, "driver", "type") or (None if disk.type == "volume" else "raw"))
    return disk


def plain_format(name: str | None) -> str | None:
    """A format by the name that QEMU has for it."""
    return "raw" if name in RAW else name


def other_chain(domain: _Element, position: int, chain: list[Image], same: Callable[[str], str]) -> bool:
    """Whether a disk names other images below its top than `chain`, which the headers name.

    With QEMU `<backingStore>` counts before an image's header, and an empty one ends the chain; where it is missing the
    header counts. Paths are compared by what `same` makes of them. A running domain always names its whole chain.
    """
    below = domain.findall("devices/disk")[position].find("backingStore")
    for image in chain[1:]:
        if below is None:
            return False
        path = _attribute(below, "source", "file") or _attribute(below, "source", "dev")
        format = _attribute(below, "format", "type") or image.format
        if path is None or (same(path), format) != (same(image.path), image.format):
            return True
        below = below.find("backingStore")
    return bool(chain) and below is not None and below.find("source") is not None


def _path(element: _Element, kind: str) -> str | None:
    """Where the disk's bytes are: a path, or for what has none an address without credentials."""
    source = element.find("source")
    if source is None:
        return None
    if kind == "network":
        return _network(source)
    attribute = {"file": "file", "block": "dev", "dir": "dir", "vhostuser": "path", "vhostvdpa": "dev"}.get(kind)
    return source.get(attribute) or None if attribute else None


def _network(source: _Element) -> str:
    host = source.find("host")
    where = ""
    if host is not None:
        port = f":{host.get('port')}" if host.get("port") else ""
        where = (host.get("name") or host.get("socket") or "") + port
    return f"{source.get('protocol', 'network')}://{where}/{source.get('name', '').lstrip('/')}"


def _attribute(element: _Element, child: str, attribute: str) -> str | None:
    found = element.find(child)
    return (found.get(attribute) or None) if found is not None else None
