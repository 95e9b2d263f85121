"""What a namespace allows: the size of one thing (LimitRange) and the sum of all (ResourceQuota)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction

from migrate.target.cluster import Limit
from migrate.target.fits.nodes import path_of, requests
from migrate.target.fits.wanted import Misfit, Wanted, size_of
from migrate.target.quantity import human

Amounts = Mapping[str, Fraction]
# What the VMs of a plan take, by namespace, quota and resource.
Used = Counter[tuple[str, str, str]]
NONE = Fraction(0)
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
    there = wanted.cluster.quotas.within(inside)
    objects, pod = _objects(wanted), _pod(wanted)
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
        for name, quota in there.items():
            for resource in quota.hard:
                used[inside, name, resource] += objects.get(resource) or pod.get(resource, NONE)


def _objects(wanted: Wanted) -> Amounts:
    """What the VM and its claims take of quotas as soon as they exist."""
    classes = wanted.cluster.storage_classes.within()
    default = next((name for name, is_default in classes.items() if is_default), None)
    found: Counter[str] = Counter({"count/virtualmachines.kubevirt.io": 1})
    for _, claim in wanted.claims:
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
    return {"pods": Fraction(1), "count/pods": Fraction(1), **plain, **running}
