"""The site file: read strictly, so that a misspelt decision is an error with the nearest name and never ignored."""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrate import transfer
from migrate.data import MAX_BYTES, read_text
from migrate.decisions import (
    DEFAULT,
    FAMILIES,
    NETWORK_KINDS,
    OWNER_KINDS,
    QUALIFIERS,
    Lun,
    Named,
    Network,
    Pardon,
    Site,
    Storage,
    parts,
)
from migrate.model import Refused
from migrate.target.admission.spec import LABEL, SUBDOMAIN

if TYPE_CHECKING:
    from migrate.mapping.rules import Rules

# What a VM can have of its own, and the rest.
VM_KEYS = (
    "namespace",
    "storage",
    "networks",
    "hostDevices",
    "filesystems",
    "luns",
    "cpuModels",
    "instancetypes",
    "preferences",
    "sizes",
    "timezone",
    "runStrategy",
    "labels",
    "annotations",
    "images",
    "methods",
)
KEYS = (*VM_KEYS, "namespaces", "vms", "waivers")
STORAGE_KEYS = ("storageClass", "volumeMode", "accessModes")
STORAGE_KINDS = ("pool", "path")
DEVICE_KINDS = ("pci", "usb", "mdev")
# The sources of a PersistentVolume that a LUN can be reached by, with what each has to have.
LUN_SOURCES = {
    "iscsi": ("targetPortal", "iqn", "lun"),
    "fc": (),
    "csi": ("driver", "volumeHandle"),
    "local": ("path",),
}
WAIVER_KEYS = ("finding", "vm", "reason", "until")
VOLUME_MODES = ("Filesystem", "Block")
ACCESS_MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
POD_BINDINGS = ("masquerade", "bridge")
MULTUS_BINDINGS = ("bridge", "sriov")
RUN_STRATEGIES = ("Halted", "Always", "Manual", "RerunOnFailure")
# The kinds of the cluster, and those of a namespace; the first is meant where none is named.
INSTANCETYPES = ("VirtualMachineClusterInstancetype", "VirtualMachineInstancetype")
PREFERENCES = ("VirtualMachineClusterPreference", "VirtualMachinePreference")
OURS = "kubevirt-migrate/"
LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
SIZE = re.compile(r"[0-9]+([.][0-9]+)?([kMGTPE]|[KMGTPE]i)?")
# Where a disk is: an absolute path, or an address.
PLACE = re.compile("/|[a-z]+://")
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
# What lies among the zones and is none: the machine's own zone, and the one of a clock that nobody has set.
NO_ZONES = {"localtime", "Factory"}
WAVES = range(1, 10_000)
# Half of what a file of MAX_BYTES can hold by itself; ten lines of aliases of aliases make billions.
MAX_VALUES = MAX_BYTES // 4


def load(path: Path) -> Site:
    """Reads a site file. Raises Refused with the nearest name for a key or value that does not exist."""
    text = read_text(path, "give a readable site file with --site")
    return replace(checked(parse(text, str(path)), str(path)), text=text)


def moved(site: Site, namespace: str) -> Site:
    """The site with another namespace, in its text too, which a plan keeps."""
    import yaml

    data = parse(site.text, "the site file") | {"namespace": namespace}
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return replace(site, namespace=namespace, placed=True, text=text)


def check_waivers(site: Site, rules: Rules) -> None:
    """Refused with the nearest name where a waiver is for findings that nothing makes."""
    ids = [*FAMILIES, *rules.rules, *(id for rule in rules.rules.values() for id in rule.findings)]
    for name in {pardon.finding for pardon in site.waivers}:
        # What a family goes on with is not listed anywhere.
        if not fnmatch.filter(ids, name) and not fnmatch.filter(FAMILIES, name.partition("/")[0]):
            near = difflib.get_close_matches(name, ids, n=1, cutoff=0)[0]
            raise Refused(f"the site file: waivers: {name}: there is no such finding or rule; did you mean {near}?")


