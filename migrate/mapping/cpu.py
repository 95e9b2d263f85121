"""How many vCPUs the guest has, in which sockets and cores, and of which model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from migrate.mapping.memory import X86
from migrate.mapping.signs import Context, Sign, View, default, flag, ignore, write
from migrate.mapping.tuning import told
from migrate.target.admission.compute import OBSOLETE, most_vcpus

# Models that QEMU does not have, or only in emulation, so no node offers them either.
GONE = re.compile(r"cpu64-rhel[56]|Icelake-Client(-noTSX)?|qemu|max|base")
# libvirt's src/cpu_map, but for those above.
KNOWN = re.compile(
    r"Penryn|(Nehalem|Westmere|SandyBridge|IvyBridge)(-IBRS)?|(Haswell|Broadwell)(-noTSX)?(-IBRS)?"
    r"|Skylake-(Client|Server)((-noTSX)?-IBRS)?|(Cascadelake|Icelake)-Server(-noTSX)?|Cooperlake|Snowridge"
    r"|SapphireRapids|GraniteRapids|SierraForest|ClearwaterForest|Denverton|KnightsMill|YongFeng"
    r"|Opteron_G[345]|EPYC(-IBPB|-Rome|-Milan|-Genoa|-Turin)?|Dhyana"
)
# libvirt's src/cpu_map; KubeVirt's converter/compute/cpu.go disables it.
WITH_MPX = re.compile(
    r"(Denverton|Skylake-(Client|Server)|(Cascadelake|Icelake)-Server|Icelake-Client)(-noTSX)?(-IBRS)?(-v\d+)?"
)
COUNT, VERSION = re.compile(r"\s*\d{1,9}\s*"), re.compile(r"-v\d+$")
VENDORS = ("Intel", "AMD", "Hygon")
VENDOR_LABEL = "nodeSelector[cpu-vendor.node.kubevirt.io/{}]"
# What a single vCPU is beyond being there from the start.
SINGLE = ("vcpus", "vcpus.vcpu.id", "vcpus.vcpu.order", "vcpus.vcpu.hotpluggable")
FIELDS = ("sockets", "cores", "threads")


def topology(view: View, context: Context) -> Iterator[Sign]:
    """Sockets, cores and threads that hold exactly the source's vCPUs, those that can be added among them."""
    if context.instancetype:
        yield flag(view.owned, "instancetype", told(view.owned))
        return
    try:
        most, now = _counts(view)
        counts = _shape(view, most)
    except ValueError as error:
        yield flag(view.owned, "unreadable", str(error))
        return
    plain = [leaf for leaf in view.owned if leaf.pattern in SINGLE]
    if plain:
        yield default(plain, "KubeVirt keeps the vCPUs of the first socket fixed and numbers them itself (cpu.go).")
    owned = [leaf for leaf in view.owned if leaf.pattern not in SINGLE]
    shape = [leaf for leaf in owned if leaf.pattern.startswith("cpu.topology.")] or owned
    _, dies, clusters, cores, _ = counts
    if dies * clusters > 1:
        yield flag(shape, "folded", f"{dies * clusters * cores} cores a socket")
    if _is_fixed(most, now, context):
        yield flag(owned, "fixed", f"up to {most}")
    elif prod(counts) != most:
        yield flag(shape, "mismatch", f"{most} vCPUs; {told(shape)}")
    begun = _begun(most, now, counts, context)
    vcpus, socket = prod(begun), prod(begun[1:])
    sockets = max(begun[0], min(most, _held(context, most)) // socket)
    for field, value in zip(FIELDS, begun, strict=True):
        yield write(owned, f"domain.cpu.{field}", value)
    # On arm64 KubeVirt leaves no room by itself, and before 1.9 a maximum keeps some guests from starting.
    if context.arch != "aarch64":
        yield write(owned, "domain.cpu.maxSockets", sockets)
        if sockets < most // socket:
            yield flag(owned, "room", f"up to {sockets * socket} of {most}")
    if vcpus != now:
        yield flag(owned, "rounded", f"{vcpus} for {now}")
    if vcpus < sockets * socket and not _is_fixed(most, now, context):
        yield flag(owned, "by-socket", f"up to {sockets * socket}")


def _held(context: Context, vcpus: int) -> int:
    """How many of the vCPUs the target's machine holds."""
    return most_vcpus("amd64" if context.arch in X86 else context.arch, context.target) or vcpus


def started(view: View, context: Context) -> int:
    """The vCPUs that the guest starts with as `topology` writes them; ValueError for counts that libvirt refuses."""
    most, now = _counts(view)
    return prod(_begun(most, now, _shape(view, most), context))


def _is_fixed(most: int, now: int, context: Context) -> bool:
    """Whether vCPUs that the guest could get later are none that KubeVirt adds: arch/arm64.go SupportCPUHotplug."""
    return context.arch == "aarch64" and now < most


def _begun(most: int, now: int, shape: tuple[int, ...], context: Context) -> tuple[int, int, int]:
    """Sockets, cores and threads that hold the vCPUs from the start: whole sockets, of which more can be added."""
    cores, threads = prod(shape[1:4]), shape[4]
    if _is_fixed(most, now, context):
        if now % (cores * threads):
            cores, threads = now, 1
    elif most % (cores * threads):
        cores, threads = 1, 1
    return -(-now // (cores * threads)), cores, threads


def _counts(view: View) -> tuple[int, int]:
    """The vCPUs that the guest can have, and those it starts with; ValueError for counts that libvirt refuses."""
    most = _number(view.text("/vcpu"))
    now = _number(view.text("/vcpu.current", view.text("/vcpu")))
    states = [leaf.value for leaf in view.every("/vcpus.vcpu.enabled")]
    if states:
        now = states.count("yes")
    if not 0 < now <= most:
        raise ValueError(f"{now} of {most} vCPUs")
    return most, now


def _shape(view: View, vcpus: int) -> tuple[int, ...]:
    """Sockets, dies, clusters, cores and threads; without a topology libvirt makes each vCPU a socket."""
    names = ("sockets", "dies", "clusters", "cores", "threads")
    given = [view.leaf(f"/cpu.topology.{name}") for name in names]
    if not any(given):
        return vcpus, 1, 1, 1, 1
    shape = tuple(_number(leaf.value) if leaf else 1 for leaf in given)
    if 0 in shape:
        raise ValueError("a topology with nothing in it")
    return shape


def _number(text: str) -> int:
    if not COUNT.fullmatch(text):
        raise ValueError(f"{text!r} is no count")
    return int(text)


def model(view: View, context: Context) -> Iterator[Sign]:
    """The CPU that the guest sees, or where no node offers that, the one that keeps it running."""
    named = view.text("cpu.model") or view.text("cpu.mode")
    if decided := context.site.cpu_model(named):
        yield write(view.owned, "domain.cpu.model", decided)
        if decided != named:
            yield flag(view.owned, "decided", named and f"{named} before")
        return
    chosen, row = _chosen(view.text("cpu.mode", "custom"), view.text("cpu.model"), context.arch)
    yield write(view.owned, "domain.cpu.model", chosen)
    if row:
        yield flag(view.owned, row)


def match(view: View, context: Context) -> Iterator[Sign]:
    """How close the node's CPU has to be to the model, where the VM has that."""
    (leaf,), named = view.owned, view.text("cpu.model")
    kept = context.site.cpu_model(named) or _chosen(view.text("cpu.mode", "custom"), named, context.arch)[0]
    if kept != named:
        yield ignore(leaf, "The VM has another CPU than the model, which the finding of the model says.")
    elif leaf.value == "exact":
        yield default(
            leaf,
            "The launcher asks for the model, which libvirt matches exactly by default (converter/compute/cpu.go).",
        )
    else:
        yield flag(leaf, leaf.value if leaf.value in ("minimum", "strict") else "otherwise")


def _chosen(mode: str, model: str, arch: str) -> tuple[str, str | None]:
    """KubeVirt's model for libvirt's mode and model, and what to say of it."""
    if arch == "aarch64":
        return "host-passthrough", "arm" if mode == "custom" and model else "of-the-node"
    if mode == "maximum":
        return "host-passthrough", mode
    if mode in ("host-model", "host-passthrough"):
        return mode, "of-the-node"
    if mode != "custom" or not model:
        return "host-model", "unnamed"
    plain = VERSION.sub("", model)
    if OBSOLETE.fullmatch(plain) or GONE.fullmatch(plain):
        return "host-model", "obsolete"
    if arch in X86 and not KNOWN.fullmatch(plain):
        return "host-model", "unknown-model"
    return model, None


def vendor(view: View, context: Context) -> Iterator[Sign]:
    """Nodes with CPUs of the vendor that the guest was made for."""
    name = view.text("cpu.vendor")
    if name in VENDORS:
        yield write(view.owned, VENDOR_LABEL.format(name), "true")
    else:
        yield flag(view.owned, "any-vendor")


def feature(view: View, context: Context) -> tuple[str, str] | None:
    """Stops a required feature of an architecture whose nodes have no labels of features."""
    stopped = context.arch == "aarch64" and view.text("policy", "require") == "require"
    return ("arm", view.text("name")) if stopped else None


def given_model(context: Context, writes: Mapping[str, Any]) -> str | None:
    """The model of a guest whose source names no CPU at all."""
    if "domain.cpu.model" in writes:
        return None
    return "host-passthrough" if context.arch == "aarch64" else "host-model"


def without_mpx(context: Context, writes: Mapping[str, Any]) -> str | None:
    """The feature that KubeVirt takes from a named model, where the domain says nothing of it itself."""
    model, features = writes.get("domain.cpu.model"), context.document.by_pattern.get("cpu.feature.name", ())
    named = context.arch in X86 and model is not None and WITH_MPX.fullmatch(model.value)
    return "mpx disable" if named and all(leaf.value != "mpx" for leaf in features) else None


def overcommit(context: Context, writes: Mapping[str, Any]) -> str | None:
    """What KubeVirt asks of the node for the vCPUs of a guest without dedicated CPUs: a tenth of a CPU each."""
    counts = [writes[path].value for field in FIELDS if (path := f"domain.cpu.{field}") in writes]
    if len(counts) < 3 or "domain.cpu.dedicatedCpuPlacement" in writes:
        return None
    return f"{100 * counts[0] * counts[1] * counts[2]}m"
