"""What a namespace allows: the size of one thing (LimitRange) and the sum of all (ResourceQuota)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import NamedTuple

from migrate.target.admission.spec import amount
from migrate.target.cluster import Limit, Namespace, Quota
from migrate.target.fits import expansion
from migrate.target.fits.nodes import beside_guest, path_of, requests, threads
from migrate.target.fits.storage import STATE, state_class, state_path
from migrate.target.fits.wanted import Misfit, Object, Wanted, size_of
from migrate.target.quantity import human

Amounts = Mapping[str, Fraction]
# What the VMs of a plan take, by namespace, quota and resource.
Used = Counter[tuple[str, str, str]]
NONE = Fraction(0)
# In the place of a quota's name, for claims that are counted already.
SHARED = ""
# The scopes that every VM's pod is in.
OF_VMS = ("NotTerminating", "NotBestEffort")
COMPUTING = ("cpu", "memory")
# What the VM's container asks for beside the VM's own requests: WithEphemeralStorageRequest there.
EPHEMERAL, OF_CONTAINER = "ephemeral-storage", Fraction(50 * 10**6)
# NICs that may have a sidecar, and the annotation that asks for others: pkg/network/netbinding, pkg/hooks.
SIDECARS = {"binding", "passt", "slirp"}
HOOKS = "hooks.kubevirt.io/hookSidecars"
LIMITED = {"PersistentVolumeClaim": "limit-claim", "Container": "limit-container", "Pod": "limit-pod"}


class Ask(NamedTuple):
    """How much of a resource is asked for, and what limits it may have, None for none; at what path of the VM."""

    path: str | None
    resource: str
    number: Fraction
    limits: Sequence[Fraction | None]


def ranges(wanted: Wanted) -> Iterator[Misfit]:
    """Limit ranges against the size of each claim, and against what the VM's container asks for and may take.

    Facts are those of Kubernetes' plugin/pkg/admission/limitranger. Of several defaults of one resource any may count,
    and the container has requests of its own, so that `defaultRequest` never counts.
    """
    rows = _rows(wanted)
    for volume, claim in wanted.claims:
        path, size = f"PersistentVolumeClaim[{volume}].spec.resources.requests.storage", size_of(claim)
        yield from _outside(rows, ("PersistentVolumeClaim",), Ask(path, "storage", size, [size]), True)
    yield from _state(wanted, rows)
    scratch = amount(expansion.at(wanted.domain, f"resources.requests.{EPHEMERAL}")) or NONE
    asked, alone = requests(wanted) | {EPHEMERAL: scratch + OF_CONTAINER}, _is_alone(wanted)
    own = _limits(wanted, asked, _automatic(wanted))
    for name, number in asked.items():
        limits: list[Fraction | None] = [own[name]] if name in own else [*sorted(_defaults(rows, name))] or [None]
        if name not in own and name in _perhaps_automatic(wanted):
            limits.append(_limits(wanted, asked, {name})[name])
        yield from _outside(rows, ("Container", "Pod"), Ask(path_of(wanted, name), name, number, limits), alone)


def _state(wanted: Wanted, rows: list[tuple[str, Limit]]) -> Iterator[Misfit]:
    """The rows that refuse the claim which KubeVirt makes for the VM's state.

    CDI may enlarge it to the least that a storage profile names (WebhookPvcRendering), so both sizes have to fail.
    """
    path = state_path(wanted)
    if path is None:
        return
    least = wanted.cluster.least_sizes.get(state_class(wanted) or "", STATE)
    asks = [Ask(path, "storage", size, [size]) for size in (STATE, max(STATE, least))]
    refused, enlarged = (list(_outside(rows, ("PersistentVolumeClaim",), ask, True)) for ask in asks)
    for misfit in refused if enlarged else []:
        because = f"{misfit.because} KubeVirt makes it for the VM's persistent state, so the VM never starts."
        yield misfit._replace(because=because)


def _rows(wanted: Wanted) -> list[tuple[str, Limit]]:
    """The rows of the namespace's limit ranges, with the names of those."""
    there = wanted.cluster.limits.within(wanted.namespace)
    return [(name, row) for name, limit_range in there.items() for row in limit_range]


def _defaults(rows: list[tuple[str, Limit]], resource: str) -> set[Fraction]:
    """The limits that limit ranges give a container which says none."""
    return {row.defaults[resource] for _, row in rows if row.type == "Container" and resource in row.defaults}


def _outside(rows: list[tuple[str, Limit]], types: tuple[str, ...], ask: Ask, alone: bool) -> Iterator[Misfit]:
    """The rows that refuse what is asked for, whichever of its limits it has."""
    for name, row in rows:
        if row.type not in types:
            continue
        reasons = [_refusal(row, ask, limit, alone or row.type != "Pod") for limit in ask.limits]
        if all(reasons):
            because = f"Limit range {name} {reasons[0]}."
            yield Misfit(LIMITED[row.type], "blocker", ask.path, because, "Have the limits of the namespace changed.")


