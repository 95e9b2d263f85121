"""Names by which tools above libvirt and their users know a VM, kept as annotations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from migrate.mapping.devices import old, uses_virtio
from migrate.mapping.signs import Context, Sign, View, flag, ignore, write
from migrate.site import Named

NOVA = {
    "nova:name": "openstack-name",
    "name": "openstack-flavor",
    "nova:project": "openstack-project",
}
# What Nova's scheduler and Placement read of properties: nova/scheduler/utils.py XS_KEYPAT (groups have a suffix), its
# filters, and of an image's nova/objects/image_meta.py, which has all `trait:` of the image as traits_required.
CONSTRAINTS = re.compile(
    r"(trait|resources)([\w-]{1,64})?:|aggregate_instance_extra_specs:|capabilities:|traits_required$|group_policy$",
    re.ASCII,
)

INSTANCETYPE, PREFERENCE = "VirtualMachine.spec.instancetype", "VirtualMachine.spec.preference"


def guest_os(view: View, context: Context) -> Iterator[Sign]:
    """The operating system's libosinfo id, and what the site file chooses by it."""
    yield write(view.owned[0], "VirtualMachine.metadata.annotations[kubevirt-migrate/os]", view.owned[0].value)
    if old(context) and uses_virtio(context):
        yield flag(view.owned[0], "old-virtio")
    for path, named, row in (
        (INSTANCETYPE, context.instancetype, "instancetype"),
        (PREFERENCE, context.preference, "preference"),
    ):
        if named:
            yield write(view.owned[0], path, _matcher(named))
            yield flag(view.owned[0], row, f"{named.kind} {named.name}")
    if view.owned[1:]:
        yield ignore(view.owned[1:], "The first operating system counts.")


def _matcher(named: Named) -> dict[str, str]:
    return {"kind": named.kind, "name": named.name}


def gained_instancetype(context: Context, writes: Mapping[str, Any]) -> dict[str, str] | None:
    """The instance type of a guest whose operating system is not known."""
    return _matcher(context.instancetype) if context.instancetype else None


def gained_preference(context: Context, writes: Mapping[str, Any]) -> dict[str, str] | None:
    """The preference of a guest whose operating system is not known."""
    return _matcher(context.preference) if context.preference else None


def constraints(view: View, context: Context) -> Iterator[Sign]:
    """Which properties of a flavour or image choose hosts, and which made something that stands in the domain."""
    names = {leaf.node: leaf.value for leaf in view.owned if leaf.attribute == "name"}
    demands = [leaf for leaf in view.owned if CONSTRAINTS.match(names.get(leaf.node, ""))]
    rest = [leaf for leaf in view.owned if leaf not in demands]
    if demands:
        yield flag(demands, "lost", ", ".join(names[leaf.node] for leaf in demands if leaf.attribute == "name"))
    if rest:
        yield ignore(rest, "Devices and settings that come of it stand in the domain itself.")


def nova(view: View, context: Context) -> Iterator[Sign]:
    """OpenStack's names of the instance, its flavour and its project."""
    seen = set()
    for leaf in view.owned:
        name = NOVA[leaf.pattern.rpartition(".")[2]]
        if name in seen:
            yield ignore(leaf, "The first name counts.")
            continue
        seen.add(name)
        yield write(leaf, f"VirtualMachine.metadata.annotations[kubevirt-migrate/{name}]", leaf.value)
