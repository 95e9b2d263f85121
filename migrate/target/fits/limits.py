"""What a namespace allows: the size of one thing (LimitRange) and the sum of all (ResourceQuota)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction

from migrate.target.admission.spec import amount
from migrate.target.cluster import Limit, Quota
from migrate.target.fits.nodes import beside_guest, path_of, requests, vcpus
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
# KubeVirt's automatic limit of memory, as a multiple of what the pod requests: renderresources.go.
AUTOMATIC = 2
LIMITED = {"PersistentVolumeClaim": "limit-claim", "Container": "limit-container", "Pod": "limit-pod"}


def ranges(wanted: Wanted) -> Iterator[Misfit]:
    """Limit ranges against the size of each claim, and against what the VM's pod asks for."""
    pod = requests(wanted)
    asked = [(kind, path_of(wanted, name), {name: pod[name]}) for name in pod for kind in ("Container", "Pod")]
    for volume, claim in wanted.claims:
        path = f"PersistentVolumeClaim[{volume}].spec.resources.requests.storage"
        asked.append(("PersistentVolumeClaim", path, {"storage": size_of(claim)}))
    for name, rows in wanted.cluster.limits.within(wanted.namespace).items():
        for limit in rows:
            for kind, path, amounts in asked:
                if kind == limit.type:
                    yield from _outside(name, limit, path, amounts)


def _outside(name: str, limit: Limit, path: str, asked: Amounts) -> Iterator[Misfit]:
    for resource, number in asked.items():
        least, most = limit.least.get(resource, NONE), limit.most.get(resource)
        if number < least or (most is not None and number > most):
            allowed = (
                f"less than {_shown(resource, least)}" if number < least else f"more than {_shown(resource, most)}"
            )
            because = f"Limit range {name} refuses a {limit.type} that asks for {allowed}; this one asks for "
            because += f"{_shown(resource, number)}."
            yield Misfit(LIMITED[limit.type], "blocker", path, because, "Have the limits of the namespace widened.")


def _shown(resource: str, number: Fraction | None) -> str:
    sized = resource.rpartition(".")[2] in ("memory", "storage") or "hugepages" in resource
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
    """Quotas on limits, which refuse a pod that has none; KubeVirt sets them where it has learned to."""
    for name, quota in there.items():
        for resource in sorted({"limits.cpu", "limits.memory"} & quota.hard.keys() - pod.keys()):
            because = f"Quota {name} refuses pods without {resource}, which KubeVirt {wanted.target.kubevirt} sets "
            because += "only with feature gate AutoResourceLimitsGate, so the VM never starts."
            remedy = "Have the gate switched on, or the quota changed."
            yield Misfit("quota-limits", "blocker", f"ResourceQuota[{name}].spec.hard[{resource}]", because, remedy)


def _objects(wanted: Wanted, claims: list[Object]) -> Amounts:
    """What the VM and those of its claims that no VM before it shares take of quotas as soon as they exist."""
    classes = wanted.cluster.storage_classes.within()
    default = next((name for name, is_default in classes.items() if is_default), None)
    found: Counter[str] = Counter({"count/virtualmachines.kubevirt.io": 1})
    for claim in claims:
        size, prefix = (
            size_of(claim),
            f"{claim['spec'].get('storageClassName') or default}.storageclass.storage.k8s.io/",
        )
        found.update({"persistentvolumeclaims": 1, "count/persistentvolumeclaims": 1, "requests.storage": size})
        found.update({f"{prefix}requests.storage": size, f"{prefix}persistentvolumeclaims": 1})
    return {name: Fraction(count) for name, count in found.items()}


def _pod(wanted: Wanted) -> Amounts:
    """What the running VM's pod takes of quotas."""
    asked = requests(wanted)
    plain = {name: number for name, number in asked.items() if name in ("cpu", "memory")}
    running = {f"requests.{name}": number for name, number in asked.items()}
    return {"pods": Fraction(1), "count/pods": Fraction(1), **plain, **running, **_limits(wanted, asked)}


def _limits(wanted: Wanted, asked: Amounts) -> Amounts:
    """The limits of the VM's pod: its own, or those that KubeVirt sets for the sake of quotas on them."""
    own = {name: amount(text) for name, text in wanted.domain.get("resources", {}).get("limits", {}).items()}
    found = {name: number for name, number in own.items() if number is not None and name in ("cpu", "memory")}
    if "memory" in found:
        found["memory"] += beside_guest(wanted)
    cpu = wanted.domain.get("cpu", {})
    if wanted.target.enabled("AutoResourceLimitsGate") and "memory" in asked:
        found = {"memory": asked["memory"] * AUTOMATIC, "cpu": Fraction(vcpus(cpu))} | found
    if cpu.get("dedicatedCpuPlacement") and "cpu" in asked:
        found["cpu"] = asked["cpu"]
    return {f"limits.{name}": number for name, number in found.items()}
