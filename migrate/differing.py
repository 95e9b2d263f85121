"""What differs between a plan and what is in a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrate import journal as journals
from migrate import preflight
from migrate.planned import planned
from migrate.selection import Selection
from migrate.target import live, manifests
from migrate.target.live import ClusterTarget, Object

# What the API server itself writes.
OWN = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")
MARK = "diff"
CDI = "cdi.kubevirt.io/"


@dataclass(slots=True)
class Difference:
    """An object of the plan that is not there, or a field of it that is not as the plan has it."""

    vm: str
    object: str
    path: str | None = None
    there: Any = None
    planned: Any = None


def differences(
    folder: Path, cluster: ClusterTarget, select: Selection, namespace: str | None = None
) -> Iterator[Difference]:
    """What would change if the plan's manifests were applied again, as the API server says in a dry run."""
    made = {each.key: each for each in journals.objects(folder / journals.NAME, cluster.name)}
    for row in planned(folder, select):
        if row.verdict == "blocked":
            continue
        for manifest in preflight.carried(folder, row, namespace).objects:
            key = live.key_of(manifest)
            item = cluster.get(*key)
            if item is None:
                yield Difference(row.vm.folder, live.shown(key))
                continue
            mark = made[key].mark if key in made else MARK
            wanted = cluster.apply(manifest, mark, dry_run=True, force=True)
            for path, there, planned_value in manifests.changes(_content(item), _content(wanted)):
                yield Difference(row.vm.folder, live.shown(key), path, there, planned_value)


def _content(item: Object) -> Object:
    """An object without what the API server writes, what its controllers say of it, and how its claim was filled."""
    metadata = {name: value for name, value in item["metadata"].items() if name not in OWN}
    notes = metadata.get("annotations") or {}
    metadata["annotations"] = {name: value for name, value in notes.items() if not name.startswith(CDI)}
    return {**{name: value for name, value in item.items() if name != "status"}, "metadata": metadata}
