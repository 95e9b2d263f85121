"""What the source host grants the guest: CPUs of its own, shares and limits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from migrate.mapping.paths import Leaf, printable
from migrate.mapping.signs import Context, Sign, View, flag, ignore, write
from migrate.target.vocabulary import missing

DEDICATED = "domain.cpu.dedicatedCpuPlacement"
# KubeVirt refuses more with dedicated CPUs (validateThreadCountOnDedicatedCPUPlacement), and on arm64 more than one.
THREADS = {"aarch64": 1}
# libvirt's cgroup period in microseconds where none is given.
PERIOD = 100_000


def told(leaves: Iterable[Leaf]) -> str:
    """What some leaves say, below the first element of their paths, in at most 400 characters."""
    return printable(", ".join(f"{leaf.path.partition('.')[2] or leaf.path} {leaf.value}" for leaf in leaves), 400)


def cpus(text: str) -> set[int]:
    """The CPUs of a set such as `0-3,^2`; empty for text that is none."""
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\^?)(\d{1,5})(?:-(\d{1,5}))?", part)
        if not match:
            return set()
        numbers = set(range(int(match[2]), int(match[3] or match[2]) + 1))
        found = found - numbers if match[1] else found | numbers
    return found


def pins(view: View) -> dict[int, set[int]]:
    """The host CPUs that each vCPU is pinned to."""
    pinned = {}
    for leaf in view.every("/cputune.vcpupin.vcpu"):
        if leaf.value.isdecimal():
            pinned[int(leaf.value)] = cpus(view.others(leaf, "cpuset"))
    return pinned


def exclusive(view: View, context: Context) -> bool:
    """Whether the guest wants CPUs of its own, and KubeVirt has them for as many threads a core."""
    return one_each(view) and int(view.text("/cpu.topology.threads", "1")) <= THREADS.get(context.arch, 2)


def one_each(view: View) -> bool:
    """Whether each vCPU has one host CPU that no other vCPU has, so that the guest wants CPUs of its own."""
    pinned = pins(view)
    count, threads = view.text("/vcpu", "1"), view.text("/cpu.topology.threads", "1")
    if not (count.isdecimal() and threads.isdecimal()):
        return False
    own = set().union(*pinned.values())
    return 0 < int(count) == len(pinned) == len(own) and all(len(places) == 1 for places in pinned.values())


def dedicated(view: View, context: Context) -> bool:
    """Whether the guest gets CPUs of its own: it wants them, the target has them, and it is up to the VM."""
    return not context.instancetype and exclusive(view, context) and missing(DEDICATED, True, context.target) is None


def io_threads(view: View, context: Context) -> Iterator[Sign]:
    """Where the I/O threads run: vcpu.FormatDomainIOThreadPin pins those of a VM with dedicated CPUs."""
    yield flag(view.owned, "dedicated" if dedicated(view, context) else "lost", told(view.owned))


def vcpus(view: View, context: Context) -> Iterator[Sign]:
    """Dedicated CPUs for a guest whose vCPUs have one host CPU each."""
    if context.instancetype:
        yield flag(view.owned, "instancetype", told(view.owned))
    elif exclusive(view, context):
        yield write(view.owned, DEDICATED, True)
        if dedicated(view, context):
            yield flag(view.owned, "dedicated", told(view.owned))
    else:
        yield flag(view.owned, "threads" if one_each(view) else "floating", told(view.owned))


def emulator(view: View, context: Context) -> Iterator[Sign]:
    """A CPU for QEMU's own threads, where the source keeps them off the vCPUs' CPUs."""
    places = cpus(view.text("cputune.emulatorpin.cpuset"))
    if dedicated(view, context) and places and not places & set().union(*pins(view).values()):
        yield write(view.owned, "domain.cpu.isolateEmulatorThread", True)
        yield flag(view.owned, "isolated", told(view.owned))
    else:
        yield flag(view.owned, "floating", told(view.owned))


def quota(view: View, context: Context) -> Iterator[Sign]:
    """The CPU time that the guest is held to, as the limit that would hold it on Kubernetes."""
    limits = [leaf for leaf in view.owned if leaf.pattern.endswith("quota") and _number(leaf.value) > 0]
    if not limits:
        yield ignore(view.owned, "Periods without a quota limit nothing.")
        return
    quota = _number(view.text("cputune.quota"))
    share = quota / (_number(view.text("cputune.period")) or PERIOD)
    cores = share * _number(view.text("/vcpu", "1"))
    limit = f"; domain.resources.limits.cpu: {cores:.2f}" if quota > 0 else ""
    yield flag(view.owned, "unlimited", told(view.owned) + limit)


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"-?\d{1,20}", text) else 0


def blkio(view: View, context: Context) -> Iterator[Sign]:
    """Weights and limits of disk I/O on the host's devices."""
    throttled = any(leaf.pattern.endswith("_sec") for leaf in view.owned)
    yield flag(view.owned, "unlimited" if throttled else "unweighted", told(view.owned))


def resctrl(view: View, context: Context) -> Iterator[Sign]:
    """Shares of cache and bandwidth are lost; what only counts their use is the host's."""
    shared = {leaf.node.trail[1].path for leaf in view.owned if leaf.node.tag in ("cache", "node")}
    kept = [leaf for leaf in view.owned if leaf.node.trail[1].path not in shared or leaf.node.tag == "monitor"]
    taken = [leaf for leaf in view.owned if leaf not in kept]
    if taken:
        yield flag(taken, "lost", told(taken))
    if kept:
        yield ignore(kept, "It counts what the vCPUs use, for the source host's own statistics.")


def lost(view: View, context: Context) -> Iterator[Sign]:
    """One finding for all leaves of a setting that has no place on the cluster."""
    yield flag(view.owned, "lost", told(view.owned))


def gained_hint(context: Context, writes: Mapping[str, Any]) -> bool | None:
    """True where the VM has dedicated CPUs (converter/vcpu/vcpu.go AdjustDomainForTopologyAndCPUSet)."""
    return True if DEDICATED in writes else None
