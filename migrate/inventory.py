"""The inventory folder: `FOLDER.xml` for each VM and `inventory.json` with what the XML does not say.

`FOLDER.live.xml` is there for a VM that runs.

A VM's folder name is a DNS label that is also its Kubernetes name; once recorded it stays. The records hold for the XML
that was collected, so a VM whose XML was changed is not read.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import types
import typing
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from migrate.model import VM, Refused, Skipped, short_hash

SCHEMA = 1
XML, LIVE = ".xml", ".live.xml"
RECORDS = "inventory.json"
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)


@dataclass(slots=True)
class Inventory:
    """The VMs without their XML, which is read when iterating: one VM at a time with its XML.

    `live` reads the XML of the running guest, for those that have one. `others` were collected and are not selected.
    """

    vms: list[VM]
    skipped: list[Skipped] = field(default_factory=list)
    xml: Callable[[VM], bytes] = lambda vm: vm.xml
    live: Callable[[VM], bytes] = lambda vm: vm.live
    others: list[VM] = field(default_factory=list)

    def __iter__(self) -> Iterator[VM]:
        for vm in self.vms:
            yield self.whole(vm)

    def whole(self, vm: VM) -> VM:
        """A copy of one of the VMs with its XML. Refused where that cannot be read, or is not what was listed."""
        found = replace(vm, xml=self.xml(vm), live=self.live(vm) if vm.has_live else b"")
        if vm.digest and _digest(found) != vm.digest:
            raise Refused(f"the XML of {vm.name!r} is not what was read before; {CHANGED}")
        return found


# The facts beside it, the disks' above all, are those of the XML that was collected.
CHANGED = "change a VM at its source, and collect or plan it again"


def _digest(vm: VM) -> str:
    return hashlib.sha256(b"%d %b%b" % (len(vm.xml), vm.xml, vm.live)).hexdigest()


def holds(folder: Path) -> bool:
    """Whether a folder is an inventory."""
    return (folder / RECORDS).is_file()


def direct(found: Iterable[VM | Skipped], xml: Callable[[VM], bytes]) -> Inventory:
    """An inventory of VMs that were never written to one; `xml` reads the XML of a VM again."""
    inventory = Inventory([], xml=xml)
    for item in found:
        if isinstance(item, Skipped):
            inventory.skipped.append(item)
        else:
            inventory.vms.append(replace(item, digest=_digest(item), xml=b""))
    name_folders(inventory.vms)
    inventory.vms.sort(key=lambda vm: vm.folder)
    return inventory


def read(folder: Path) -> Inventory:
    """The inventory in a folder; one that is missing, half written or was edited into nonsense is Refused."""
    if _unpublished(folder).exists():
        raise Refused(f"{folder}: a collect into it runs or was killed; wait for its end, or run it again")
    return _recorded(folder)


def _recorded(folder: Path) -> Inventory:
    path = folder / RECORDS
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; give a folder that `collect` wrote") from None
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}: not JSON ({error}); collect again into a new folder") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise Refused(f"{path}: not an inventory of schema {SCHEMA}; collect again into a new folder")
    try:
        vms = _value(list[VM], document.get("vms"), "vms")
        skipped = _value(list[Skipped], document.get("skipped"), "skipped")
        _check_folders(vms)
    except ValueError as error:
        raise Refused(f"{path}: {error}") from None
    return Inventory(vms, skipped, partial(_xml, folder, XML), partial(_xml, folder, LIVE))


def write(
    folder: Path,
    vms: Iterable[VM],
    skipped: Iterable[Skipped],
    anew: Callable[[Skipped, list[VM]], bool] = lambda item, found: False,
) -> Inventory:
    """Adds VMs, whose XML is already redacted, and skipped ones to the inventory in a folder, and returns all of it.

    VMs of an identity that is there are replaced, and those skipped earlier that were looked for `anew`. `vms` is gone
    through once, `skipped` after it; an exception out of them leaves the folder as it was.
    """
    with _locked(folder):
        _may_fill(folder)
        old = _recorded(folder) if holds(folder) else Inventory([])
        merged = {vm.id: vm for vm in old.vms}
        found: set[str] = set()
        whole = True
        try:
            for vm in vms:
                found.add(vm.id)
                _partial(folder, vm.id, XML).write_bytes(vm.xml)
                if vm.has_live:
                    _partial(folder, vm.id, LIVE).write_bytes(vm.live)
                recorded = merged[vm.id].folder if vm.id in merged else ""
                merged[vm.id] = replace(vm, folder=recorded, digest=_digest(vm), xml=b"", live=b"")
            name_folders(list(merged.values()))
            found_now = [merged[identity] for identity in found]
            earlier = [item for item in old.skipped if not anew(item, found_now)]
            all_skipped = _merge_skipped(earlier, found_now, skipped)
            vms_now = sorted(merged.values(), key=lambda vm: vm.folder)
            new = Inventory(vms_now, all_skipped, partial(_xml, folder, XML), partial(_xml, folder, LIVE))
            records = _write_records(folder, new)
            whole = False
            for vm in (merged[identity] for identity in sorted(found)):
                _partial(folder, vm.id, XML).replace(folder / f"{vm.folder}{XML}")
                if vm.has_live:
                    _partial(folder, vm.id, LIVE).replace(folder / f"{vm.folder}{LIVE}")
                else:
                    (folder / f"{vm.folder}{LIVE}").unlink(missing_ok=True)
            records.replace(folder / RECORDS)
            whole = True
        except OSError as error:
            raise Refused(
                f"{folder}: {error.strerror}; give a folder that can be written and has room, and collect again"
            ) from None
        finally:
            _clear(folder, keep=None if whole else _unpublished(folder))
    return new


def _may_fill(folder: Path) -> None:
    """Refused for a folder with anything that no `collect` wrote: its domain XML could be the only one there is."""
    ours = holds(folder) or _unpublished(folder).exists()
    if not ours and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise Refused(f"{folder}: is there and is no inventory; give a new folder with -d")


def name_folders(vms: list[VM]) -> None:
    """Gives each VM without a folder its own: the DNS form of its name, with six digits of its id where it is shared.

    Digits are added in the order of the ids until no other VM has the result.
    """
    forms = Counter(dns_label(vm.name) for vm in vms)
    taken = {vm.folder for vm in vms if vm.folder}
    nameless = sorted((vm for vm in vms if not vm.folder), key=lambda vm: (forms[dns_label(vm.name)] > 1, vm.id))
    for vm in nameless:
        form = dns_label(vm.name)
        candidates = (f"{form[: 62 - n]}-{short_hash(vm.source, vm.uuid, digits=n)}" for n in range(6, 61))
        plain = forms[form] == 1 and form not in taken
        vm.folder = form if plain else next(label for label in candidates if label not in taken)
        taken.add(vm.folder)


def dns_label(name: str) -> str:
    """The DNS-1123 label closest to a name: lower case, accents dropped, other characters one dash; else `vm`."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")[:63].rstrip("-") or "vm"


