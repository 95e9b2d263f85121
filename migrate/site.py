"""What a cluster's administrator decides once for all VMs: namespaces, storage, networks and devices, from one file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrate.model import Refused


@dataclass(frozen=True, slots=True)
class Storage:
    """How a claim is asked for. A storage class of None is the cluster's default class."""

    storage_class: str | None = None
    volume_mode: str = "Filesystem"
    access_modes: tuple[str, ...] = ("ReadWriteOnce",)


@dataclass(frozen=True, slots=True)
class Network:
    """What a source network becomes: the pod network (`masquerade` or `bridge`) or a NetworkAttachmentDefinition.

    `multus` is `NAMESPACE/NAME` or `NAME`; `binding` is `bridge`, `sriov` or `masquerade`.
    """

    binding: str
    multus: str | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """The decisions of one site file, or of none."""

    namespace: str = "default"
    storage: Storage = Storage()
    networks: dict[str, Network] = field(default_factory=dict)
    host_devices: dict[str, str] = field(default_factory=dict)
    timezone: str | None = None
    images: tuple[str, ...] = ()

    def network(self, kind: str, name: str) -> Network | None:
        """The target of the source network `KIND:NAME`, or the `default` that was chosen, or None."""
        return self.networks.get(f"{kind}:{name}") or self.networks.get("default")

    def host_device(self, kind: str, *names: str) -> str | None:
        """The cluster's resource name for a host device known by any of the names, or None."""
        found = (self.host_devices.get(f"{kind}:{name}") for name in names if name)
        return next((resource for resource in found if resource), None)


KEYS = ("namespace", "storage", "networks", "hostDevices", "timezone", "images")
STORAGE_KEYS = ("storageClass", "volumeMode", "accessModes")
NETWORK_KINDS = ("network", "bridge", "direct", "user", "hostdev", "default")
DEVICE_KINDS = ("pci", "usb", "mdev")
VOLUME_MODES = ("Filesystem", "Block")
ACCESS_MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
POD_BINDINGS = ("masquerade", "bridge")
MULTUS_BINDINGS = ("bridge", "sriov")


def load(path: Path) -> Site:
    """Reads a site file. Raises Refused with the nearest name for a key or value that does not exist."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; give a readable site file with --site") from None
    except UnicodeDecodeError:
        raise Refused(f"{path}: not UTF-8 text; give a site file with --site") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise Refused(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    return _site(data if data is not None else {}, str(path))


def _site(data: Any, where: str) -> Site:
    _keys(data, KEYS, where)
    networks = _mapping(data.get("networks"), f"{where}: networks")
    return Site(
        namespace=_label(data.get("namespace", "default"), f"{where}: namespace"),
        storage=_storage(data.get("storage"), f"{where}: storage"),
        networks={key: _network(key, value, f"{where}: networks") for key, value in networks.items()},
        host_devices=_devices(_mapping(data.get("hostDevices"), f"{where}: hostDevices"), f"{where}: hostDevices"),
        timezone=_timezone(data.get("timezone"), f"{where}: timezone"),
        images=tuple(_folder(item, f"{where}: images") for item in _list(data.get("images"), f"{where}: images")),
    )


def _storage(value: Any, where: str) -> Storage:
    chosen = _mapping(value, where)
    _keys(chosen, ("default",), where)
    data = _mapping(chosen.get("default"), f"{where}.default")
    _keys(data, STORAGE_KEYS, f"{where}.default")
    modes = tuple(_list(data.get("accessModes"), f"{where}.default.accessModes")) or Storage().access_modes
    for mode in modes:
        _choice(mode, ACCESS_MODES, f"{where}.default.accessModes")
    name = data.get("storageClass")
    return Storage(
        storage_class=None if name is None else _subdomain(name, f"{where}.default.storageClass"),
        volume_mode=_choice(data.get("volumeMode", "Filesystem"), VOLUME_MODES, f"{where}.default.volumeMode"),
        access_modes=modes,
    )


def _network(key: str, value: Any, where: str) -> Network:
    kind = key.partition(":")[0]
    _choice(kind, NETWORK_KINDS, f"{where}: {key}")
    data = _mapping(value, f"{where}: {key}")
    _keys(data, ("pod", "multus", "binding"), f"{where}: {key}")
    if ("pod" in data) == ("multus" in data):
        raise Refused(f"{where}: {key}: give either `pod: masquerade` or `multus: NAMESPACE/NAME`")
    if "pod" in data:
        if "binding" in data:
            raise Refused(f"{where}: {key}: `binding` goes with `multus`; give `pod: masquerade` alone")
        return Network(_choice(data["pod"], POD_BINDINGS, f"{where}: {key}.pod"))
    name = data["multus"]
    if not isinstance(name, str) or not 1 <= len(name.split("/")) <= 2:
        raise Refused(f"{where}: {key}.multus: give NAMESPACE/NAME of a NetworkAttachmentDefinition")
    for part in name.split("/"):
        _subdomain(part, f"{where}: {key}.multus")
    return Network(_choice(data.get("binding", "bridge"), MULTUS_BINDINGS, f"{where}: {key}.binding"), name)


def _devices(data: dict[str, Any], where: str) -> dict[str, str]:
    for key, value in data.items():
        _choice(key.partition(":")[0], DEVICE_KINDS, f"{where}: {key}")
        if not isinstance(value, str) or not value:
            raise Refused(f"{where}: {key}: give the resource name that the cluster offers, vendor.com/model")
    return data


def _timezone(value: Any, where: str) -> str | None:
    if value is None:
        return None
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(value)
    except (KeyError, ValueError, TypeError, OSError):
        raise Refused(f"{where}: {value!r} is no IANA time zone; give one such as Europe/Berlin") from None
    return value


def _folder(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise Refused(f"{where}: {value!r} is no absolute path of a folder")
    return value


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
    import re

    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value):
        raise Refused(f"{where}: {value!r} is no name that Kubernetes takes: a-z, 0-9 and -, at most 63 characters")
    return value


def _subdomain(value: Any, where: str) -> str:
    import re

    if not isinstance(value, str) or len(value) > 253 or not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", value):
        raise Refused(f"{where}: {value!r} is no name that Kubernetes takes: a-z, 0-9, - and .")
    return value


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for a word close to a known one, else the list of the known ones."""
    words = sorted(known)
    match = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {match[0]}?" if match else f"; known are {', '.join(words)}"