def parse(text: str, where: str) -> Any:
    """A YAML text as plain data, an empty one as no keys. Raises Refused with the line where it is none."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """Refuses a key that is there twice, of which YAML's own reader forgets the first."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    line = key.start_mark.line + 1
                    raise Refused(f"{where}, line {line}: a list or map is no key; give `name: value` pairs")
                if key.value in seen and isinstance(key.value, str):
                    raise Refused(f"{where}, line {key.start_mark.line + 1}: {key.value!r} is there twice; keep one")
                seen.add(key.value if isinstance(key.value, str) else None)
            return super().construct_mapping(node, deep)

    try:
        data = yaml.load(text, Loader=Loader)
        _sound(data, where, {})
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise Refused(f"{where}{line}: not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    except (ValueError, RecursionError) as error:
        raise Refused(f"{where}: not YAML: {error}") from None
    return {} if data is None else data


def _sound(value: Any, where: str, known: dict[int, int]) -> int:
    """How many values a value is with its aliases written out.

    Refused is what YAML can say and no site file means: numbers beyond 64 bits, what holds itself, and aliases of
    aliases without end. `known` has the counts of the maps and lists that were looked at, 0 while they are.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise Refused(f"{where}: a number is beyond 64 bits; correct it, or quote it where it is a text")
    if not isinstance(value, dict | list):
        return 1
    if known.get(id(value)) == 0:
        raise Refused(f"{where}: an anchor holds its own alias; write out what is meant")
    if id(value) not in known:
        known[id(value)] = 0
        inner = (*value, *value.values()) if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_sound(each, where, known) for each in inner)
    if known[id(value)] > MAX_VALUES:
        raise Refused(f"{where}: more than {MAX_VALUES} values with aliases written out; use fewer of them")
    return known[id(value)]


def flow(value: Any) -> str:
    """A value on one line as YAML and a spreadsheet read it: what is not printable is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else "".join(each if each.isprintable() else _code(each) for each in text)


def _code(character: str) -> str:
    """A character as YAML writes it in quotes; JSON's own way takes two for those beyond U+FFFF."""
    return f"\\U{ord(character):08x}"


def checked(data: Any, where: str) -> Site:
    """The decisions of a site file that is plain data already; Refused as `load` does."""
    _keys(data, KEYS, where)
    base = Storage()
    site = Site(**_decisions(data, where, base))
    if site.storage:
        base = site.storage[0].get(DEFAULT, base)
    vms = _mapping(data.get("vms"), f"{where}: vms")
    return replace(
        site,
        placed=data.get("namespace") is not None,
        namespaces=_map(data, "namespaces", where, _namespace_entry),
        vms={key: _vm(value, f"{where}: vms: {key}", base) for key, value in vms.items()},
        waivers=tuple(_waiver(item, f"{where}: waivers") for item in _list(data.get("waivers"), f"{where}: waivers")),
    )


def _decisions(data: dict[str, Any], where: str, base: Storage, of_vm: bool = False) -> dict[str, Any]:
    """The fields of Site that are given, by name; those of one VM or of all."""

    def layer(name: str, read: Callable[[str, Any, str], Any]) -> Any:
        return (_map(data, name, where, read),)

    readers: dict[str, tuple[str, Callable[[], Any]]] = {
        "namespace": ("namespace", lambda: _label(data["namespace"], f"{where}: namespace")),
        "storage": ("storage", lambda: (_storages(data["storage"], f"{where}: storage", base),)),
        "networks": ("networks", lambda: layer("networks", _network)),
        "hostDevices": ("host_devices", lambda: layer("hostDevices", _device)),
        "filesystems": ("filesystems", lambda: layer("filesystems", _filesystem)),
        "luns": ("luns", lambda: layer("luns", _lun)),
        "cpuModels": ("cpu_models", lambda: layer("cpuModels", _cpu_model)),
        "instancetypes": ("instancetypes", lambda: layer("instancetypes", partial(_named, INSTANCETYPES))),
        "preferences": ("preferences", lambda: layer("preferences", partial(_named, PREFERENCES))),
        "sizes": (
            ("disk_sizes", lambda: layer("sizes", _disk_size))
            if of_vm
            else ("sizes", lambda: _map(data, "sizes", where, _size))
        ),
        "timezone": ("timezone", lambda: _timezone(data["timezone"], f"{where}: timezone")),
        "runStrategy": ("run_strategy", lambda: _choice(data["runStrategy"], RUN_STRATEGIES, f"{where}: runStrategy")),
        "labels": ("labels", lambda: _map(data, "labels", where, _label_entry)),
        "annotations": ("annotations", lambda: _map(data, "annotations", where, _annotation)),
        "images": ("images", lambda: tuple(_folder(item, f"{where}: images") for item in _list(data["images"], where))),
        "methods": ("methods", lambda: _methods(data["methods"], f"{where}: methods")),
    }
    return {field: read() for key, (field, read) in readers.items() if data.get(key) is not None}


def _vm(value: Any, where: str, base: Storage) -> dict[str, Any]:
    data = _mapping(value, where)
    _keys(data, (*VM_KEYS, "skip", "wave"), where)
    found = _decisions(data, where, base, of_vm=True)
    if "namespace" in found:
        found["placed"] = True
    if data.get("skip") is not None:
        found["skip"] = _words(data["skip"], f"{where}: skip", "say why the VM is left out")
    if data.get("wave") is not None:
        if type(data["wave"]) is not int or data["wave"] not in WAVES:
            raise Refused(f"{where}: wave: {data['wave']!r} is no whole number from 1 on")
        found["wave"] = data["wave"]
    return found


def _namespace_entry(key: str, value: Any, where: str) -> str:
    _glob_key(key, OWNER_KINDS, where, "such as `host:kvm-1*`")
    return _label(value, f"{where}: {key}")


def _storages(value: Any, where: str, base: Storage) -> dict[str, Storage]:
    data = _mapping(value, where)
    if DEFAULT in data:
        base = _storage(data[DEFAULT], f"{where}.{DEFAULT}", base)
    for key in data:
        if key != DEFAULT:
            _glob_key(key, STORAGE_KINDS, where, "such as `pool:NAME` or `path:/srv/fast`", (DEFAULT,))
        if key.startswith("path:") and not PLACE.match(key.removeprefix("path:")):
            raise Refused(f"{where}: {key}: give an absolute path, such as `path:/srv/fast`")
    return {key: _storage(each, f"{where}.{key}", base) for key, each in data.items()}


def _storage(value: Any, where: str, base: Storage) -> Storage:
    data = _mapping(value, where)
    _keys(data, STORAGE_KEYS, where)
    modes = tuple(_list(data.get("accessModes"), f"{where}.accessModes")) or base.access_modes
    for mode in modes:
        _choice(mode, ACCESS_MODES, f"{where}.accessModes")
    name = data.get("storageClass")
    return Storage(
        storage_class=base.storage_class if name is None else _subdomain(name, f"{where}.storageClass"),
        volume_mode=_choice(data.get("volumeMode", base.volume_mode), VOLUME_MODES, f"{where}.volumeMode"),
        access_modes=modes,
    )


def _network(key: str, value: Any, where: str) -> Network:
    _network_key(key, where)
    data = _mapping(value, f"{where}: {key}")
    _keys(data, ("pod", "multus", "binding"), f"{where}: {key}")
    if ("pod" in data) == ("multus" in data):
        raise Refused(f"{where}: {key}: give either `pod: masquerade` or `multus: NAMESPACE/NAME`")
    if "pod" in data:
        if "binding" in data:
            raise Refused(
                f"{where}: {key}: `binding` goes with `multus`; give `pod: masquerade` or `pod: {{plugin: NAME}}` alone"
            )
        return _bound(data["pod"], POD_BINDINGS, f"{where}: {key}.pod")
    name = data["multus"]
    if not isinstance(name, str) or not 1 <= len(name.split("/")) <= 2:
        raise Refused(f"{where}: {key}.multus: give NAMESPACE/NAME of a NetworkAttachmentDefinition")
    namespace, slash, own = name.rpartition("/")
    if slash:
        _label(namespace, f"{where}: {key}.multus")
    _subdomain(own, f"{where}: {key}.multus")
    return _bound(data.get("binding", "bridge"), MULTUS_BINDINGS, f"{where}: {key}.binding", name)


def _bound(value: Any, words: tuple[str, ...], where: str, multus: str | None = None) -> Network:
    """A network with its binding, which is one of some words or `{plugin: NAME}`."""
    if not isinstance(value, dict):
        if value not in words:
            raise Refused(f"{where}: {value!r} is none of {', '.join(words)}; a plugin is named by `{{plugin: NAME}}`")
        return Network(value, multus)
    _keys(value, ("plugin",), where)
    if not isinstance(value.get("plugin"), str) or not value["plugin"]:
        raise Refused(f"{where}: give the name by which the KubeVirt object registers the plugin")
    return Network("", multus, value["plugin"])


def _network_key(key: str, where: str) -> None:
    """KIND, KIND:NAME, either with /portgroup:NAME and /vlan:TAGS behind it."""
    kind = re.split("[:/]", key)[0]
    if kind not in NETWORK_KINDS:
        raise Refused(f"{where}: {key}: there is no {kind!r} here{nearest(kind, NETWORK_KINDS)}")
    if kind == DEFAULT and key != DEFAULT:
        raise Refused(f"{where}: {key}: `default` stands alone")
    name, *qualifiers = key.split("/")
    if name == f"{kind}:":
        raise Refused(f"{where}: {key}: the name is empty; write `{kind}` alone for all of this kind")
    for text in qualifiers:
        word, colon, glob = text.partition(":")
        if word not in QUALIFIERS:
            raise Refused(f"{where}: {key}: there is no qualifier {word!r}{nearest(word, QUALIFIERS)}")
        if not colon or not glob:
            raise Refused(f"{where}: {key}: say which {word}, as in `/{word}:{'42' if word == 'vlan' else 'NAME'}`")
    if len(qualifiers) != len(parts(key)[1].keys() - {""}):
        raise Refused(f"{where}: {key}: a qualifier is there twice")


def _device(key: str, value: Any, where: str) -> str:
    _glob_key(key, DEVICE_KINDS, where, "such as `pci:0000:06:12.5`")
    if not isinstance(value, str) or not value:
        raise Refused(f"{where}: {key}: give the resource name that the cluster offers, vendor.com/model")
    return value


def _filesystem(key: str, value: Any, where: str) -> str:
    _folder(key, where)
    return _subdomain(value, f"{where}: {key}")


def _lun(key: str, value: Any, where: str) -> Lun:
    """One source of a PersistentVolume with all that it has to have; what else it has the API server looks at."""
    if not PLACE.match(key):
        raise Refused(f"{where}: {key!r} is no absolute path of a device, and no address such as iscsi://HOST/IQN/1")
    where = f"{where}: {key}"
    data = _mapping(value, where)
    _keys(data, (*LUN_SOURCES, "nodes"), where)
    kinds = [kind for kind in LUN_SOURCES if kind in data]
    if len(kinds) != 1:
        raise Refused(f"{where}: give one of {', '.join(LUN_SOURCES)}")
    source = _mapping(data[kinds[0]], f"{where}.{kinds[0]}")
    for name in LUN_SOURCES[kinds[0]]:
        if name not in source:
            raise Refused(f"{where}.{kinds[0]}: {name} is missing")
    if kinds[0] == "fc" and "wwids" not in source and not {"targetWWNs", "lun"} <= source.keys():
        raise Refused(f"{where}.fc: give targetWWNs and lun, or wwids")
    _plain(source, f"{where}.{kinds[0]}")
    nodes = tuple(_subdomain(node, f"{where}.nodes") for node in _list(data.get("nodes"), f"{where}.nodes"))
    if "local" in data and not nodes:
        raise Refused(f"{where}: name the `nodes` that have the device")
    return Lun({kinds[0]: source}, nodes)


def _plain(value: Any, where: str) -> None:
    """Refuses what YAML reads as something that Kubernetes' JSON has no place for, a date for one."""
    if isinstance(value, dict):
        for name, inner in _mapping(value, where).items():
            _plain(inner, f"{where}.{name}")
    elif isinstance(value, list):
        for item in value:
            _plain(item, where)
    elif not isinstance(value, str | int):
        raise Refused(f"{where}: {value!r} is no text, whole number, yes or no; quote it")


def _cpu_model(key: str, value: Any, where: str) -> str:
    if not isinstance(value, str) or not LABEL_NAME.fullmatch(value):
        raise Refused(f"{where}: {key}: give a CPU model of the cluster's nodes, host-model or host-passthrough")
    return value


def _named(kinds: tuple[str, ...], key: str, value: Any, where: str) -> Named | None:
    if "://" in key or not key:
        raise Refused(
            f"{where}: {key!r}: give a libosinfo id without http://, such as `debian.org/debian/12`, or a glob"
        )
    data = {"name": value} if isinstance(value, str) else _mapping(value, f"{where}: {key}")
    _keys(data, ("name", "kind"), f"{where}: {key}")
    if value is None:
        return None
    kind = _choice(data.get("kind", kinds[0]), kinds, f"{where}: {key}.kind")
    return Named(kind, _subdomain(data.get("name"), f"{where}: {key}.name"))


def _size(key: str, value: Any, where: str) -> int:
    name, slash, disk = key.rpartition("/")
    if not slash or not name or not disk:
        raise Refused(f"{where}: {key}: give VM/DISK, such as `web-1/vda`")
    return _disk_size(key, value, where)


def _disk_size(key: str, value: Any, where: str) -> int:
    from decimal import InvalidOperation

    from migrate.target.quantity import to_bytes

    try:
        size = to_bytes(value) if type(value) is int or SIZE.fullmatch(value) else 0
    except (InvalidOperation, OverflowError, TypeError, ValueError):
        size = 0
    if not 0 < size < 2**63:
        raise Refused(f"{where}: {key}: {value!r} is no size; give one such as 20Gi, or a number of bytes")
    return size


def _label_entry(key: str, value: Any, where: str) -> str:
    _meta_key(key, where)
    if value != "" and (not isinstance(value, str) or not LABEL_NAME.fullmatch(value)):
        raise Refused(
            f"{where}: {key}: {value!r} is no value of a label; quote it, at most 63 of A-Z, a-z, 0-9, -, _ and ."
        )
    return value


def _annotation(key: str, value: Any, where: str) -> str:
    _meta_key(key, where)
    if not isinstance(value, str):
        raise Refused(f"{where}: {key}: {value!r} is no text; quote it")
    return value


def _meta_key(key: str, where: str) -> None:
    prefix, slash, name = key.rpartition("/")
    if key.startswith(OURS):
        raise Refused(f"{where}: {key}: {OURS} is what kubevirt-migrate writes itself; choose another prefix")
    if slash:
        _subdomain(prefix, f"{where}: {key}")
    if not LABEL_NAME.fullmatch(name):
        raise Refused(f"{where}: {key!r} is no key that Kubernetes takes: PREFIX/NAME or NAME of at most 63 characters")


def _waiver(value: Any, where: str) -> Pardon:
    data = _mapping(value, where)
    _keys(data, WAIVER_KEYS, where)
    finding = _words(data.get("finding"), f"{where}: finding", "give a finding's id or rule, such as `disk-bus/ide`")
    name = _words(data.get("vm", "*"), f"{where}: {finding}: vm", "give a VM's uuid, or a glob of names")
    reason = _words(data.get("reason"), f"{where}: {finding}: reason", "say why the finding can be let pass")
    return Pardon(finding, name, reason, _day(data.get("until"), f"{where}: {finding}: until"))


def _day(value: Any, where: str) -> date:
    try:
        return value if type(value) is date else date.fromisoformat(DAY.fullmatch(value)[0])
    except (TypeError, ValueError):
        raise Refused(
            f"{where}: {value!r} is no day; give the last one on which it holds, such as 2027-03-31"
        ) from None


@cache
def _zones() -> set[str]:
    from zoneinfo import available_timezones

    return available_timezones() - NO_ZONES


def _timezone(value: Any, where: str) -> str:
    if not isinstance(value, str) or value not in _zones():
        raise Refused(f"{where}: {value!r} is no IANA time zone; give one such as Europe/Berlin")
    return value


def _folder(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise Refused(f"{where}: {value!r} is no absolute path of a folder")
    return value


def _methods(value: Any, where: str) -> list[str]:
    # What a LUN is handed over by serves nothing else, and is chosen by `luns`.
    known = [name for name in transfer.methods() if name != transfer.LUN]
    names = [_choice(item, known, where) for item in _list(value, where)]
    if not names or len(set(names)) < len(names):
        raise Refused(f"{where}: give at least one method, and each once")
    return names


def _words(value: Any, where: str, todo: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Refused(f"{where}: {todo}")
    return value.strip()


def _map(data: dict[str, Any], name: str, where: str, read: Callable[[str, Any, str], Any]) -> dict[str, Any]:
    """A map of the file with each value read by its key; nothing is an empty one."""
    inner = f"{where}: {name}"
    return {key: read(key, value, inner) for key, value in _mapping(data.get(name), inner).items()}


def _glob_key(key: str, kinds: Iterable[str], where: str, example: str, alone: Iterable[str] = ()) -> None:
    kind, colon, glob = key.partition(":")
    if kind in alone:
        raise Refused(f"{where}: {key}: `{kind}` stands alone")
    if kind not in kinds:
        raise Refused(f"{where}: {key}: there is no {kind!r} here{nearest(kind, (*kinds, *alone))}")
    if not colon or not glob:
        raise Refused(f"{where}: {key}: say which {kind}, {example}")


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Refused(f"{where}: give `name: value` pairs")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Refused(f"{where}: give a list, one `- item` a line")
    return value


def _keys(data: Any, known: Iterable[str], where: str) -> None:
    for key in _mapping(data, where):
        if key not in known:
            raise Refused(f"{where}: there is no key {key!r}{nearest(key, known)}")


def _choice(value: Any, known: Iterable[str], where: str) -> str:
    if value not in tuple(known):
        raise Refused(f"{where}: {value!r} is none of {', '.join(known)}")
    return value


def _label(value: Any, where: str) -> str:
    if not isinstance(value, str) or not LABEL.fullmatch(value):
        raise Refused(f"{where}: {value!r} is no name that Kubernetes takes: a-z, 0-9 and -, at most 63 characters")
    return value


def _subdomain(value: Any, where: str) -> str:
    if not isinstance(value, str) or not SUBDOMAIN.fullmatch(value):
        raise Refused(f"{where}: {value!r} is no name that Kubernetes takes: a-z, 0-9 and -, in parts with . between")
    return value


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for a word close to a known one, else the list of the known ones."""
    words = sorted(known)
    match = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {match[0]}?" if match else f"; known are {', '.join(words)}"