def _merge_skipped(old: list[Skipped], found: list[VM], new: Iterable[Skipped]) -> list[Skipped]:
    """All that are still unread; a file is its source, a VM of a host is its source and name."""
    readable = {(vm.source, vm.name) for vm in found} | {vm.source for vm in found if vm.kind == "files"}
    kept = [item for item in old if item.source not in readable and (item.source, item.name) not in readable]
    merged = {(item.source, item.name): item for item in (*kept, *new)}
    return [merged[key] for key in sorted(merged)]


def _write_records(folder: Path, inventory: Inventory) -> Path:
    """Writes the records, safe on disk but under a temporary name, which it returns."""
    rows = [asdict(vm) for vm in inventory.vms]
    for row in rows:
        del row["xml"], row["live"]
    document = {"schema": SCHEMA, "vms": rows, "skipped": [asdict(item) for item in inventory.skipped]}
    path = _unpublished(folder)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    return path


def _unpublished(folder: Path) -> Path:
    """Where the records are until all XML that they tell of is in place."""
    return folder / f".{RECORDS}.partial"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder, made if it is not there and removed again if it stays empty, for one writer at a time."""
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Refused(f"{folder}: {error.strerror}; give a folder that can be written") from None
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)
        if made:
            with suppress(OSError):
                folder.rmdir()


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(f"{folder}: another collect writes to it; wait for its end") from None


def _clear(folder: Path, keep: Path | None) -> None:
    """Removes what this run, or one that was killed, left under temporary names."""
    for path in folder.glob(".*.partial"):
        if path != keep:
            path.unlink()


def _partial(folder: Path, identity: str, suffix: str) -> Path:
    return folder / f".{identity}{suffix}.partial"


def _xml(folder: Path, suffix: str, vm: VM) -> bytes:
    path = folder / f"{vm.folder}{suffix}"
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; collect {vm.name!r} again") from None


def _check_folders(vms: list[VM]) -> None:
    seen = set()
    for index, vm in enumerate(vms):
        if not LABEL.fullmatch(vm.folder):
            raise ValueError(f"vms[{index}].folder is no DNS label; collect again into a new folder")
        if vm.folder in seen:
            raise ValueError(f"vms[{index}].folder {vm.folder} is there twice; collect again into a new folder")
        seen.add(vm.folder)


def record(kind: type, row: Any, where: str) -> Any:
    """A record of the model from its JSON, the XML of a VM left out; ValueError for a field missing or unknown."""
    return _record(kind, _value(dict, row, where), where)


TEXT = re.compile("[^\0\ud800-\udfff]*")


def _value(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as the type of a field; what does not fit raises ValueError."""
    if isinstance(kind, types.UnionType):
        kind = next(option for option in typing.get_args(kind) if option is not types.NoneType)
        return None if value is None else _value(kind, value, where)
    if typing.get_origin(kind) is list:
        (item,) = typing.get_args(kind)
        return [_value(item, part, f"{where}[{index}]") for index, part in enumerate(_value(list, value, where))]
    if is_dataclass(kind):
        return _record(kind, _value(dict, value, where), where)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where} is no {kind.__name__}; collect again into a new folder")
    if kind is str and not TEXT.fullmatch(value):
        raise ValueError(f"{where} holds what no text holds; collect again into a new folder")
    return value


@cache
def _types(kind: type) -> dict[str, Any]:
    return {name: hint for name, hint in typing.get_type_hints(kind).items() if name not in ("xml", "live")}


def _record(kind: type, row: dict[str, Any], where: str) -> Any:
    expected = _types(kind)
    if row.keys() != expected.keys():
        odd = sorted(row.keys() ^ expected.keys())
        raise ValueError(f"{where}: {', '.join(map(repr, odd))} missing or unknown; collect again into a new folder")
    return kind(**{name: _value(expected[name], value, f"{where}.{name}") for name, value in row.items()})
