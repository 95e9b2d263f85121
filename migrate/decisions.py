"""What a cluster's administrator decides for VMs: namespaces, storage, networks, devices, and which findings may pass.

A key of a map is `KIND`, `KIND:GLOB` or `KIND:GLOB/QUALIFIER:GLOB`, as in `bridge:br*/vlan:42`. Of the keys that fit,
the most exact counts: first the one with more qualifiers, then without wildcards, then the longer one.
What a VM has of its own in `vms` counts before what all have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, TypeVar

from migrate.model import VM, Disk, Finding, Waiver

T = TypeVar("T")
# A VM's own name counts before its tag, that before its project, that before its host.
OWNER_KINDS = ("vm", "tag", "project", "host")
ESCAPED = re.compile(r"\[[*?[]\]")
DEFAULT = "default"
NETWORK_KINDS = ("network", "bridge", "direct", "user", "hostdev", DEFAULT)
QUALIFIERS = ("portgroup", "vlan")
# What the ids of findings that no rule makes begin with.
FAMILIES = ("admission", "claim", "cluster", "identity", "manifest", "site", "state", "transfer")
UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class Storage:
    """How a claim is asked for. A storage class of None is the cluster's default class."""

    storage_class: str | None = None
    volume_mode: str = "Filesystem"
    access_modes: tuple[str, ...] = ("ReadWriteOnce",)


@dataclass(frozen=True, slots=True)
class Network:
    """What a source network becomes: the pod network, or a NetworkAttachmentDefinition that `multus` names.

    `multus` is `NAMESPACE/NAME` or `NAME`; `binding` is `bridge`, `sriov`, `masquerade`, or nothing beside a `plugin`.
    """

    binding: str
    multus: str | None = None
    plugin: str = ""


