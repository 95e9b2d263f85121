"""The clock at power-on, and the timers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from migrate.mapping.memory import X86
from migrate.mapping.paths import Leaf
from migrate.mapping.signs import Context, Sign, View, default, flag, ignore, write

# IANA names have an area and a place; these few do not.
ZONE = re.compile(
    r"[A-Z][A-Za-z_]+(/[A-Z][A-Za-z0-9_+-]*){1,2}|UTC|GMT|EST5EDT|CST6CDT|MST7MDT|PST8PDT|CET|EET|MET|WET"
)
OFFSET_LIMIT = 2**31

# What libvirt reads beside the offset, by kind of clock.
READ = {
    "utc": ("adjustment",),
    "localtime": ("adjustment",),
    "timezone": ("timezone",),
    "variable": ("adjustment", "basis"),
    "absolute": ("start",),
}

# KubeVirt's timer and the tick policies it knows, by libvirt's name. libvirt's QEMU driver takes no others.
TIMERS = {
    "hpet": ("hpet", ("delay", "catchup", "merge", "discard")),
    "pit": ("pit", ("delay", "catchup", "discard")),
    "rtc": ("rtc", ("delay", "catchup")),
    "kvmclock": ("kvm", ()),
    "hypervclock": ("hyperv", ()),
}
TRACKS = ("guest", "wall")
PRESENT = {"yes": True, "no": False}


def offset(view: View, context: Context) -> Iterator[Sign]:
    """Where the clock starts; a number as the adjustment of utc or localtime makes it variable, as libvirt reads it."""
    kind, adjustment = view.text("clock.offset"), view.text("clock.adjustment")
    read = READ.get(kind)
    leaves = [leaf for leaf in view.owned if leaf.attribute in (None, "offset") or not read or leaf.attribute in read]
    unread = [leaf for leaf in view.owned if leaf not in leaves]
    if unread:
        yield ignore(unread, f"libvirt does not read it for a clock of offset {kind}.")
    basis = view.text("clock.basis", "utc")
    if kind in ("utc", "localtime"):
        basis, kind = kind, kind if adjustment in ("", "reset") else "variable"
    if kind == "timezone":
        yield from _zone(leaves, view.text("clock.timezone"), context.site.timezone, "zone")
    elif kind == "localtime" or (kind == "variable" and basis == "localtime"):
        yield from _zone(leaves, "", context.site.timezone, "localtime")
        if kind == "variable" and context.site.timezone and adjustment not in ("", "0"):
            yield flag(leaves, "local-adjusted")
    elif kind == "variable" and basis == "utc":
        yield from _adjusted(leaves, adjustment or "0")
    else:
        yield write(leaves, "domain.clock.utc", {})
        if kind != "utc":
            yield flag(leaves, "absolute" if kind == "absolute" else "unknown")


def _zone(leaves: list[Leaf], zone: str, site: str | None, row: str) -> Iterator[Sign]:
    if ZONE.fullmatch(zone):
        yield write(leaves, "domain.clock.timezone", zone)
    elif site:
        yield write(leaves, "domain.clock.timezone", site)
        if row == "zone":
            yield flag(leaves, "site-zone")
    else:
        yield write(leaves, "domain.clock.utc", {})
        yield flag(leaves, row)


def _adjusted(leaves: list[Leaf], adjustment: str) -> Iterator[Sign]:
    seconds = int(adjustment) if re.fullmatch(r"[+-]?\d{1,18}", adjustment) else OFFSET_LIMIT
    if not -OFFSET_LIMIT <= seconds < OFFSET_LIMIT:
        yield write(leaves, "domain.clock.utc", {})
        yield flag(leaves, "number")
        return
    yield write(leaves, "domain.clock.utc.offsetSeconds", seconds)
    if seconds:
        yield flag(leaves, "adjusted")


def timer(view: View, context: Context) -> Iterator[Sign]:
    """One timer: whether the guest has it, and what happens to ticks that come too late."""
    name = view.text("name")
    earlier = [leaf for leaf in view.every("/clock.timer.name") if leaf.node.index < view.node.index]
    if any(leaf.value == name for leaf in earlier):
        yield flag(view.owned, "twice")
        return
    if name == "tsc" and not view.leaf("frequency") and context.document.text("type") in ("kvm", "qemu"):
        yield default(view.owned, "Of this timer libvirt gives QEMU the frequency and nothing else (qemu_command.c).")
        return
    if name not in TIMERS:
        row = "tsc-fixed" if name == "tsc" and _invariant(view, context) else name
        yield flag(view.owned, row if row in ("tsc", "tsc-fixed", "armvtimer") else "unknown")
        return
    target, policies = TIMERS[name]
    path = f"domain.clock.timer.{target}"
    rest = {leaf.path: leaf for leaf in view.owned}
    present, policy, track = view.leaf("present"), view.leaf("tickpolicy"), view.leaf("track")
    if name == "hpet" and not (present and present.value == "no"):
        yield flag(view.owned, "hpet")
        return
    written: list[tuple[Leaf, str, str | bool]] = []
    if present and present.value in PRESENT:
        written.append((present, "present", PRESENT[present.value]))
    if policy and policy.value in policies:
        written.append((policy, "tickPolicy", policy.value))
    if track and name == "rtc" and track.value in TRACKS:
        written.append((track, "track", track.value))
    for leaf, field, value in written:
        yield write(rest.pop(leaf.path), f"{path}.{field}", value)
    yield from _remainder(rest.values(), bool(written))


def without_hpet(context: Context, writes: Mapping[str, Any]) -> str | None:
    """That the HPET goes which QEMU's own machines have, those of Red Hat not, where the domain says nothing of it."""
    said = any(leaf.value == "hpet" for leaf in context.document.by_pattern.get("clock.timer.name", ()))
    return None if said or "rhel" in context.machine else "hpet off"


def _invariant(view: View, context: Context) -> bool:
    """Whether KubeVirt fixes the counter's frequency because the VM asks for invtsc (watch/topology/tsc.go)."""
    features = [leaf for leaf in view.every("/cpu.feature.name") if leaf.value == "invtsc"]
    asked = any(view.others(leaf, "policy") in ("require", "force", "") for leaf in features)
    return asked and context.arch in X86


def _remainder(leaves: Iterable[Leaf], written: bool) -> Iterator[Sign]:
    named = [leaf for leaf in leaves if leaf.attribute == "name"]
    others = [leaf for leaf in leaves if leaf.attribute != "name"]
    says = (
        "It names the timer; its settings say the rest." if written else "Without settings the timer is QEMU's default."
    )
    yield default(named, f"{says} KubeVirt adds none (converter/compute/clock.go).")
    if others:
        yield flag(others, "setting")


def gained_tsc(context: Context, writes: Mapping[str, Any]) -> str | None:
    """What fixes the frequency of the time stamp counter: watch/topology/tsc.go GetTscFrequencyRequirement."""
    invtsc = writes.get("domain.cpu.features[invtsc].policy")
    asking = ["invtsc"] if invtsc and invtsc.value == "require" else []
    if "domain.features.hyperv.reenlightenment.enabled" in writes:
        asking.append("reenlightenment")
    return " and ".join(asking) or None
