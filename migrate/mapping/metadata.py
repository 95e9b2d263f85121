"""Names by which tools above libvirt and their users know a VM, kept as annotations."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.signs import Context, Sign, View, ignore, write

NOVA = {
    "nova:name": "openstack-name",
    "name": "openstack-flavor",
    "nova:project": "openstack-project",
}


def guest_os(view: View, context: Context) -> Iterator[Sign]:
    """The operating system's libosinfo id."""
    yield write(view.owned[0], "VirtualMachine.metadata.annotations[kubevirt-migrate/os]", view.owned[0].value)
    if view.owned[1:]:
        yield ignore(view.owned[1:], "The first operating system counts.")


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
