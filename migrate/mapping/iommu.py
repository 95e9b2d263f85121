"""Virtual IOMMUs, which KubeVirt has no field for."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.memory import X86
from migrate.mapping.signs import Context, Sign, View, flag

# libvirt src/qemu/qemu_validate.c, QEMU_MAX_VCPUS_WITHOUT_EIM.
WITHOUT_EIM = 255


def iommu(view: View, context: Context) -> Iterator[Sign]:
    """What is left of the IOMMU."""
    if not many(view, context):
        yield flag(view.owned, "lost")
    else:
        yield flag(view.owned, "added" if added(view, context) else "refused")


def many(view: View, context: Context) -> bool:
    """Whether the guest has so many vCPUs that libvirt starts it with an IOMMU's extended interrupt mode only."""
    count = view.text("/vcpu", "1")
    return context.arch in X86 and not context.instancetype and count.isdecimal() and int(count) > WITHOUT_EIM


def added(view: View, context: Context) -> bool:
    """Whether libvirt gives the guest an IOMMU by itself, as it does since 10.10, which KubeVirt has since 1.5."""
    return many(view, context) and context.target.at_least("1.5")
