"""Whether a VM fits a cluster: what is missing there, what is taken, and what no node or quota has room for."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.model import Translation
from migrate.target.cluster import Cluster
from migrate.target.fits import instancetypes, limits, nodes, objects, storage
from migrate.target.fits.limits import Used
from migrate.target.fits.wanted import Misfit, Wanted
from migrate.target.vocabulary import Target

__all__ = ["Misfit", "Used", "misfits"]

CHECKS = (
    objects.unread,
    objects.namespace,
    objects.names,
    objects.networks,
    objects.addresses,
    objects.bridges,
    objects.plugins,
    objects.host_devices,
    objects.screens,
    instancetypes.there,
    instancetypes.conflicts,
    instancetypes.sizes,
    instancetypes.requirements,
    instancetypes.refused,
    instancetypes.gains,
    storage.classes,
    storage.state,
    storage.uploads,
    storage.folders,
    limits.ranges,
    nodes.room,
)


def misfits(translation: Translation, cluster: Cluster, target: Target, used: Used) -> Iterator[Misfit]:
    """All that keeps a VM and its claims out of the cluster.

    `used` counts what earlier VMs of the plan take of each quota, and is added to unless this VM is blocked.
    """
    wanted = Wanted(translation, cluster, target)
    found = [misfit for check in CHECKS for misfit in check(wanted)]
    blocked = translation.verdict == "blocked" or any(misfit.severity == "blocker" for misfit in found)
    yield from found
    yield from limits.quotas(wanted, used, blocked)
