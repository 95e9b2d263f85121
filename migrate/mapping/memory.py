"""How much memory the guest has, how far it can grow, and in which pages the host keeps it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from migrate.mapping.paths import Leaf
from migrate.mapping.signs import Context, Sign, View, default, flag, ignore, write
from migrate.mapping.tuning import dedicated, told

# libvirt's prefixes (virScaleInteger), each 1024 times the last with `iB` or alone, 1000 times with `B`.
POWERS = "kmgtpe"
AMOUNT = re.compile(r"\s*\d{1,20}\s*")
# VIR_DOMAIN_MEMORY_PARAM_UNLIMITED
UNLIMITED_KIB = 2**53 - 1
MIB, GIB = 1024, 1024 * 1024
# KubeVirt's pkg/liveupdate/memory: what hot-plug needs, in KiB.
BLOCK, BLOCK_OF_1GI_PAGES, LEAST = 2 * MIB, GIB, GIB
# libvirt starts a guest with whole steps of these sizes (qemu_domain.c qemuDomainAlignMemorySizes).
STEP, MODULE_STEP = MIB, 2 * MIB
# Memory devices that the guest does not use as RAM.
NO_RAM = ("nvdimm", "virtio-pmem", "sgx-epc")
X86 = ("x86_64", "i686")
X86_PAGES = (2 * MIB, GIB)
ORDINARY_PAGE = 4
DEFAULT_PAGES = {"s390x": MIB}


@lru_cache(maxsize=10_000)
def kib(text: str, unit: str) -> int:
    """A memory amount in KiB, rounded up as libvirt does; ValueError says what is wrong with it."""
    if not AMOUNT.fullmatch(text):
        raise ValueError(f"{text!r} is no amount of memory")
    amount = -(-int(text) * _scale(unit.lower()) // 1024)
    if amount >= UNLIMITED_KIB:
        raise ValueError(f"{text} {unit} is more than libvirt takes")
    return amount


def _scale(unit: str) -> int:
    if unit in ("b", "byte", "bytes"):
        return 1
    power, rest = POWERS.find(unit[:1]) + 1, unit[1:]
    if not unit:
        return 1024
    if not power or rest not in ("", "ib", "b"):
        raise ValueError(f"{unit!r} is no unit of memory")
    return (1000 if rest == "b" else 1024) ** power


def quantity(amount: int) -> str:
    """An amount in KiB as an exact Kubernetes quantity in the largest unit that holds it."""
    for unit, size in (("Gi", GIB), ("Mi", MIB)):
        if amount and amount % size == 0:
            return f"{amount // size}{unit}"
    return f"{amount}Ki"


def total(view: View) -> int:
    """The guest's RAM in KiB: what libvirt boots it with and the modules plugged in, without what is no RAM.

    Where NUMA cells have memory they and the modules are all of it, whatever `<memory>` says (domain_postparse.c
    virDomainDefPostParseMemory). ValueError says what is wrong with an amount.
    """
    whole = kib(view.text("/memory", "0"), view.text("/memory.unit"))
    modules = [_module(view, leaf) for leaf in view.every("/devices.memory.model")]
    cells = [kib(leaf.value, view.others(leaf, "unit")) for leaf in view.every("/cpu.numa.cell.memory")]
    booted = max(whole - sum(size for size, _ in modules), 0)
    amount = sum(_up(cell, STEP) for cell in cells) or _up(booted, STEP)
    amount += sum(_up(size, MODULE_STEP) - unused for size, unused in modules)
    if amount <= 0:
        raise ValueError("the guest has no memory")
    return amount


def _up(amount: int, step: int) -> int:
    """An amount in whole steps, rounded up."""
    return -(-amount // step) * step


def _module(view: View, model: Leaf) -> tuple[int, int]:
    """The size of a memory device, and the part of it that the guest does not have as RAM."""
    size, requested = (
        kib(view.others(model, f"target.{name}") or "0", view.others(model, f"target.{name}.unit"))
        for name in ("size", "requested")
    )
    unused = _up(size, MODULE_STEP) if model.value in NO_RAM else size - requested if model.value == "virtio-mem" else 0
    return size, unused


def _coming(view: View) -> int:
    """What the virtio-mem devices of a running guest are asked to hold and do not hold yet, in KiB."""
    coming = 0
    for model in view.every("/devices.memory.model"):
        if held := view.others(model, "target.current"):
            asked = kib(view.others(model, "target.requested") or "0", view.others(model, "target.requested.unit"))
            coming += asked - kib(held, view.others(model, "target.current.unit"))
    return coming


def size(view: View, context: Context) -> Iterator[Sign]:
    """The memory that the guest starts with, and the most it can grow to."""
    if context.instancetype:
        yield flag(view.owned, "instancetype", told(view.owned))
        return
    own = [leaf for leaf in view.owned if leaf.pattern.startswith("memory")]
    limit = [leaf for leaf in view.owned if leaf.pattern.startswith("maxMemory")]
    try:
        guest = total(view)
        most = kib(view.text("maxMemory"), view.text("maxMemory.unit")) if limit else guest
    except ValueError as error:
        yield flag(view.owned, "unreadable", str(error))
        return
    yield write(own, "domain.memory.guest", quantity(guest))
    block = _block(view, context, guest)
    if not limit and block:
        because = "Without it KubeVirt gives the guest room to grow to four times its memory."
        yield write(own, "domain.memory.maxGuest", quantity(guest), because)
    elif limit and block:
        yield write(limit, "domain.memory.maxGuest", quantity(max(guest, most // block * block)))
        yield flag(limit, "virtio-mem", told(limit))
    elif limit:
        yield flag(limit, "fixed", told(limit))


def _block(view: View, context: Context, guest: int) -> int:
    """The step in KiB in which KubeVirt can plug memory into this guest, 0 where it cannot."""
    if context.arch not in X86 or passes_through(view, context) or view.text("/launchSecurity.type"):
        return 0
    block = BLOCK_OF_1GI_PAGES if page(view, context) == GIB else BLOCK
    return block if guest >= LEAST and guest % block == 0 else 0


def passes_through(view: View, context: Context) -> bool:
    """Whether KubeVirt can cut the guest's NUMA nodes like those of the cluster's node, which rules out hot-plug."""
    cells = len(view.every("/cpu.numa.cell.memory"))
    return cells > 1 and context.arch in X86 and page(view, context) > 0 and dedicated(view, context)


def allocation(view: View, context: Context) -> Iterator[Sign]:
    """When memory is taken: at once where NUMA nodes are passed through (converter/vcpu/vcpu.go), else when touched."""
    mode = view.owned[0].value
    if mode == ("immediate" if passes_through(view, context) else "ondemand"):
        yield default(view.owned, "KubeVirt takes memory so (converter/vcpu/vcpu.go and QEMU's default).")
    else:
        yield flag(view.owned, mode if mode in ("immediate", "ondemand") else "unknown")


def current(view: View, context: Context) -> Iterator[Sign]:
    """Whether the balloon takes memory from the guest at the source."""
    if context.instancetype:
        yield ignore(
            view.owned, "It is a part of the source's memory, and the instance type says how much there is now."
        )
        return
    try:
        now = kib(view.text("currentMemory"), view.text("currentMemory.unit"))
        all_of_it = total(view) - _coming(view)
    except ValueError as error:
        yield flag(view.owned, "unreadable", str(error))
        return
    if 0 < now < all_of_it:
        yield flag(view.owned, "ballooned", f"{quantity(now)} of {quantity(all_of_it)}")
    else:
        yield default(view.owned, "The guest starts with all of its memory (virt-launcher's MemoryConfigurator).")


def hugepages(view: View, context: Context) -> Iterator[Sign]:
    """The one size of huge pages that KubeVirt gives a guest."""
    if context.instancetype:
        yield flag(view.owned, "instancetype")
        return
    try:
        sizes, guest = _sizes(view, context), total(view)
    except ValueError as error:
        yield flag(view.owned, "unreadable", str(error))
        return
    if not sizes:
        yield default(
            view.owned, "Pages of the host's ordinary size, which a guest has anyway (libvirt, qemu_command.c)."
        )
        return
    chosen = min(sizes)
    if guest % chosen:
        yield flag(view.owned, "no-multiple", f"{quantity(guest)} in pages of {quantity(chosen)}")
    elif not page(view, context):
        yield flag(view.owned, "no-such-size", quantity(chosen))
    else:
        yield write(view.owned, "domain.memory.hugepages.pageSize", quantity(chosen))
        count = f"{guest // chosen} pages of {quantity(chosen)}"
        asked = told(leaf for leaf in view.owned if leaf.value)
        yield flag(view.owned, "mixed" if len(sizes) > 1 else "reserved", f"{count}; {asked}" if asked else count)


def page(view: View, context: Context) -> int:
    """The size in KiB of the huge pages that are written for this guest, 0 for none."""
    if context.instancetype:
        return 0
    try:
        chosen = min(_sizes(view, context), default=0)
        fits = chosen > 0 and total(view) % chosen == 0
    except ValueError:
        return 0
    return chosen if fits and (chosen in X86_PAGES or context.arch not in X86) else 0


def _sizes(view: View, context: Context) -> set[int]:
    """The sizes in KiB of all huge pages that the domain asks for; without a size the host's default is meant."""
    sizes = {kib(leaf.value, view.others(leaf, "unit")) for leaf in view.every("/memoryBacking.hugepages.page.size")}
    if view.leaf("/memoryBacking.hugepages"):
        sizes = {DEFAULT_PAGES.get(context.arch, 2 * MIB)}
    return {size for size in sizes if size > ORDINARY_PAGE}
