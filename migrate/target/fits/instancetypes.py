"""Instance types and preferences: whether they are there, and whether KubeVirt takes them together with the VM.

Facts are those of KubeVirt's pkg/instancetype.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod

from migrate.mapping.memory import kib
from migrate.target import admission, manifests
from migrate.target.admission.spec import amount
from migrate.target.fits import expansion
from migrate.target.fits.expansion import at
from migrate.target.fits.wanted import Misfit, Object, Wanted, instead
from migrate.target.quantity import human

INSTANCETYPE, PREFERENCE = "VirtualMachine.spec.instancetype", "VirtualMachine.spec.preference"
# What a preference's requirement counts of the VM's own topology, by what the preference makes of vCPUs.
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
            # Which of 1.4 and 1.5 take the VM was not seen; 1.6 does: pkg/instancetype/webhooks/vm/admitter.go.
            then = "so the VM never starts" if wanted.target.at_least("1.4") else "so it refuses the VM"
            because = f"The cluster has no {kind} {name}, {then}"
            because += instead((each.partition("/")[2] for each in known.within(inside)), name)
            yield Misfit(field, "blocker", path, f"{because}.", "Create it, or name another one in the site file.")


def conflicts(wanted: Wanted) -> Iterator[Misfit]:
    """What the instance type says as well as the VM, and vCPUs that cannot be spread as the preference says."""
    if not wanted.instancetype:
        return
    name = wanted.named("instancetype")[1]
    for theirs, ours in expansion.conflicts(wanted.vm, wanted.instancetype):
        because = f"The instance type {name} says {theirs}, and KubeVirt refuses a VM that says {ours} as well."
        remedy = f"Choose an instance type without {theirs}, or leave {ours} out of the VM."
        yield Misfit("instancetype-conflict", "blocker", ours, because, remedy)
    if whole := expansion.indivisible(wanted.instancetype, wanted.preference):
        because = (
            f"KubeVirt refuses the instance type {name} with the preference {wanted.named('preference')[1]}, which "
            f"spreads vCPUs: their number, {at(wanted.instancetype, 'cpu.guest')}, is no multiple of {whole}."
        )
        yield Misfit("instancetype-conflict", "blocker", INSTANCETYPE, because, "Choose others that fit each other.")


def sizes(wanted: Wanted) -> Iterator[Misfit]:
    """CPUs and memory of the instance type where they differ from the source's."""
    said = {entry.path: entry.value for entry in wanted.translation.entries}
    cpus, memory = at(wanted.instancetype, "cpu.guest"), amount(at(wanted.instancetype, "memory.guest"))
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
    name, needs = wanted.named("preference")[1], wanted.preference.get("requirements")
    if not needs or (wanted.named("instancetype")[1] and not wanted.instancetype):
        return
    counted = COUNTED["any"] if wanted.instancetype else _counted(wanted.preference)
    cpus, least = prod(wanted.domain.get("cpu", {}).get(part) or 1 for part in counted), at(needs, "cpu.guest")
    if least and cpus < least:
        because = (
            f"The preference {name} asks for {least} vCPUs ({', '.join(counted)}); KubeVirt refuses a VM with {cpus}."
        )
        remedy = "Choose another preference or none, or an instance type that has as many."
        yield Misfit("preference-requires", "blocker", PREFERENCE, because, remedy)
    memory = amount(wanted.domain.get("memory", {}).get("guest")) or 0
    if memory < (amount(at(needs, "memory.guest")) or 0):
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


def _counted(preference: Object) -> tuple[str, ...]:
    """The parts of the VM's topology that are counted."""
    kind = expansion.topology(preference)
    return COUNTED.get(expansion.spread(preference)[0] if kind == "spread" else kind, COUNTED["any"])


def refused(wanted: Wanted) -> Iterator[Misfit]:
    """What KubeVirt refuses, or cannot start, of the VM with what it is given, and would not of the VM alone."""
    if wanted.whole is wanted.vm:
        return
    alone = {(refusal.path, refusal.id) for refusal in admission.refusals(wanted.vm, [], wanted.target)}
    for refusal in admission.refusals(wanted.whole, [], wanted.target):
        if (refusal.path, refusal.id) not in alone:
            because = f"With {_givers(wanted)}: {refusal.because}"
            remedy = f"Choose another one in the site file. {refusal.remedy}"
            yield Misfit("expanded-refused", "blocker", refusal.path, because, remedy)


def gains(wanted: Wanted) -> Iterator[Misfit]:
    """What the VM is given that its manifest does not say."""
    templates = [vm.get("spec", {}).get("template", {}) for vm in (wanted.vm, wanted.whole)]
    given = [
        f"{path.removeprefix('spec.')}={value if isinstance(value, str) else json.dumps(value)}"
        for path, _, value in manifests.changes(*templates)
    ]
    if given:
        because = f"What is not in the manifest comes of {_givers(wanted)}: {', '.join(given)}."
        remedy = "Choose another one in the site file where the guest is not to have it."
        yield Misfit("expanded", "note", None, because, remedy)


def _givers(wanted: Wanted) -> str:
    """The instance type and the preference that were read, by name."""
    fields = (("instancetype", "instance type", wanted.instancetype), ("preference", "preference", wanted.preference))
    return " and ".join(f"the {word} {wanted.named(field)[1]}" for field, word, content in fields if content)
