"""Memory and CPUs: vmi-create-admitter.go and pkg/liveupdate/memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from math import prod
from typing import Any

from migrate.target.admission.spec import GIB, MIB, Manifest, Number, Refusal, Spec, amount
from migrate.target.vocabulary import Target

# The machine types that each architecture has unless the administrator says otherwise: pkg/virt-config/virt-config.go.
MACHINES = {"amd64": ("q35*", "pc-q35*"), "arm64": ("virt*",), "s390x": ("s390-ccw-virtio*",)}
# The vCPUs that QEMU's machines hold, those that can be added among them: hw/i386/pc_q35.c, hw/arm/virt.c,
# hw/s390x/s390-virtio-ccw.c.
MOST_VCPUS = {"amd64": 4096, "arm64": 512, "s390x": 248}
# The CPU models that no node offers unless the administrator says otherwise, with -v1 or without:
# pkg/virt-handler/node-labeller/util/util.go.
OBSOLETE = re.compile(
    r"(486|pentium(2|3|pro)?|coreduo|n270|core2duo|Conroe|athlon|phenom|(qemu|kvm)(32|64)|Opteron_G[12])(-v1)?"
)
# More need an IOMMU, which libvirt adds by itself since 10.10, the one of KubeVirt 1.5.
VCPUS_WITHOUT_IOMMU = 255


def of_machine(every: Spec) -> Iterator[Refusal]:
    """The machine type, which has to be one of those that the architecture's setting allows."""
    kind = every.domain.get("machine", {}).get("type")
    own = [glob for arch, _, glob in (each.partition("/") for each in every.target.machines) if arch == every.arch]
    allowed = sorted(own) or MACHINES.get(every.arch, ())
    if kind and not any(fnmatchcase(kind, glob) for glob in allowed):
        because = f"KubeVirt refuses machine type {kind} on {every.arch}; allowed are {', '.join(allowed) or 'none'}."
        setting = f"architectureConfiguration.{every.arch}.emulatedMachines"
        remedy = f"Use one of those, or have the cluster's administrator add it to {setting} of the KubeVirt object."
        yield Refusal("domain.machine.type", "machine-type", because, remedy)


def of_memory(every: Spec) -> Iterator[Refusal]:
    """Guest memory, huge pages and the room to grow."""
    memory = every.domain.get("memory", {})
    resources = every.domain.get("resources", {})
    requested = amount(resources.get("requests", {}).get("memory")) or 0
    limit = amount(resources.get("limits", {}).get("memory")) or 0
    page = amount(memory.get("hugepages", {}).get("pageSize"))
    guest = amount(memory.get("guest"))
    if every.sized_elsewhere:
        # Before 1.7 nothing of the VM's memory can stand beside an instance type: applyMemory.
        whole = "domain.memory" if memory and not every.target.at_least("1.7") else "domain.memory.guest"
        for path, said in (
            (whole, guest is not None or whole == "domain.memory"),
            ("domain.resources.requests.memory", "memory" in resources.get("requests", {})),
            ("domain.resources.limits.memory", "memory" in resources.get("limits", {})),
        ):
            if said:
                because = f"KubeVirt refuses {path} together with an instance type, which gives the memory."
                yield Refusal(path, "memory-instancetype", because, "Keep one of them.")
        return
    # What the guest has where it does not say: pkg/defaults, setGuestMemory.
    guest = guest if guest is not None else requested or limit or page
    if guest is None or guest < 0:
        because = "A VM without memory does not start."
        yield Refusal("domain.memory.guest", "memory-missing", because, "Set the guest's memory.")
    elif not requested and 0 < guest < 10**6 and not every.live_update:
        because = "KubeVirt refuses memory below 1M."
        yield Refusal("domain.memory.guest", "resources", because, "Set the guest's memory.")
    if "hugepages" in memory:
        yield from _hugepages(memory["hugepages"].get("pageSize"), requested or guest or limit)
    if memory.get("maxGuest") is not None and every.live_update:
        yield from _max_guest(every, guest, amount(memory["maxGuest"]))
    if not every.live_update and guest and 0 < limit < guest:
        because = "KubeVirt refuses guest memory over the memory limit."
        yield Refusal("domain.memory.guest", "memory-limit", because, "Leave the limit out.")


def _hugepages(size: Any, memory: Number) -> Iterator[Refusal]:
    page = amount(size)
    if not page or page < 0:
        because = "KubeVirt refuses huge pages of a size that is no quantity."
        yield Refusal("domain.memory.hugepages.pageSize", "hugepages-size", because, "Use 2Mi or 1Gi.")
    elif memory and (memory < page or memory % page):
        because = f"KubeVirt refuses memory that is no multiple of its huge pages of {size}."
        yield Refusal("domain.memory.guest", "hugepages-multiple", because, "Use smaller pages or other memory.")


