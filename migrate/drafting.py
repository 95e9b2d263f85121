"""A first site file for an inventory, and its `vms` as a table and back."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from migrate import site as sites
from migrate.data import MAX_BYTES
from migrate.decisions import DEFAULT, NETWORK_KINDS, escaped, network_key, part
from migrate.inventory import Inventory
from migrate.mapping import filesystem, hostdev, interface, ledger, vocabulary
from migrate.mapping.paths import parse, printable
from migrate.mapping.rules import Rules
from migrate.mapping.signs import Context
from migrate.model import VM, Disk, Refused
from migrate.site import DEVICE_KINDS, Site, nearest
from migrate.target import manifests
from migrate.target.quantity import human
from migrate.target.vocabulary import target, versions

NAMES_SHOWN = 3
# YAML 1.1, 7.2: a key without a ? before it has at most 1024 characters.
SIMPLE_KEY = 1024
HEAD = """\
# A first draft for {count}. To decide something remove the # before its line and complete it; every line may go.
# examples/site.yaml has all that a site file can say.

# namespace: NAME
"""
# Headings of the sections, each with what stands above its lines.
SECTIONS = {
    "namespaces": "who goes elsewhere than into `namespace`",
    "storage": "how claims are asked for: {storageClass: NAME, volumeMode: Filesystem, accessModes: [ReadWriteOnce]}",
    "networks": "what source networks become: {pod: masquerade}, or {multus: NAMESPACE/NAME, binding: bridge or sriov}",
    "hostDevices": "the resources that the nodes offer in their place",
    "filesystems": "claims, made and filled by you, with the files of host folders that guests mount",
    "luns": "how nodes reach LUNs that are handed over as they are: {iscsi, fc, csi or local: {...}, nodes: [NODE]}",
    "cpuModels": "a CPU model of the nodes, host-model or host-passthrough, where the guest's own will not do",
    "preferences": "what fills in what the VM leaves out, by the guest's libosinfo id",
    "instancetypes": "what gives the guest its CPUs and memory in place of the source's, by its libosinfo id",
    "sizes": "of disks whose size the source does not know",
}
SINGLE = "\n# timezone: AREA/PLACE # of the source hosts: clocks in local time of {names}\n"
TAIL = "\n# What single VMs have of their own stands in `vms`; `kubevirt-migrate site --csv` makes a table of it.\n"

DEFAULT_STORAGE = "default: {storageClass: NAME}"

Needs = dict[str, dict[str, list[str]]]


def draft(inventory: Inventory, rules: Rules) -> str:
    """A site file that decides nothing yet: a comment for each thing of the inventory that can be decided."""
    needs: Needs = {section: {} for section in SECTIONS}
    local: list[str] = []
    for vm in inventory:
        for section, line in _needs(vm, rules):
            names = needs[section].setdefault(line, [])
            if vm.name not in names[-1:]:
                names.append(vm.name)
        if b"localtime" in vm.xml:
            local.append(vm.name)
    text = HEAD.format(count=f"{len(inventory.vms)} VM{'' if len(inventory.vms) == 1 else 's'}")
    for section, about in SECTIONS.items():
        lines = sorted(needs[section].items())
        if section == "storage" and lines and DEFAULT_STORAGE not in needs[section]:
            lines.append((DEFAULT_STORAGE, []))
        if lines:
            text += f"\n{section}: # {about}\n" + "".join(f"  # {line}{_whose(names)}\n" for line, names in lines)
    return text + (SINGLE.format(names=_whose(local)[3:]) if local else "") + TAIL


def _needs(vm: VM, rules: Rules) -> Iterator[tuple[str, str]]:
    """The section and the line of each thing of a VM that can be decided."""
    document = vocabulary.read(parse(vm.xml, vm.name))
    ledger.imply(document, rules)
    context = Context(vm, document, Site(), target(versions()[-1]), {})
    for kind, names in (("host", [vm.host]), ("project", [vm.project]), ("tag", vm.tags)):
        yield from (("namespaces", _line(f"{kind}:{_escaped(name)}", "NAME")) for name in names if name)
    for disk in vm.disks:
        if disk.path or disk.volume:
            key = _place(disk)
            yield "storage", _line(key, "{storageClass: NAME}") if key else DEFAULT_STORAGE
            if disk.capacity is None:
                yield "sizes", _line(f"{_escaped(vm.name)}/{part(disk.target)}", "SIZE")
    for node in document.nodes.get("devices.interface", ()):
        kind, name, *rest = interface.names(node, context)
        if kind in NETWORK_KINDS and kind != DEFAULT:
            key = network_key(kind, name, *rest)
            binding = ", binding: sriov" if kind == "hostdev" else ""
            yield "networks", _line(key, f"{{multus: NAMESPACE/NAME{binding}}}")
        else:
            yield "networks", "default: {multus: NAMESPACE/NAME}"
    luns = (disk.path for disk in vm.disks if disk.device == "lun" and sites.PLACE.match(disk.path or ""))
    yield from (("luns", _line(_escaped(path), "{fc: {targetWWNs: [WWN], lun: 0}}")) for path in luns if path)
    for node in document.nodes.get("devices.hostdev", ()):
        kind = document.text(f"{node.path}.type")
        names = [name for name in hostdev.names(node, context) if name]
        if kind in DEVICE_KINDS and names:
            yield "hostDevices", _line(f"{kind}:{_escaped(names[0])}", "VENDOR.COM/RESOURCE")
    for node in document.nodes.get("devices.filesystem", ()):
        folder = filesystem.folder(node, context)
        if folder.startswith("/"):
            yield "filesystems", _line(_escaped(folder), "CLAIM")
    if model := document.text("cpu.model"):
        yield "cpuModels", _line(_escaped(model), "MODEL")
    osinfo = context.osinfo.partition("://")[2]
    if osinfo and "://" not in osinfo:
        yield from ((section, _line(_escaped(osinfo), "NAME")) for section in ("preferences", "instancetypes"))


def _place(disk: Disk) -> str | None:
    """The key of storage that fits a disk and those beside it."""
    if disk.pool:
        return f"pool:{_escaped(disk.pool)}"
    if disk.path and sites.PLACE.match(disk.path):
        folder = disk.path.rpartition("/")[0]
        beside = sites.PLACE.match(folder) and folder.strip("/")
        return f"path:{_escaped(folder if beside else disk.path)}"
    return None


def _escaped(name: str) -> str:
    """A glob that fits a name alone; the name `default` would fit everything."""
    return "[d]efault" if name == DEFAULT else escaped(name)


def _line(key: str, value: str) -> str:
    """An entry of a map; a key that is too long to be found by its colon stands on a line of its own."""
    text = _quoted(key)
    return f"{text}: {value}" if len(text) < SIMPLE_KEY else f"? {text}\n  # : {value}"


def _quoted(text: str) -> str:
    """Text from outside as a key of YAML that stays one on its line."""
    return manifests.dump([{text: ""}])[: -len(': ""\n')]


def _whose(names: list[str]) -> str:
    shown = ", ".join(_quoted(name) for name in names[:NAMES_SHOWN])
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f" # {shown}{more}" if names else ""


# The columns of the table: the key, what only tells a person which VM it is, and the keys of a VM. Maps and lists are
# YAML in braces and brackets.
KEY = "vm"
TOLD = ("name", "host", "state", "disks", "size")
SCALARS = ("namespace", "timezone", "runStrategy", "wave", "skip")
COLLECTIONS = (
    "storage",
    "networks",
    "hostDevices",
    "filesystems",
    "luns",
    "cpuModels",
    "instancetypes",
    "preferences",
    "sizes",
    "labels",
    "annotations",
    "images",
    "methods",
)
COLUMNS = (KEY, *TOLD, *SCALARS, *COLLECTIONS)
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def table(inventory: Inventory, vms: dict[str, Any]) -> str:
    """The `vms` of a site file as CSV: a row for each of its keys that is no uuid, and one for each VM."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    known = {vm.uuid for vm in inventory.vms}
    # Two VMs can have one uuid, and its key stands for both.
    left = dict(vms)
    for key, values in vms.items():
        if key not in known:
            writer.writerow(_guarded({KEY: key, **_cells(values)}))
    for vm in inventory.vms:
        writer.writerow(_guarded({KEY: vm.uuid, **_told(vm), **_cells(left.pop(vm.uuid, None))}))
    return out.getvalue()