@dataclass(frozen=True, slots=True)
class Lun:
    """How nodes reach a LUN: the `source` of a PersistentVolume, and the nodes that do, none for all."""

    source: dict[str, Any]
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """An object of the cluster: an instance type or a preference, of the cluster or of the VM's namespace."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Pardon:
    """A waiver as it is written: which findings of which VMs do not count up to and with a day, and why."""

    finding: str
    vm: str
    reason: str
    until: date

    def covers(self, vm: VM, finding: Finding) -> bool:
        """Whether it is for this finding, by its id or its rule; a bug of ours is never waived."""
        named = fnmatchcase(finding.id, self.finding) or fnmatchcase(finding.rule, self.finding)
        return named and finding.id != "internal" and fits_vm(self.vm, vm)


@dataclass(frozen=True, slots=True)
class Site:
    """The decisions of one site file, or of none: for all VMs, or out of `of` for one.

    Maps of things are tuples of layers, a VM's own first. `placed` says whether `namespace` was chosen.
    `methods` are ways to fill a claim, the first that can is taken; a VM's own take the place of all.
    `sizes` are bytes by `VM/DISK`, `disk_sizes` bytes by the disk of one VM; `vms` has what each key overrides.
    """

    namespace: str = DEFAULT
    placed: bool = False
    namespaces: dict[str, str] = field(default_factory=dict)
    storage: tuple[dict[str, Storage], ...] = ()
    networks: tuple[dict[str, Network], ...] = ()
    host_devices: tuple[dict[str, str], ...] = ()
    filesystems: tuple[dict[str, str], ...] = ()
    luns: tuple[dict[str, Lun], ...] = ()
    cpu_models: tuple[dict[str, str], ...] = ()
    instancetypes: tuple[dict[str, Named | None], ...] = ()
    preferences: tuple[dict[str, Named | None], ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    disk_sizes: tuple[dict[str, int], ...] = ()
    timezone: str | None = None
    run_strategy: str = "Halted"
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    methods: list[str] = field(default_factory=lambda: ["cdi-import", "cdi-upload", "file"])
    vms: dict[str, dict[str, Any]] = field(default_factory=dict)
    waivers: tuple[Pardon, ...] = ()
    skip: str | None = None
    wave: int = 0
    text: str = field(default="", compare=False, repr=False)

    def of(self, vm: VM) -> Site:
        """The decisions for one VM: what `namespaces`, `sizes` and `vms` say of it, over what holds for all."""
        changes: dict[str, Any] = {}
        if namespace := _namespace(self.namespaces, vm):
            changes |= {"namespace": namespace, "placed": True}
        if sizes := _sizes(self.sizes, vm):
            changes["disk_sizes"] = sizes
        for key in sorted((key for key in self.vms if fits_vm(key, vm)), key=_vm_exactness):
            for name, value in self.vms[key].items():
                changes[name] = _over(value, changes.get(name, getattr(self, name)))
        return replace(self, **changes) if changes else self

    def storage_of(self, disk: Disk | None) -> Storage | None:
        """How the claim of a disk is asked for; None where storage is chosen for others, but not for this one."""
        if not any(self.storage):
            return Storage()
        facts = (("pool", disk.pool), ("path", disk.path)) if disk else ()
        return _chosen(self.storage, [(kind, {"": name}) for kind, name in facts if name])

    def network(self, kind: str, name: str, portgroup: str = "", vlan: str = "") -> Network | None:
        """The target of a source network, or the `default` that was chosen, or None. `vlan` is tags with commas."""
        return _chosen(self.networks, [(kind, {"": name, "portgroup": portgroup, "vlan": vlan})])

    def network_is_for(self, qualifier: str, kind: str, name: str, portgroup: str, vlan: str) -> bool:
        """Whether the target of a source network is chosen for exactly its port group, or for exactly its VLAN tags."""
        known = {"": name, "portgroup": portgroup, "vlan": vlan}
        found = _layer_and_key(self.networks, [(kind, known)])
        if not found or not known[qualifier]:
            return False
        return parts(found[1])[1].get(qualifier) == part(known[qualifier])

    def host_device(self, kind: str, *names: str) -> str | None:
        """The cluster's resource name for a host device known by any of the names, the first first, or None."""
        found = (_chosen(self.host_devices, [(kind, {"": name})]) for name in names if name)
        return next((resource for resource in found if resource), None)

    def filesystem(self, folder: str) -> str | None:
        """The claim that holds the files of a folder of the host, or None."""
        return _chosen(self.filesystems, [("folder", {"": folder})], "folder:")

    def lun(self, path: str) -> Lun | None:
        """How nodes reach the LUN that the source has at a path, or None where it is to be copied."""
        return _chosen(self.luns, [("disk", {"": path})], "disk:")

    def cpu_model(self, name: str) -> str | None:
        """The cluster's CPU model (or `host-model`, `host-passthrough`) for one of the source, or None."""
        return _chosen(self.cpu_models, [("model", {"": name})], "model:")

    def instancetype(self, osinfo: str) -> Named | None:
        """The instance type for guests of an operating system, by its libosinfo id; none unless it is asked for."""
        return _of_guest(self.instancetypes, osinfo)

    def preference(self, osinfo: str) -> Named | None:
        """The preference for guests of an operating system, by its libosinfo id; none unless it is asked for."""
        return _of_guest(self.preferences, osinfo)

    def size(self, disk: Disk) -> int | None:
        """The bytes that are given for a disk, or None."""
        return _chosen(self.disk_sizes, [("disk", {"": disk.target})], "disk:")

    def unmet(self, names: set[str], uuids: set[str]) -> list[str]:
        """What is said of single VMs, and fits none that has one of the names or uuids."""

        def fits(key: str) -> bool:
            exact = key in names or key.lower() in uuids
            return exact or (any(each in key for each in "*?[") and any(fnmatchcase(name, key) for name in names))

        said = [("vms", key, key) for key in self.vms]
        said += [("sizes", key, key.rpartition("/")[0]) for key in self.sizes]
        said += [(f"waivers: {pardon.finding}: vm", pardon.vm, pardon.vm) for pardon in self.waivers]
        return [f"{place}: {key}" for place, key, vm in said if not fits(vm)]

    def waive(self, vm: VM, findings: Iterable[Finding], today: date) -> None:
        """Marks the findings that are waived on a day, and those whose waivers have ended."""
        for finding in findings:
            pardons = [pardon for pardon in self.waivers if pardon.covers(vm, finding)]
            if pardons:
                last = max(pardons, key=lambda pardon: pardon.until)
                waiver = Waiver(last.reason, last.until.isoformat())
                finding.waived, finding.ended = (waiver, None) if last.until >= today else (None, waiver)


def fits_vm(key: str, vm: VM) -> bool:
    """Whether a VM is meant: by its uuid, or by a glob of its name."""
    return key.lower() == vm.uuid.lower() or fnmatchcase(vm.name, key)