def _max_guest(every: Spec, guest: Number | None, most: Number | None) -> Iterator[Refusal]:
    """What pkg/liveupdate/memory asks of a VM that names the most memory it can grow to."""
    cpu, memory = every.domain.get("cpu", {}), every.domain.get("memory", {})
    block = GIB if memory.get("hugepages", {}).get("pageSize") == "1Gi" else 2 * MIB
    unfit = (
        "realtime" in cpu
        or "guestMappingPassthrough" in cpu.get("numa", {})
        or "launchSecurity" in every.domain
        or every.arch != "amd64"
    )
    if unfit or guest is None or most is None or guest > most or guest < GIB or guest % block or most % block:
        because = (
            "KubeVirt refuses maxGuest unless guest memory is at least 1 GiB, both are multiples of 2 MiB or of a "
            "1 GiB page, and the VM is an amd64 one without realtime, NUMA or memory encryption."
        )
        yield Refusal("domain.memory.maxGuest", "memory-max-guest", because, "Leave maxGuest out.")


def of_resources(every: Spec) -> Iterator[Refusal]:
    """Requests and limits."""
    resources = every.domain.get("resources", {})
    for name, least in (("cpu", 0), ("memory", 10**6)):
        path = f"domain.resources.requests.{name}"
        requested = amount(resources.get("requests", {}).get(name)) or 0
        limit = amount(resources.get("limits", {}).get(name)) or 0
        if requested < 0 or limit < 0 or 0 < requested < least:
            because = f"KubeVirt refuses {name} requests and limits below zero, and memory requests below 1M."
            yield Refusal(path, "resources", because, "Leave requests and limits to KubeVirt.")
        elif 0 < limit < requested:
            because = f"KubeVirt refuses a {name} request over its limit."
            yield Refusal(path, "resources", because, "Leave requests and limits to KubeVirt.")


def of_cpu(every: Spec) -> Iterator[Refusal]:
    """Model, sockets, dedicated CPUs, NUMA and realtime."""
    cpu = every.domain.get("cpu", {})
    model, obsolete = cpu.get("model", ""), every.target.obsolete
    if (model in obsolete) if obsolete else OBSOLETE.fullmatch(model):
        because = f"A VM with the CPU model {model} starts on no node: KubeVirt counts it as obsolete."
        remedy = "Use another model, or have the administrator take it from obsoleteCPUModels of the KubeVirt object."
        yield Refusal("domain.cpu.model", "cpu-obsolete", because, remedy)
    dedicated = cpu.get("dedicatedCpuPlacement")
    numa = "guestMappingPassthrough" in cpu.get("numa", {})
    if 0 < (cpu.get("maxSockets") or 0) < (cpu.get("sockets") or 0):
        because = "KubeVirt refuses more sockets than maxSockets."
        yield Refusal("domain.cpu.maxSockets", "cpu-max-sockets", because, "Set maxSockets to the sockets.")
    if every.sized_elsewhere:
        resources = every.domain.get("resources", {})
        paths = [f"domain.cpu.{name}" for name in ("sockets", "cores", "threads") if cpu.get(name)]
        paths += [f"domain.resources.{kind}.cpu" for kind in ("requests", "limits") if "cpu" in resources.get(kind, {})]
        for path in paths:
            because = f"KubeVirt refuses {path} together with an instance type, which gives the CPUs."
            yield Refusal(path, "cpu-instancetype", because, "Keep one of them.")
        return
    yield from _vcpus(every, cpu)
    if cpu.get("isolateEmulatorThread") and not dedicated:
        because = "KubeVirt refuses isolateEmulatorThread without dedicatedCpuPlacement."
        yield Refusal("domain.cpu.isolateEmulatorThread", "cpu-isolate", because, "Set dedicatedCpuPlacement too.")
    if numa and not (dedicated and "hugepages" in every.domain.get("memory", {})):
        because = "KubeVirt refuses NUMA passthrough without dedicatedCpuPlacement and huge pages."
        yield Refusal("domain.cpu.numa.guestMappingPassthrough", "cpu-numa", because, "Set both, or leave NUMA out.")
    if "realtime" in cpu and not (dedicated and numa):
        because = "KubeVirt refuses realtime without dedicatedCpuPlacement and NUMA passthrough."
        yield Refusal("domain.cpu.realtime", "cpu-realtime", because, "Set both, or leave realtime out.")
    features = [feature.get("name") for feature in cpu.get("features", [])]
    for name in sorted({name for name in features if name and features.count(name) > 1}):
        because = f"A VM that names the CPU feature {name} twice does not start."
        yield Refusal("domain.cpu.features", "cpu-feature-twice", because, "Keep one of them.")
    if dedicated:
        yield from _dedicated(every, cpu)


