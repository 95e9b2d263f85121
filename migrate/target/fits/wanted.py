"""What every check looks at: a VM as it is planned with its parts, and what does not fit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

from migrate.model import Severity, Translation
from migrate.target.admission.spec import amount
from migrate.target.cluster import CLUSTER_WIDE, Cluster, network_of
from migrate.target.fits import expansion
from migrate.target.vocabulary import Target

Object = dict[str, Any]


class Misfit(NamedTuple):
    """What does not fit: the name of the reason, how bad it is, the path it stands at, what happens, what to do."""

    id: str
    severity: Severity
    target: str | None
    because: str
    remedy: str


@dataclass(frozen=True)
class Wanted:
    """A VM and its claims, and the cluster that is to take them."""

    translation: Translation
    cluster: Cluster
    target: Target

    @property
    def vm(self) -> Object:
        """The manifest of the VM."""
        return self.translation.manifest

    @property
    def name(self) -> str:
        """The VM's name in the cluster."""
        return self.vm["metadata"]["name"]

    @property
    def namespace(self) -> str:
        """Where the VM and its claims go."""
        return self.vm["metadata"].get("namespace") or self.cluster.namespace

    @cached_property
    def whole(self) -> Object:
        """The VM with what its instance type and preference give it, as far as they are there and do not conflict."""
        conflict = self.instancetype and any(expansion.conflicts(self.vm, self.instancetype))
        if conflict or not (self.instancetype or self.preference):
            return self.vm
        return expansion.expanded(self.vm, self.instancetype, self.preference)

    @property
    def spec(self) -> Object:
        """The template's spec, with what is given."""
        return self.whole.get("spec", {}).get("template", {}).get("spec", {})

    def named(self, field: str) -> tuple[str, str, str]:
        """Kind, name and namespace of the `instancetype` or `preference`; without a kind they are the cluster's."""
        matcher = self.vm.get("spec", {}).get(field) or {}
        kind = matcher.get("kind") or CLUSTER_WIDE + field.capitalize()
        return kind, matcher.get("name", ""), "" if kind.startswith(CLUSTER_WIDE) else self.namespace

    @property
    def instancetype(self) -> Object:
        """What the VM's instance type says, empty where there is none or it was not read."""
        kind, name, inside = self.named("instancetype")
        return self.cluster.instancetypes.get(f"{kind}/{name}", inside) or {}

    @property
    def preference(self) -> Object:
        """What the VM's preference says, empty where there is none or it was not read."""
        kind, name, inside = self.named("preference")
        return self.cluster.preferences.get(f"{kind}/{name}", inside) or {}

    @property
    def domain(self) -> Object:
        """The domain of the spec."""
        return self.spec.get("domain", {})

    @property
    def devices(self) -> Object:
        """The devices of the domain."""
        return self.domain.get("devices", {})

    @property
    def networks(self) -> dict[str, str]:
        """The NetworkAttachmentDefinition of each network, `NAMESPACE/NAME`; empty for the pod network."""
        return {network["name"]: network_of(network, self.namespace) for network in self.spec.get("networks", [])}

    @property
    def claims(self) -> list[tuple[str, Object]]:
        """The claims with the names of their volumes."""
        volumes = {disk.claim: disk.name for disk in self.translation.disks}
        return [(volumes.get(claim["metadata"]["name"], ""), claim) for claim in self.translation.claims]

    @property
    def developer(self) -> Object:
        """How the cluster shares out CPUs and memory, with its feature gates."""
        return self.cluster.configuration.get("developerConfiguration") or {}


def size_of(claim: Object) -> Fraction:
    """The bytes that a claim asks for."""
    return amount(claim["spec"].get("resources", {}).get("requests", {}).get("storage")) or Fraction(0)


def instead(names: Iterable[str], wanted: str) -> str:
    """`; there is NAME, NAME` of what there is instead of a name, the nearest first."""
    there = sorted(names)
    shown = difflib.get_close_matches(wanted, there, n=3, cutoff=0.4) or there[:3]
    return f"; there is {', '.join(shown)}" if shown else "; there is none"