def _refusal(row: Limit, ask: Ask, limit: Fraction | None, whole: bool) -> str | None:
    """What a limit range does to a request that has a limit; None where it takes them.

    What is not the `whole` pod has containers beside it, whose requests and limits are added (since Kubernetes 1.28).
    """
    resource, number, shown = ask.resource, ask.number, partial(_shown, ask.resource)
    least, most, ratio = row.least.get(resource, NONE), row.most.get(resource), row.ratios.get(resource)
    if whole and number < least:
        return f"refuses a {row.type} that asks for less than {shown(least)}; this one asks for {shown(number)}"
    if most is not None and number > most:
        return f"refuses a {row.type} that asks for more than {shown(most)}; this one asks for {shown(number)}"
    if limit is None:
        bound = (most is not None or ratio is not None) and (whole or resource not in COMPUTING)
        return f"refuses a {row.type} without a limit of {resource}, and KubeVirt sets none" if bound else None
    if resource in row.defaults and limit < number:
        given = shown(row.defaults[resource])
        because = f"and the API server refuses this one, which asks for {shown(number)}"
        return f"gives containers without a limit one of {given}, {because}"
    if most is not None and limit > most:
        return f"refuses a {row.type} with a limit of more than {shown(most)}; this one's is {shown(limit)}"
    if whole and ratio is not None and limit > ratio * number:
        kind = f"a {row.type} with a limit of {resource} over {float(ratio):g} times its request"
        return f"refuses {kind}; this one asks for {shown(number)} and has a limit of {shown(limit)}"
    return None


def _is_alone(wanted: Wanted) -> bool:
    """Whether the pod has no container but the VM's; all others have limits of CPUs and memory (template.go)."""
    devices, options = wanted.devices, wanted.cluster.configuration.get("virtualMachineOptions") or {}
    logs = devices.get("logSerialConsole", options.get("disableSerialConsoleLog") is None)
    return not (
        (logs and devices.get("autoattachSerialConsole") is not False)
        or devices.get("filesystems")
        or "kernelBoot" in wanted.domain.get("firmware", {})
        or any("containerDisk" in volume for volume in wanted.spec.get("volumes", []))
        or any(SIDECARS & nic.keys() for nic in devices.get("interfaces", []))
        or HOOKS in (expansion.at(wanted.whole, "spec.template.metadata.annotations") or {})
    )


def _automatic(wanted: Wanted) -> set[str]:
    """What KubeVirt sets limits of by itself: what the namespace's quotas limit."""
    hard = {name for quota in wanted.cluster.quotas.within(wanted.namespace).values() for name in quota.hard}
    learned = wanted.target.enabled("AutoResourceLimitsGate")
    return {name for name in COMPUTING if learned and f"limits.{name}" in hard}


def _perhaps_automatic(wanted: Wanted) -> set[str]:
    """What KubeVirt may set limits of: quotas may be unread, and the labels of namespaces are (template.go)."""
    unread = wanted.target.enabled("AutoResourceLimitsGate") and not wanted.cluster.quotas.knows(wanted.namespace)
    labelled = wanted.cluster.configuration.get("autoCPULimitNamespaceLabelSelector") is not None
    return {*(COMPUTING if unread else ()), *(["cpu"] if labelled else [])}


def _shown(resource: str, number: Fraction | None) -> str:
    sized = resource.rpartition(".")[2] in ("memory", "storage", EPHEMERAL) or "hugepages" in resource
    count = Fraction(number or 0)
    return f"{human(int(count)) if sized else f'{float(count):g}'} of {resource}"


def quotas(wanted: Wanted, used: Used, blocked: bool) -> Iterator[Misfit]:
    """Quotas over all VMs of the plan so far: what exists is refused beyond them, what runs waits until others stop.

    `used` grows by what this VM takes unless it is blocked.
    """
    inside = wanted.namespace
    there = {name: quota for name, quota in wanted.cluster.quotas.within(inside).items() if _is_for(quota, wanted)}
    claims = [claim for _, claim in wanted.claims if not used[inside, SHARED, claim["metadata"]["name"]]]
    objects, pod = _objects(wanted, claims), _pod(wanted)
    yield from _unlimited(wanted, there, pod)
    for name, quota in there.items():
        for resource, hard in quota.hard.items():
            asked = objects.get(resource) or pod.get(resource, NONE)
            taken = quota.used.get(resource, NONE) + used[inside, name, resource]
            if not asked or taken + asked <= hard:
                continue
            because = (
                f"Quota {name} of namespace {inside} allows {_shown(resource, hard)}; {_shown(resource, taken)} is "
            )
            because += f"taken with the VMs planned before, and this one asks for {_shown(resource, asked)}"
            path = f"ResourceQuota[{name}].spec.hard[{resource}]"
            if resource in pod and asked <= hard:
                because += ", so that they cannot all run at once."
                remedy = "Have the quota raised, or start them in turns."
                yield Misfit("quota-running", "warning", path, because, remedy)
                continue
            blocked = True
            remedy = "Have the quota raised, or plan fewer VMs into the namespace."
            yield Misfit("quota", "blocker", path, f"{because}.", remedy)
    if not blocked:
        used.update((inside, SHARED, claim["metadata"]["name"]) for claim in claims)
        for name, quota in there.items():
            for resource in quota.hard:
                used[inside, name, resource] += objects.get(resource) or pod.get(resource, NONE)


