"""What one cluster offers, read once and never changed: versions, nodes, storage, networks, limits, and what is taken.

What may not be read is named in `unread` and then not judged; what is not installed counts as empty.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from migrate.model import Refused
from migrate.target import vocabulary
from migrate.target.admission.spec import amount
from migrate.target.api import answered, failure, kinds, unreachable
from migrate.target.proxy import Proxy
from migrate.target.vocabulary import Target

if TYPE_CHECKING:
    from lightkube import Client

T = TypeVar("T")
Object = dict[str, Any]
EVERYWHERE = "*"
CHUNK = 500
TEMPORARY_TAINTS = "node.kubernetes.io/"
ARCHITECTURES = ("amd64", "arm64", "s390x")
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
# backend-storage.go
VIRT_CLASS = "storageclass.kubevirt.io/is-default-virt-class"
POD_SECURITY = "pod-security.kubernetes.io/enforce"
# renderresources.go, getMemoryLimitsRatio
MEMORY_RATIO, DEFAULT_RATIO = "alpha.kubevirt.io/auto-memory-limits-ratio", Fraction(2)
DECIMAL = re.compile(r"\d+(\.\d*)?([eE][+-]?\d+)?")
# What CDI may enlarge a claim to: the storage profile's annotation, as KubeVirt's backend-storage.go cites it.
LEAST_SIZE = "cdi.kubevirt.io/minimumSupportedPvcSize"
RESOURCE_NAME = "k8s.v1.cni.cncf.io/resourceName"
# virt-config.go, VGADisplayForEFIGuestsEnabled
VGA_FOR_EFI = "kubevirt.io/vga-display-efi-x86"
# pkg/network/domainspec/interface.go DomainAttachmentByInterfaceName
TAPS = ("tap", "managedTap")
PER_NAMESPACE, CLUSTER_WIDE = "VirtualMachine", "VirtualMachineCluster"


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """Objects of one kind by (namespace, name), the namespace empty for kinds without.

    `scope` says what was read: `*` for all, one namespace, or None for nothing. Where kinds with and without
    namespaces are listed together it is that of the former, and `wide` is whether the latter were read.
    """

    items: Mapping[tuple[str, str], T] = field(default_factory=dict)
    scope: str | None = EVERYWHERE
    wide: bool | None = None

    def knows(self, namespace: str = "") -> bool:
        """Whether the objects of a namespace were read, so that one that is not here is not there."""
        if not namespace and self.wide is not None:
            return self.wide
        return self.scope in (EVERYWHERE, namespace)

    def get(self, name: str, namespace: str = "") -> T | None:
        """One object, None where it was not seen."""
        return self.items.get((namespace, name))

    def has(self, name: str, namespace: str = "") -> bool:
        """Whether an object was seen."""
        return (namespace, name) in self.items

    def within(self, namespace: str = "") -> dict[str, T]:
        """The objects of a namespace by name."""
        return {name: item for (inside, name), item in self.items.items() if inside == namespace}


@dataclass(frozen=True, slots=True)
class Node:
    """A node: its labels, the keys of taints that keep pods off for good, and what pods can have of each resource."""

    labels: Mapping[str, str]
    taints: tuple[str, ...] = ()
    allocatable: Mapping[str, Fraction] = field(default_factory=dict)


class Namespace(NamedTuple):
    """What a namespace's labels say: the pod security that it enforces, and how many times the memory that a VM's pod
    requests its automatic limit is."""

    security: str = ""
    memory_ratio: Fraction = DEFAULT_RATIO


class Modes(NamedTuple):
    """Access modes and the volume mode that a storage class is known to serve together."""

    access: tuple[str, ...]
    volume: str


class Origin(NamedTuple):
    """Where a VM of the cluster came from, both empty unless it was migrated."""

    source: str = ""
    uuid: str = ""


class Address(NamedTuple):
    """Who has a MAC: `NAMESPACE/NAME` of the VM, and of the NetworkAttachmentDefinition; "" is the pod network."""

    vm: str
    network: str


class Scope(NamedTuple):
    """Which pods a quota is for: those of a kind, or those whose priority class is one of some."""

    name: str
    operator: str = "Exists"
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quota:
    """A ResourceQuota: what it allows of each resource in all, what is used, and the scopes that narrow it."""

    hard: Mapping[str, Fraction]
    used: Mapping[str, Fraction] = field(default_factory=dict)
    scopes: tuple[Scope, ...] = ()


@dataclass(frozen=True, slots=True)
class Limit:
    """One row of a LimitRange: what an object of the type (Container, Pod, PersistentVolumeClaim) may ask for.

    `defaults` are the limits of containers that say none; `ratios` how many times its request a limit may be.
    """

    type: str
    least: Mapping[str, Fraction]
    most: Mapping[str, Fraction]
    defaults: Mapping[str, Fraction] = field(default_factory=dict)
    ratios: Mapping[str, Fraction] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cluster:
    """The facts of one cluster.

    `kubevirt` is its version, None where none was seen; `architecture` that of VMs that name none; `configuration` and
    `annotations` are those of the KubeVirt object. `storage_classes` have whether they are the default, and
    `virt_class` is the one that is it for VMs; `least_sizes` are those of claims by storage class, where its profile
    names one; `networks` have the resource that each NIC on them takes, or "".
    `addresses` are by MAC in lower case. Names of `instancetypes` and `preferences` begin with their kind:
    `VirtualMachineInstancetype/u1.small`. `uploads` says why CDI's upload proxy cannot be used.
    """

    context: str
    namespace: str = "default"
    kubevirt: str | None = None
    architecture: str = ""
    configuration: Object = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    nodes: Listing[Node] = Listing()
    namespaces: Listing[Namespace] = Listing()
    storage_classes: Listing[bool] = Listing()
    virt_class: str | None = None
    storage_profiles: Listing[tuple[Modes, ...]] = Listing()
    least_sizes: Mapping[str, Fraction] = field(default_factory=dict)
    networks: Listing[str] = Listing()
    instancetypes: Listing[Object] = Listing()
    preferences: Listing[Object] = Listing()
    machines: Listing[Origin] = Listing()
    addresses: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    claims: Listing[None] = Listing()
    quotas: Listing[Quota] = Listing()
    limits: Listing[tuple[Limit, ...]] = Listing()
    unread: tuple[str, ...] = ()
    uploads: str | None = None

    def target(self, feature_gates: str = "") -> Target:
        """The version and gates of the cluster, those switched by hand first; Refused where it has no KubeVirt."""
        if self.kubevirt is None:
            raise Refused(f"context {self.context}: no KubeVirt could be seen there; name its version with --kubevirt")
        developer = self.configuration.get("developerConfiguration") or {}
        by_hand = vocabulary.target(self.kubevirt, feature_gates)
        named = {switch[1:] for switch in by_hand.gates}
        own = {
            sign + gate
            for sign, key in (("-", "disabledFeatureGates"), ("+", "featureGates"))
            for gate in developer.get(key) or []
            if gate in vocabulary.gate_states() and gate not in named
        }
        gates = by_hand.gates | own | self._switched(named)
        # The names count, whatever is said of them: pkg/virt-handler/node-labeller/cpu_plugin.go.
        obsolete = frozenset(self.configuration.get("obsoleteCPUModels") or ())
        vga_for_efi = VGA_FOR_EFI in self.annotations
        return Target(by_hand.kubevirt, gates, self._machines(), vga_for_efi, self._plugins(), obsolete)

    @property
    def default_class(self) -> str | None:
        """The storage class of claims that name none."""
        return next((name for name, is_default in self.storage_classes.within().items() if is_default), None)

    @property
    def plugins(self) -> Mapping[str, Object]:
        """The network binding plugins that the KubeVirt object registers."""
        registered = (self.configuration.get("network") or {}).get("binding") or {}
        return {name: plugin or {} for name, plugin in registered.items()}

    def _plugins(self) -> frozenset[str]:
        """What is known of these, as `Target` has it; a sidecar can change an interface that KubeVirt makes."""
        taps = {
            name
            for name, plugin in self.plugins.items()
            if plugin.get("domainAttachmentType") in TAPS and not plugin.get("sidecarImage")
        }
        movable = {name for name, plugin in self.plugins.items() if plugin.get("migration") is not None}
        return frozenset({f"{name}/tap" for name in taps} | {f"{name}/migration" for name in movable})

    def _switched(self, named: set[str]) -> set[str]:
        """What counts as a feature gate switched on: a setting that was one, and an architecture beside amd64."""
        reservations = (self.configuration.get("persistentReservationConfiguration") or {}).get("enabled")
        found = {"PersistentReservation"} if reservations else set()
        found |= {"MultiArchitecture"} if self.architecture not in ("", "amd64") else set()
        return {f"+{gate}" for gate in found - named}

    def _machines(self) -> frozenset[str]:
        """The machine types that the KubeVirt object allows, as `Target` has them; an older setting counts first."""
        every = self.configuration.get("emulatedMachines")
        settings = self.configuration.get("architectureConfiguration") or {}
        return frozenset(
            f"{arch}/{glob}"
            for arch in ARCHITECTURES
            for glob in every or (settings.get(arch) or {}).get("emulatedMachines") or []
        )


class _Reader:
    """Lists kinds, the whole cluster or else one namespace, and keeps what was forbidden."""

    def __init__(self, client: Client, context: str, namespace: str) -> None:
        self.client, self.context, self.namespace = client, context, namespace
        self.unread: list[str] = []

    def read(self, plural: str, keep: Callable[[Object], T]) -> Listing[T]:
        """What is to be kept of all objects of a kind; Refused where the cluster does not answer."""
        from lightkube.core.resource import NamespacedResource

        kind = kinds()[plural]
        scopes = (
            [{"namespace": EVERYWHERE}, {"namespace": self.namespace}] if issubclass(kind, NamespacedResource) else [{}]
        )
        for scope in scopes:
            found = self._list(kind, scope, keep)
            if found is not None:
                if scope == scopes[0]:
                    return Listing(found)
                self.unread.append(f"{plural} of other namespaces")
                return Listing(found, self.namespace)
        self.unread.append(plural)
        return Listing(scope=None)

    def _list(self, kind: type, scope: dict[str, str], keep: Callable[[Object], T]) -> dict[tuple[str, str], T] | None:
        """The objects by namespace and name; None where they may not be read."""
        import httpx2
        from lightkube.core.exceptions import ApiError

        items: dict[tuple[str, str], T] = {}
        try:
            for item in answered(lambda: list(self.client.list(kind, chunk_size=CHUNK, **scope))):
                data = item.to_dict()
                items[data["metadata"].get("namespace", ""), data["metadata"]["name"]] = keep(data)
        except ApiError as error:
            if error.status.code == 403:
                return None
            if error.status.code == 404:
                return {}
            raise failure(self.context, error) from None
        except httpx2.HTTPError as error:
            raise unreachable(self.context, error) from None
        return items


def uploads(client: Client) -> str | None:
    """Why disks cannot be sent to CDI from here, None where they can."""
    found = _Reader(client, client.config.context_name, "").read("cdiconfigs", lambda item: item)
    if not found.knows():
        return None
    try:
        return Proxy.of(found.get("config"), None).unreachable()
    except Refused as refusal:
        return str(refusal)


def read(client: Client, namespace: str) -> Cluster:
    """All facts of the cluster, `namespace` counting where only one may be read. Reads only."""
    context = client.config.context_name
    reader = _Reader(client, context, namespace)
    kubevirts = list(reader.read("kubevirts", lambda item: item).items.values())
    spec, status = (kubevirts[0].get(part) or {} for part in ("spec", "status")) if kubevirts else ({}, {})
    machines, instances = (reader.read(plural, _machine) for plural in ("virtualmachines", "virtualmachineinstances"))
    classes = reader.read("storageclasses", _annotations)
    profiles = reader.read("storageprofiles", lambda item: (_profile(item), _annotations(item).get(LEAST_SIZE)))
    return Cluster(
        context=context,
        namespace=namespace,
        kubevirt=status.get("observedKubeVirtVersion"),
        architecture=status.get("defaultArchitecture") or "",
        configuration=spec.get("configuration") or {},
        annotations=_annotations(kubevirts[0]) if kubevirts else {},
        nodes=reader.read("nodes", _node),
        namespaces=reader.read("namespaces", _namespace),
        storage_classes=Listing(
            {key: _is_set(notes, DEFAULT_CLASS) for key, notes in classes.items.items()}, classes.scope
        ),
        virt_class=next((name for (_, name), notes in classes.items.items() if _is_set(notes, VIRT_CLASS)), None),
        storage_profiles=Listing({key: modes for key, (modes, _) in profiles.items.items()}, profiles.scope),
        least_sizes=_amounts({name: least for (_, name), (_, least) in profiles.items.items()}),
        networks=reader.read("network-attachment-definitions", lambda item: _annotations(item).get(RESOURCE_NAME, "")),
        instancetypes=_either(reader, "Instancetype"),
        preferences=_either(reader, "Preference"),
        machines=Listing({key: origin for key, (origin, _) in machines.items.items()}, machines.scope),
        addresses=_addresses(machines, instances),
        claims=reader.read("persistentvolumeclaims", lambda item: None),
        quotas=reader.read("resourcequotas", _quota),
        limits=reader.read("limitranges", _limits),
        unread=tuple(reader.unread),
    )


def _either(reader: _Reader, suffix: str) -> Listing[Object]:
    """Instancetypes or preferences, those of namespaces and those of the cluster, with their kind in their names."""
    inner, wide = PER_NAMESPACE + suffix, CLUSTER_WIDE + suffix
    found = {kind: reader.read(f"{kind.lower()}s", lambda item: item.get("spec") or {}) for kind in (inner, wide)}
    items = {
        (inside, f"{kind}/{name}"): spec
        for kind, listing in found.items()
        for (inside, name), spec in listing.items.items()
    }
    return Listing(items, found[inner].scope, found[wide].knows())


def _labels(item: Object) -> dict[str, str]:
    return item["metadata"].get("labels") or {}


def _annotations(item: Object) -> dict[str, str]:
    return item["metadata"].get("annotations") or {}


def _is_set(notes: dict[str, str], annotation: str) -> bool:
    return notes.get(annotation) == "true"


def _amounts(quantities: Object | None) -> dict[str, Fraction]:
    found = {name: amount(quantity) for name, quantity in (quantities or {}).items()}
    return {name: number for name, number in found.items() if number is not None}


def _namespace(item: Object) -> Namespace:
    labels = _labels(item)
    return Namespace(labels.get(POD_SECURITY, ""), _ratio(labels.get(MEMORY_RATIO, "")))


def _ratio(text: str) -> Fraction:
    """The number of a label; one that is no decimal number, too great for a float or below 1 counts as none."""
    number = float(text) if DECIMAL.fullmatch(text) else math.inf
    return Fraction(number) if 1 <= number < math.inf else DEFAULT_RATIO


def _node(item: Object) -> Node:
    taints = (item.get("spec") or {}).get("taints") or []
    lasting = tuple(
        taint["key"]
        for taint in taints
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not taint["key"].startswith(TEMPORARY_TAINTS)
    )
    return Node(_labels(item), lasting, _amounts((item.get("status") or {}).get("allocatable")))


def _profile(item: Object) -> tuple[Modes, ...]:
    sets = (item.get("status") or {}).get("claimPropertySets") or []
    return tuple(Modes(tuple(each.get("accessModes") or []), each.get("volumeMode", "Filesystem")) for each in sets)


def _machine(item: Object) -> tuple[Origin, dict[str, str]]:
    """Origin and the network of each MAC of a VM or an instance of one, which has addresses in its status too."""
    notes, spec = _annotations(item), item.get("spec") or {}
    spec = (spec.get("template") or {}).get("spec") or spec
    inside = item["metadata"]["namespace"]
    networks = {network.get("name"): network_of(network, inside) for network in spec.get("networks") or []}
    nics = ((spec.get("domain") or {}).get("devices") or {}).get("interfaces") or []
    pairs = [(nic.get("macAddress"), nic.get("name")) for nic in nics]
    pairs += [(nic.get("mac"), nic.get("name")) for nic in (item.get("status") or {}).get("interfaces") or []]
    macs = {mac.lower(): networks.get(name, "") for mac, name in pairs if mac}
    return Origin(notes.get("kubevirt-migrate/source", ""), notes.get("kubevirt-migrate/uuid", "")), macs


def _addresses(*listings: Listing[tuple[Origin, dict[str, str]]]) -> dict[str, tuple[Address, ...]]:
    """Who has each MAC; an instance has those of its VM, and counts once."""
    found: dict[str, dict[Address, None]] = {}
    for listing in listings:
        for (inside, name), (_, macs) in listing.items.items():
            for mac, network in macs.items():
                found.setdefault(mac, {})[Address(f"{inside}/{name}", network)] = None
    return {mac: tuple(owners) for mac, owners in found.items()}


def network_of(network: Object, namespace: str) -> str:
    """`NAMESPACE/NAME` of the NetworkAttachmentDefinition of a VM's network, empty for the pod network."""
    name = (network.get("multus") or {}).get("networkName", "")
    return name if not name or "/" in name else f"{namespace}/{name}"


def _quota(item: Object) -> Quota:
    spec, status = item.get("spec") or {}, item.get("status") or {}
    scopes = [Scope(name) for name in spec.get("scopes") or []]
    for each in (spec.get("scopeSelector") or {}).get("matchExpressions") or []:
        scopes.append(Scope(each["scopeName"], each["operator"], tuple(each.get("values") or [])))
    return Quota(_amounts(spec.get("hard")), _amounts(status.get("used")), tuple(scopes))


def _limits(item: Object) -> tuple[Limit, ...]:
    rows = (item.get("spec") or {}).get("limits") or []
    fields = ("min", "max", "default", "maxLimitRequestRatio")
    return tuple(Limit(row["type"], *(_amounts(row.get(name)) for name in fields)) for row in rows)
