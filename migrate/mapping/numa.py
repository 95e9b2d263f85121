"""NUMA: the nodes that the guest sees, and those of the host that hold it."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.memory import passes_through
from migrate.mapping.signs import Context, Sign, View, default, flag, write
from migrate.mapping.tuning import told

DETAILS = ("distances", "interconnects", "cache")
BINDING = ("strict", "restrictive")


def guest(view: View, context: Context) -> Iterator[Sign]:
    """What becomes of the NUMA nodes that the guest sees."""
    details = [leaf for leaf in view.owned if any(part in leaf.pattern.split(".") for part in DETAILS)]
    cells = [leaf for leaf in view.owned if leaf not in details]
    if passes_through(view, context):
        yield write(view.owned, "domain.cpu.numa.guestMappingPassthrough", {})
        yield flag(view.owned, "of-the-node", told(view.owned))
    elif sum(leaf.pattern == "cpu.numa.cell.memory" for leaf in cells) > 1:
        yield flag(view.owned, "flattened", told(view.owned))
    else:
        if cells:
            yield default(cells, "The guest's memory is one NUMA node (virt-launcher's CPUDomainConfigurator).")
        if details:
            yield flag(details, "details", told(details))


def host(view: View, context: Context) -> Iterator[Sign]:
    """How tightly the guest's memory is tied to NUMA nodes of the source host."""
    modes = {leaf.value for leaf in view.owned if leaf.pattern.endswith(".mode")}
    if passes_through(view, context) and (not modes or modes & set(BINDING)):
        yield default(view.owned, "KubeVirt binds the memory to the node's NUMA nodes that its CPUs are of (vcpu.go).")
    elif modes & set(BINDING) or not modes:
        yield flag(view.owned, "unbound", told(view.owned))
    else:
        yield flag(view.owned, "unguided", told(view.owned))
