"""Domain XML files, as `virsh dumpxml` prints them or /etc/libvirt/qemu holds them; nothing else is opened."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from migrate.data import MAX_BYTES
from migrate.mapping.paths import parse, printable
from migrate.model import VM, PlannedDisk, Refused, Skipped
from migrate.selection import Selection
from migrate.sources import _domain

UNKNOWN_SIZE = "a domain XML does not hold the disk's size; collect from the libvirt host itself to know it"
NETWORK = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<network[\s>]", re.DOTALL)

# What an inventory and a plan have: the domain XML in them came from elsewhere.
OURS = {"inventory.json", "plan.json"}


def collect(url: str | None, select: Selection, login: object = None) -> Iterator[VM | Skipped]:
    """The VM of a file, or those of the `*.xml` below a folder, whose links to folders are not followed.

    A bad file is Refused by itself and skipped in a folder. No uuid: see `_domain.uuid_of`. `login` has no use here.
    """
    if url is None:
        raise Refused("no path; give files of domain XML or folders of them")
    if os.path.isdir(url):
        yield from _folder(os.path.realpath(url), select)
    else:
        path = os.path.realpath(url)
        vm = _vm(path, _bytes(path))
        if select.wants(vm):
            yield vm


def unread(url: str) -> tuple[str, str]:
    """Name and source of a path that could not be read."""
    path = _shown(os.path.realpath(url))
    return path, f"files://{path}"


def xml(vm: VM) -> bytes:
    """The domain XML of a VM that was collected from a file, read again."""
    return _bytes(vm.url)


def unfit(vm: VM, disk: PlannedDisk) -> str | None:
    """Why the disk of a VM from a file cannot be copied: it lies elsewhere."""
    return "a domain XML file has no disks with it; collect from its libvirt host to copy them"


def spools(vm: VM, disk: PlannedDisk) -> bool:
    """Nothing is read, so nothing is taken over."""
    return False


def _folder(folder: str, select: Selection) -> Iterator[VM | Skipped]:
    unreadable: list[OSError] = []
    empty = True
    for path in _walk(folder, unreadable):
        empty = False
        # /etc/libvirt/qemu/autostart links to the files beside it, which are then the same VM.
        real = os.path.realpath(path)
        try:
            data = _bytes(real)
            if not _is_network(real, data) and select.wants(vm := _vm(real, data)):
                yield vm
        except Refused as refusal:
            link = "" if real == path else f" ({_shown(path)} is a link to it)"
            yield Skipped(*unread(real), f"{refusal}{link}")
    for error in unreadable:
        yield Skipped(*unread(error.filename), f"{_shown(error.filename)}: {error.strerror}")
    if empty and not unreadable:
        raise Refused(f"{_shown(folder)}: no *.xml in this folder; give one that holds domain XML")


def _walk(folder: str, unreadable: list[OSError]) -> Iterator[str]:
    for parent, folders, names in os.walk(folder, onerror=unreadable.append):
        if parent != folder and (OURS & set(names) or re.fullmatch(r"\..*\.(partial|old)", os.path.basename(parent))):
            folders.clear()
            continue
        folders.sort()
        yield from (os.path.join(parent, name) for name in sorted(names) if name.endswith(".xml"))


def _is_network(path: str, data: bytes) -> bool:
    """Whether this is one of the virtual networks that libvirt keeps in the folder `networks` beside its domains."""
    return "networks" in path.split("/") and bool(NETWORK.match(data))


def _vm(path: str, data: bytes) -> VM:
    shown = _shown(path)
    if os.fsencode(path) != path.encode(errors="replace"):
        raise Refused(f"{shown}: the file's name is not UTF-8; rename it")
    domain = parse(data, shown)
    source = f"files://{path}"
    try:
        vm = VM(_domain.name_of(domain), _domain.uuid_of(domain, source), "files", source, path, xml=data)
    except Refused as refusal:
        raise Refused(f"{shown}: {refusal}") from None
    vm.disks, vm.project = _domain.disks(domain), _domain.project_of(domain)
    for disk in vm.disks:
        if disk.path or disk.volume or disk.type not in ("file", "block"):
            disk.problem = UNKNOWN_SIZE
    return vm


def _bytes(path: str) -> bytes:
    """At most one byte more than a domain may have, so that what is too large is found without reading it."""
    try:
        # Opening a pipe would wait for its writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Refused(f"{_shown(path)}: not a file; give a file of domain XML")
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Refused(f"{_shown(path)}: {error.strerror}; give a file of domain XML") from None


def _shown(path: str) -> str:
    return printable(os.fsencode(path).decode(errors="backslashreplace"), 4096)
