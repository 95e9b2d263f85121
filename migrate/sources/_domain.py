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
    _name_chain(element, disk)
    return disk


def plain_format(name: str | None) -> str | None:
    """A format by the name that QEMU has for it."""
    return "raw" if name in RAW else name


def _name_chain(element: _Element, disk: Disk) -> None:
    """Records the images below the disk's own that the XML names.

    With QEMU `<backingStore>` counts before an image's header since libvirt 5.10; one without a type ends the chain
    (formatdomain, "backingStore"). Where it is missing the header counts.
    """
    images = [_image(element, disk.type, disk.format)]
    below = element.find("backingStore")
    while below is not None and below.get("type"):
        images.append(_image(below, below.get("type", ""), _attribute(below, "format", "type")))
        below = below.find("backingStore")
    disk.ends = below is not None
    if disk.ends or len(images) > 1 or images[0].data_file is not None:
        disk.named = images


def _image(element: _Element, kind: str, format: str | None) -> Image:
    """An image as the XML names it; what is neither a file nor a block device has no path, so that it is no image."""
    store = element.find("source/dataStore")
    data_file = None if store is None else _file(store, store.get("type", ""))
    return Image(_file(element, kind), plain_format(format) or "", data_file)


def _file(element: _Element, kind: str) -> str:
    return (_path(element, kind) if kind in ("file", "block") else None) or ""


def differs(disk: Disk, chain: list[Image], real: Callable[[str], str], *, whole: bool = True) -> bool:
    """Whether the domain names other images or data files than `chain`, which the headers name.

    Paths are compared by what `real` makes of them. A chain that is not `whole` may go on.
    """
    if not disk.named:
        return False
    for depth, (named, image) in enumerate(zip(disk.named, chain, strict=False)):
        if depth and (real(named.path) != real(image.path) or named.format not in ("", image.format)):
            return True
        if named.data_file is not None and image.data_file and real(named.data_file) != real(image.data_file):
            return True
    return disk.ends if len(chain) > len(disk.named) else whole and len(chain) < len(disk.named)


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
        name = host.get("name") or host.get("socket") or ""
        # An IPv6 address stands bare in the domain, and in brackets in a URL.
        where = (f"[{name}]" if ":" in name and name[0] not in "[/" else name) + port
    return f"{source.get('protocol', 'network')}://{where}/{source.get('name', '').lstrip('/')}"


def _attribute(element: _Element, child: str, attribute: str) -> str | None:
    found = element.find(child)
    return (found.get(attribute) or None) if found is not None else None