def _guarded(row: dict[str, str]) -> dict[str, str]:
    """The cells, with a quote before formulas of spreadsheets, before another such quote, and by blanks that count."""
    odd = {name for name, text in row.items() if text.startswith((*FORMULA, "'")) or text != text.strip()}
    return {name: f"'{text}" if name in odd else text for name, text in row.items()}


def _plain(cell: str) -> str:
    """A cell as it was before `_guarded`; blanks around others are nobody's intent."""
    text = cell.lstrip()
    return text[1:] if text.startswith("'") else text.rstrip()


def _told(vm: VM) -> dict[str, str]:
    """What tells a person which VM it is."""
    sizes = [disk.capacity for disk in vm.disks if disk.capacity is not None]
    size = human(sum(sizes)) if sizes else ""
    return {"name": printable(vm.name), "host": vm.host, "state": vm.state, "disks": str(len(vm.disks)), "size": size}


def _cells(values: dict[str, Any] | None) -> dict[str, str]:
    found = {name: value for name, value in (values or {}).items() if value is not None}
    return {name: sites.flow(value) if name in COLLECTIONS else str(value) for name, value in found.items()}


def from_table(text: str, where: str) -> str:
    """The `vms` of a site file from a table; Refused for a column, a key or a value that a site file does not have."""
    head = text.partition("\n")[0]
    csv.field_size_limit(MAX_BYTES)
    delimiter = ";" if head.count(";") > head.count(",") else ","
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    vms: dict[str, Any] = {}
    try:
        names = rows.fieldnames or ()
        for name in names:
            if name not in COLUMNS:
                raise Refused(f"{where}: there is no column {name!r}{nearest(name, COLUMNS)}")
            if names.count(name) > 1:
                raise Refused(f"{where}: the column {name!r} is there twice; keep one")
        if KEY not in names:
            raise Refused(f"{where}: the column {KEY!r} is missing; it holds uuids, or globs of names")
        for row in rows:
            _add(vms, row, f"{where}, line {rows.line_num}")
    except csv.Error as error:
        raise Refused(f"{where}, line {rows.line_num}: not CSV: {error}") from None
    sites.checked({"vms": vms}, where)
    return manifests.dump([{"vms": vms}])


def _add(vms: dict[str, Any], row: dict[str, Any], where: str) -> None:
    if None in row or None in row.values():
        raise Refused(f"{where}: as many cells as columns are needed; quote cells that have commas")
    row = {name: _plain(cell) for name, cell in row.items()}
    key = row[KEY]
    values = dict(_values(row, where))
    if not key and values:
        raise Refused(f"{where}: the column {KEY!r} is empty; give a uuid, or a glob of names")
    if key in vms and values:
        raise Refused(f"{where}: {key!r} is there twice; keep one row")
    if values:
        vms[key] = values


def _values(row: dict[str, str], where: str) -> Iterator[tuple[str, Any]]:
    for name in (*SCALARS, *COLLECTIONS):
        text = row.get(name) or ""
        if text:
            plain = name in SCALARS and name != "wave"
            yield name, text if plain else sites.parse(text, f"{where}: {name}")