def _is_for(quota: Quota, wanted: Wanted) -> bool:
    """Whether a quota counts the VM: its pod has requests and no deadline, and perhaps a priority class."""
    priority = wanted.spec.get("priorityClassName") or ""
    return all(
        {
            "Exists": bool(priority),
            "DoesNotExist": not priority,
            "In": priority in scope.values,
            "NotIn": priority not in scope.values,
        }.get(scope.operator, False)
        if scope.name == "PriorityClass"
        else scope.name in OF_VMS
        for scope in quota.scopes
    )


def _unlimited(wanted: Wanted, there: Mapping[str, Quota], pod: Amounts) -> Iterator[Misfit]:
    """Quotas on limits, which refuse a pod that has none; limit ranges give them, and so does newer KubeVirt."""
    if not wanted.cluster.limits.knows(wanted.namespace):
        return
    given = {f"limits.{name}" for name in COMPUTING if _defaults(_rows(wanted), name)}
    for name, quota in there.items():
        for resource in sorted({"limits.cpu", "limits.memory"} & quota.hard.keys() - pod.keys() - given):
            because = f"Quota {name} refuses pods without {resource}, which KubeVirt {wanted.target.kubevirt} sets "
            because += "only with feature gate AutoResourceLimitsGate, so the VM never starts."
            remedy = "Have the gate switched on, or the quota changed."
            yield Misfit("quota-limits", "blocker", f"ResourceQuota[{name}].spec.hard[{resource}]", because, remedy)


def _objects(wanted: Wanted, claims: list[Object]) -> Amounts:
    """What the VM, its state and those of its claims that no VM before it shares take of quotas and keep.

    The claim of the state is made at the first start, and stays when the VM stops.
    """
    default = wanted.cluster.default_class
    sizes = [(size_of(claim), claim["spec"].get("storageClassName") or default) for claim in claims]
    sizes += [(STATE, state_class(wanted))] if state_path(wanted) else []
    found: Counter[str] = Counter({"count/virtualmachines.kubevirt.io": 1})
    for size, name in sizes:
        prefix = f"{name}.storageclass.storage.k8s.io/"
        found.update({"persistentvolumeclaims": 1, "count/persistentvolumeclaims": 1, "requests.storage": size})
        found.update({f"{prefix}requests.storage": size, f"{prefix}persistentvolumeclaims": 1})
    return {name: Fraction(count) for name, count in found.items()}


def _pod(wanted: Wanted) -> Amounts:
    """What the running VM's pod takes of quotas."""
    asked = requests(wanted)
    plain = {name: number for name, number in asked.items() if name in COMPUTING}
    running = {f"requests.{name}": number for name, number in asked.items()}
    limits = {f"limits.{name}": number for name, number in _limits(wanted, asked, _automatic(wanted)).items()}
    return {"pods": Fraction(1), "count/pods": Fraction(1), **plain, **running, **limits}


def _limits(wanted: Wanted, asked: Amounts, automatic: set[str]) -> dict[str, Fraction]:
    """The limits of the VM's container: those of devices and pages, its own, and what KubeVirt sets by itself."""
    beside = {"cpu": NONE, "memory": beside_guest(wanted), EPHEMERAL: OF_CONTAINER}
    own = {name: amount(text) for name, text in wanted.domain.get("resources", {}).get("limits", {}).items()}
    found = {name: number + beside[name] for name, number in own.items() if number is not None and name in beside}
    cpu = wanted.domain.get("cpu", {})
    if "memory" in asked:
        ratio = (wanted.cluster.namespaces.get(wanted.namespace) or Namespace()).memory_ratio
        sets = {"memory": asked["memory"] * ratio, "cpu": Fraction(threads(wanted))}
        found = {name: sets[name] for name in automatic} | found
    if cpu.get("dedicatedCpuPlacement"):
        found |= {name: asked[name] for name in COMPUTING if name in asked}
    return found | {name: number for name, number in asked.items() if name not in beside}
