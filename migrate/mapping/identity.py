"""Who the VM is: its names, its uuid, where it comes from, and which hypervisor it was made for."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Iterator, Mapping
from typing import Any

from migrate.mapping.signs import Context, Sign, View, default, flag, ignore, write

ANNOTATION = "VirtualMachine.metadata.annotations[kubevirt-migrate/{}]"
# Kubernetes takes 256 KiB for all annotations of an object, kubectl's copy of the whole object among them.
PROSE = 1000
OTHER_HYPERVISORS = ("xen", "vmware", "vbox", "hyperv", "bhyve", "vz", "hvf")
CONTAINERS = ("lxc", "openvz", "uml")


def name(view: View, context: Context) -> Iterator[Sign]:
    """The folder's name as the object's, and the source's own name as an annotation."""
    yield write(view.owned, "VirtualMachine.metadata.name", context.vm.folder)
    yield write(view.owned, ANNOTATION.format("name"), view.text("name"))


def uuid(view: View, context: Context) -> Iterator[Sign]:
    """The uuid that the guest sees, and the source's own one as an annotation, both in canonical form."""
    for leaf in view.owned:
        if leaf.implied and view.leaf("hwuuid"):
            yield ignore(leaf, "The guest sees the hwuuid, and the uuid is libvirt's own.")
            continue
        if leaf.implied:
            yield flag(leaf, "new")
            continue
        try:
            text = str(uuids.UUID(leaf.value.strip()))
        except ValueError:
            yield flag(leaf, "invalid")
            continue
        if leaf.pattern == "hwuuid" or not view.leaf("hwuuid"):
            yield write(leaf, "domain.firmware.uuid", text)
        if leaf.pattern == "uuid":
            yield write(leaf, ANNOTATION.format("uuid"), text)


def prose(view: View, context: Context) -> Iterator[Sign]:
    """Title and description as annotations of the same names, cut to 1000 characters."""
    for leaf in view.owned:
        yield write(leaf, ANNOTATION.format(leaf.pattern), leaf.value[:PROSE])
        if len(leaf.value) > PROSE:
            yield flag(leaf, "cut", f"{len(leaf.value)} characters")


def hypervisor(view: View, context: Context) -> Iterator[Sign]:
    """What running under KVM means for a domain of this type."""
    kind, system = view.text("type"), view.text("/os.type", "hvm")
    if kind in CONTAINERS or system in ("exe", "uml"):
        yield flag(view.owned, "container")
    elif system in ("xen", "linux", "xenpvh"):
        yield flag(view.owned, "paravirtual")
    elif kind in OTHER_HYPERVISORS:
        yield flag(view.owned, "hypervisor", kind)
    elif kind in ("qemu", "kqemu"):
        yield flag(view.owned, "emulated")
    elif kind == "test":
        yield flag(view.owned, "trial")
    elif kind == "kvm":
        yield default(view.owned, "KubeVirt runs guests with KVM (virt-launcher's converter, domain type kvm).")
    else:
        yield flag(view.owned, "foreign", kind)


def namespace(context: Context, writes: Mapping[str, Any]) -> str:
    """The namespace that the site chose, or the default."""
    return context.site.namespace


def run_strategy(context: Context, writes: Mapping[str, Any]) -> str:
    """When the VM runs, as the site chose."""
    return context.site.run_strategy


def source(context: Context, writes: Mapping[str, Any]) -> str:
    """The canonical URI of where the VM came from."""
    return context.vm.source


def host(context: Context, writes: Mapping[str, Any]) -> str | None:
    """The name of the source host, where there is one."""
    return context.vm.host or None