def _vcpus(every: Spec, cpu: Manifest) -> Iterator[Refusal]:
    """How many vCPUs the machine holds, and the room for more that arm64 does not have."""
    counts = [cpu.get(name) or 1 for name in ("sockets", "cores", "threads")]
    vcpus, room = prod(counts), cpu.get("maxSockets") or 0
    if every.arch == "arm64" and room and _falls_over_room(every, cpu, vcpus):
        because = "A VM on arm64 with such a maxSockets does not start before KubeVirt 1.9: nothing can be added there."
        yield Refusal("domain.cpu.maxSockets", "cpu-room-arm64", because, "Leave maxSockets out.")
    if every.arch != "arm64":
        vcpus = max(vcpus, prod((room, *counts[1:])))
    most = most_vcpus(every.arch, every.target)
    if most and vcpus > most:
        because = f"A VM with more than {most} vCPUs, those that can be added among them, does not start."
        remedy = "Use KubeVirt 1.5 or later, or fewer vCPUs." if most == VCPUS_WITHOUT_IOMMU else "Use fewer vCPUs."
        yield Refusal("domain.cpu.sockets", "cpu-count", because, remedy)


def most_vcpus(arch: str, target: Target) -> int | None:
    """The vCPUs with which a VM starts at most, those that can be added among them; None where nobody knows."""
    return VCPUS_WITHOUT_IOMMU if arch == "amd64" and not target.at_least("1.5") else MOST_VCPUS.get(arch)


def _falls_over_room(every: Spec, cpu: Manifest, vcpus: int) -> bool:
    """Whether room for vCPUs keeps an arm64 VM from starting: QEMU has no slots there, and virt-launcher no list."""
    if not every.target.at_least("1.5"):
        return vcpus > (cpu.get("cores") or 1) * (cpu.get("threads") or 1)
    return bool(cpu.get("dedicatedCpuPlacement")) and not every.target.at_least("1.9")


def pins_io_threads(target: Target) -> bool:
    """Whether virt-launcher can pin I/O threads to dedicated CPUs: 1.5 to 1.7 fall over it (vcpu.go)."""
    return target.at_least("1.8") or not target.at_least("1.5")


def _dedicated(every: Spec, cpu: Manifest) -> Iterator[Refusal]:
    """What dedicated CPUs ask for: whole CPUs that agree with each other, and at most two threads a core."""
    path = "domain.cpu.dedicatedCpuPlacement"
    threads = "ioThreadsPolicy" in every.domain or any(disk.get("dedicatedIOThread") for disk in every.disks)
    if threads and not pins_io_threads(every.target):
        because = "A VM with both dedicated CPUs and I/O threads does not start on KubeVirt 1.5 to 1.7."
        yield Refusal(path, "cpu-io-threads", because, "Use KubeVirt 1.8 or later, or leave the I/O threads out.")
    elif every.domain.get("ioThreadsPolicy") in ("shared", "auto") and not every.disks:
        # FormatDomainIOThreadPin of vcpu.go divides by the number of threads, of which there is one a disk.
        because = "A VM with dedicated CPUs and a policy for I/O threads does not start without a disk."
        yield Refusal("domain.ioThreadsPolicy", "cpu-io-threads", because, "Leave the policy out.")
    resources = every.domain.get("resources", {})
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    limit, request = (amount(each.get("cpu")) or 0 for each in (limits, requests))
    asked = [number for number in (limit, request) if number > 0]
    counts = [cpu.get(name) or 0 for name in ("sockets", "cores", "threads")]
    # Without a topology a VM has as many sockets as CPUs are asked for: pkg/defaults, SetDefaultGuestCPUTopology.
    vcpus = prod(max(count, 1) for count in counts) if any(counts) else asked[0] if asked else 1
    if counts[2] > (1 if every.arch == "arm64" else 2):
        because = "KubeVirt refuses dedicated CPUs with more than 2 threads a core, on arm64 more than 1."
        yield Refusal("domain.cpu.threads", "cpu-threads", because, "Use more cores instead of threads.")
    if any(number.denominator != 1 for number in asked) or len(set(asked)) > 1 or (asked and vcpus not in asked):
        because = "KubeVirt refuses dedicated CPUs whose requests and limits are not the number of vCPUs."
        yield Refusal(path, "cpu-dedicated", because, "Leave CPU requests and limits out.")
    memories = {amount(each.get("memory")) for each in (requests, limits)} - {None, 0}
    if len(memories) > 1:
        because = "KubeVirt refuses dedicated CPUs with a memory limit other than the request."
        yield Refusal(path, "cpu-dedicated", because, "Leave memory requests and limits out.")
