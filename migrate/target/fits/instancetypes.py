"""Instance types and preferences: whether they are there, and whether KubeVirt takes them together with the VM.

Facts are those of KubeVirt's pkg/instancetype.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from migrate.mapping.memory import kib
from migrate.target.admission.spec import amount
from migrate.target.fits.wanted import Misfit, Object, Wanted, instead
from migrate.target.quantity import human

INSTANCETYPE, PREFERENCE = "VirtualMachine.spec.instancetype", "VirtualMachine.spec.preference"
# What an instance type and the VM must not both say: where the one has it, and where the other.
EITHER = (
    ("cpu.model", "domain.cpu.model"),
    ("launchSecurity", "domain.launchSecurity"),
    ("gpus", "domain.devices.gpus"),
    ("hostDevices", "domain.devices.hostDevices"),
    ("nodeSelector", "nodeSelector"),
)
# What a preference's requirement counts of the VM's own topology, by the topology that it prefers.
COUNTED = {
    "cores": ("cores",),
    "sockets": ("sockets",),
    "threads": ("threads",),
    "any": ("sockets", "cores", "threads"),
    "SocketsCores": ("sockets", "cores"),
    "CoresThreads": ("cores", "threads"),
    "SocketsCoresThreads": ("sockets", "cores", "threads"),
}


def there(wanted: Wanted) -> Iterator[Misfit]:
    """Instance types and preferences that are not there; those without a kind are the cluster's."""
    for path, field, known in (
        (INSTANCETYPE, "instancetype", wanted.cluster.instancetypes),
        (PREFERENCE, "preference", wanted.cluster.preferences),
    ):
        kind, name, inside = wanted.named(field)
        if name and known.knows(inside) and not known.has(f"{kind}/{name}", inside):
            because = f"The cluster has no {kind} {name}, so it refuses the VM"
            because += instead((each.partition("/")[2] for each in known.within(inside)), name)
            yield Misfit(field, "blocker", path, f"{because}.", "Create it, or name another one in the site file.")


def conflicts(wanted: Wanted) -> Iterator[Misfit]:
    """What the instance type says as well as the VM."""
    for theirs, ours in EITHER:
        if _at(wanted.instancetype, theirs) and _at(wanted.spec, ours):
            name = wanted.named("instancetype")[1]
            because = f"The instance type {name} says {theirs}, and KubeVirt refuses a VM that says {ours} as well."
            remedy = f"Choose an instance type without {theirs}, or leave {ours} out of the VM."
            yield Misfit("instancetype-conflict", "blocker", ours, because, remedy)


def _at(found: Any, path: str) -> Any:
    """What stands at a path, empty where nothing does."""
    for name in path.split("."):
        found = found.get(name) or {}
    return found


def sizes(wanted: Wanted) -> Iterator[Misfit]:
    """CPUs and memory of the instance type where they differ from the source's."""
    said = {entry.path: entry.value for entry in wanted.translation.entries}
    cpus, memory = _at(wanted.instancetype, "cpu.guest"), amount(_at(wanted.instancetype, "memory.guest") or None)
    try:
        before = int(said["vcpu"]), kib(said["memory"], said.get("memory.unit", "")) * 1024
    except (KeyError, ValueError):
        return
    if cpus and memory and before[1] and before != (cpus, memory):
        because = (
            f"The instance type {wanted.named('instancetype')[1]} gives the guest {cpus} vCPUs and "
            f"{human(int(memory))} of memory; the source has {before[0]} and {human(before[1])}."
        )
        remedy = "Choose an instance type of the source's size where the guest needs it."
        yield Misfit("instancetype-size", "warning", INSTANCETYPE, because, remedy)


def requirements(wanted: Wanted) -> Iterator[Misfit]:
    """What the preference asks of the VM or of its instance type."""
    name, needs = wanted.named("preference")[1], _at(wanted.preference, "requirements")
    if not needs or (wanted.named("instancetype")[1] and not wanted.instancetype):
        return
    counted = ("sockets",) if wanted.instancetype else _counted(_at(wanted.preference, "cpu"))
    cpus, least = prod(wanted.domain.get("cpu", {}).get(part) or 1 for part in counted), _at(needs, "cpu.guest")
    if least and cpus < least:
        because = (
            f"The preference {name} asks for {least} vCPUs ({', '.join(counted)}); KubeVirt refuses a VM with {cpus}."
        )
        remedy = "Choose another preference or none, or an instance type that has as many."
        yield Misfit("preference-requires", "blocker", PREFERENCE, because, remedy)
    memory = amount(wanted.domain.get("memory", {}).get("guest")) or 0
    if memory < (amount(_at(needs, "memory.guest") or None) or 0):
        because = (
            f"The preference {name} asks for {needs['memory']['guest']} of memory, "
            f"and KubeVirt refuses a VM with {human(int(memory))}."
        )
        remedy = "Choose another preference or none, or an instance type that has as much."
        yield Misfit("preference-requires", "blocker", PREFERENCE, because, remedy)
    arch = needs.get("architecture")
    if arch and arch != wanted.spec.get("architecture"):
        because = f"The preference {name} is for {arch}, and KubeVirt refuses a VM of another architecture."
        yield Misfit("preference-requires", "blocker", PREFERENCE, because, "Choose another preference or none.")


def screens(wanted: Wanted) -> Iterator[Misfit]:
    """A graphics adapter that the preference gives a VM without a screen."""
    video = _at(wanted.preference, "devices.preferredVideoType")
    devices = wanted.domain.get("devices", {})
    if video and "video" not in devices and devices.get("autoattachGraphicsDevice") is False:
        because = (
            f"The preference {wanted.named('preference')[1]} gives the VM a graphics adapter ({video}), and KubeVirt "
            "refuses one for a VM without a screen."
        )
        remedy = "Choose another preference or none, or give the source domain a screen."
        path = "domain.devices.autoattachGraphicsDevice"
        yield Misfit("preference-conflict", "blocker", path, because, remedy)


def _counted(cpu: Object) -> tuple[str, ...]:
    """The parts of the topology that are counted; `preferCores` is the older name of `cores`."""
    prefers = cpu.get("preferredCPUTopology") or "sockets"
    prefers = prefers.removeprefix("prefer").lower()
    if prefers == "spread":
        prefers = (cpu.get("spreadOptions") or {}).get("across") or "SocketsCores"
    return COUNTED.get(prefers, COUNTED["any"])