def escaped(name: str) -> str:
    """A glob that fits a name alone."""
    return re.sub(r"([*?[])", r"[\1]", name)


def part(name: str) -> str:
    """The glob of a name in a key of several; a slash would end it there, and `?` fits one."""
    return escaped(name).replace("/", "?")


def network_key(kind: str, *names: str) -> str:
    """The key of a source network's name, port group and VLAN tags."""
    words = zip(("", *QUALIFIERS), names, strict=False)
    globs = [(word, part(name)) for word, name in words if name]
    return kind + "".join(f"/{word}:{glob}" if word else f":{glob}" for word, glob in globs)


@lru_cache(maxsize=4096)
def parts(key: str) -> tuple[str, dict[str, str]]:
    """The kind of a key, and its globs by qualifier, "" for the name. Only networks have other qualifiers."""
    first, *others = key.split("/")
    kind, colon, name = first.partition(":")
    if kind not in NETWORK_KINDS:
        kind, _, rest = key.partition(":")
        return kind, {"": rest}
    return kind, ({"": name} if colon else {}) | {word: glob for word, _, glob in (o.partition(":") for o in others)}


def _chosen(layers: tuple[dict[str, T], ...], facts: list[tuple[str, dict[str, str]]], prefix: str = "") -> T | None:
    """The most exact fit of the first layer that has one. `facts` are the kinds of a thing, and its names by each."""
    found = _layer_and_key(layers, facts, prefix)
    return found[0][found[1]] if found else None


def _layer_and_key(
    layers: tuple[dict[str, T], ...], facts: list[tuple[str, dict[str, str]]], prefix: str = ""
) -> tuple[dict[str, T], str] | None:
    """The first layer that has a fit, and its most exact one."""
    for layer in layers:
        fitting = [key for key in layer if key == DEFAULT or any(_fits(prefix + key, *fact) for fact in facts)]
        if fitting:
            return layer, max(fitting, key=lambda key: (key != DEFAULT, _exactness(prefix + key)))
    return None


def _of_guest(layers: tuple[dict[str, T], ...], osinfo: str) -> T | None:
    """The choice for a libosinfo id; only `default` fits a guest without one."""
    name = osinfo.partition("://")[2]
    return _chosen(layers, [("os", {"": name})] if name else [], "os:")


def _fits(key: str, kind: str, names: dict[str, str]) -> bool:
    known, globs = parts(key)
    if known != kind:
        return False
    if kind == "path":
        folder = globs[""].rstrip("/") + "/*"
        return fnmatchcase(names[""], globs[""]) or fnmatchcase(names[""], folder)
    return all(fnmatchcase(names.get(word, ""), glob) for word, glob in globs.items())


@lru_cache(maxsize=4096)
def _exactness(key: str) -> tuple[int, bool, int]:
    globs = parts(key)[1].values()
    return len(globs), not any(_wild(glob) for glob in globs), sum(map(len, globs))


def _wild(glob: str) -> bool:
    return any(character in ESCAPED.sub("", glob) for character in "*?[")


def _vm_exactness(key: str) -> tuple[bool, bool, int]:
    return bool(UUID.fullmatch(key)), not _wild(key), len(key)


def _namespace(namespaces: dict[str, str], vm: VM) -> str | None:
    named = {"vm": [vm.name, vm.uuid], "tag": vm.tags, "project": [vm.project], "host": [vm.host]}
    for kind in OWNER_KINDS:
        fitting = [key for key in namespaces if any(name and _fits(key, kind, {"": name}) for name in named[kind])]
        if fitting:
            return namespaces[max(fitting, key=_exactness)]
    return None


def _sizes(sizes: dict[str, int], vm: VM) -> tuple[dict[str, int], ...]:
    """What is given for the disks of one VM by the keys that mean it, the most exact one for the VM first."""
    layers: dict[str, dict[str, int]] = {}
    for key, size in sizes.items():
        name, _, disk = key.rpartition("/")
        if fits_vm(name, vm):
            layers.setdefault(name, {})[disk] = size
    return tuple(layers[name] for name in sorted(layers, key=_vm_exactness, reverse=True))


def _over(value: Any, below: Any) -> Any:
    """A VM's own value over what holds for more: layers and folders go first, maps are merged."""
    if isinstance(value, tuple):
        return value + below
    return below | value if isinstance(value, dict) else value
