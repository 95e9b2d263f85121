"""A cluster that a plan is carried out on: its objects read, made, waited for and removed, one call a function.

What the plan made has its labels, and its uid stands in the journal: nothing else is changed or removed.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from migrate.model import Refused, Unfinished
from migrate.target import api
from migrate.target.api import FIELD_MANAGER, Object
from migrate.target.proxy import Proxy

if TYPE_CHECKING:
    from lightkube import Client

    from migrate.journal import Journal, Made

T = TypeVar("T")
MANAGED_BY = "app.kubernetes.io/managed-by"
MARK = "kubevirt-migrate/plan"
PATIENCE = 300.0
LOOKS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Late(Unfinished):
    """What was waited for has not come in time."""


@dataclass
class ClusterTarget:
    """A cluster as a target.

    `worker_image` is the image of the Jobs that read claims back, None where none may run; `proxy_url` is that of CDI's
    upload proxy where CDI does not say it. `claims` are the manifests of the plan's claims and volumes by namespace
    and name. `patience` is how many seconds are waited for what should come at once; `pause` waits.
    """

    client: Client
    worker_image: str | None = None
    proxy_url: str | None = None
    claims: dict[tuple[str, str], Object] = field(default_factory=dict)
    patience: float = PATIENCE
    pause: Callable[[float], object] = time.sleep

    @property
    def context(self) -> str:
        """The name of the context that leads to the cluster."""
        return self.client.config.context_name

    @cached_property
    def name(self) -> str:
        """What the journal calls this target: the same for all contexts of one cluster that may see its uid."""
        try:
            system = self.get("Namespace", "", "kube-system")
        except api.Forbidden:
            system = None
        return f"cluster:{system['metadata']['uid'] if system else self.client.config.cluster.server}"

    @cached_property
    def proxy(self) -> Proxy:
        """CDI's upload proxy; Refused where nobody says where it is."""
        return Proxy.of(self.get("CDIConfig", "", "config"), self.proxy_url)

    def check_command(self, plan: Path) -> str:
        """The command that reads this plan's claims again."""
        image = ["--worker-image", self.worker_image] if self.worker_image else []
        return shlex.join(["kubevirt-migrate", "verify", str(plan), "--context", self.context, *image])

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object as it is, None where there is none."""
        found = self._ask(lambda: self.client.get(api.kind_of(kind), name, **_within(namespace)), missing=True)
        return found and found.to_dict()

    def labelled(self, kind: str, namespace: str, labels: dict[str, str]) -> list[Object]:
        """The objects of a namespace that have these labels."""
        found = self._ask(lambda: list(self.client.list(api.kind_of(kind), namespace=namespace, labels=labels)))
        return [item.to_dict() for item in found]

    def apply(self, manifest: Object, mark: str, *, dry_run: bool = False, force: bool = False) -> Object:
        """Applies an object as the plan of this mark, and gives it back as the cluster has it.

        Each plan is a field manager of its own, so that two of them that make one object conflict.
        """
        resource = api.kind_of(manifest["kind"]).from_dict(marked(manifest, mark))
        manager = f"{FIELD_MANAGER}-{mark}"
        return self._ask(
            lambda: self.client.apply(resource, field_manager=manager, dry_run=dry_run, force=force)
        ).to_dict()

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Removes an object with what belongs to it; one that is gone is no failure."""
        from lightkube.types import CascadeType

        self._ask(
            lambda: self.client.delete(api.kind_of(kind), name, cascade=CascadeType.BACKGROUND, **_within(namespace)),
            missing=True,
        )

    def create(self, resource: Any, namespace: str) -> Object:
        """Creates what leaves nothing behind in the cluster, such as a request for a token."""
        return self._ask(lambda: self.client.create(resource, namespace=namespace)).to_dict()

    def log(self, namespace: str, pod: str) -> Iterator[str]:
        """The lines that a pod printed, without their ends; Refused or Unfinished where they cannot be read."""
        yield from self._ask(lambda: list(self.client.log(pod, namespace=namespace, newlines=False)))

    def wait(self, look: Callable[[], T | None], what: Callable[[], str], patience: float | None = None) -> T:
        """Looks until there is something; Late, saying `what` is missing, when the patience is over."""
        end = time.monotonic() + (self.patience if patience is None else patience)
        looks = 0
        while (found := look()) is None:
            if time.monotonic() > end:
                raise Late(f"{what()}; run again")
            self.pause(LOOKS[min(looks, len(LOOKS) - 1)])
            looks += 1
        return found

    def _ask(self, call: Callable[[], Any], *, missing: bool = False) -> Any:
        """What a call answers, with `missing` None where the object is not there; else Refused or Unfinished."""
        import httpx2
        from lightkube.core.exceptions import ConfigError

        try:
            return api.answered(call, self.pause)
        except httpx2.HTTPError as error:
            if missing and getattr(getattr(error, "response", None), "status_code", None) == 404:
                return None
            raise api.failure(self.context, error) from None
        except ConfigError as error:
            raise Refused(f"context {self.context}: the login failed: {error}") from None


def _within(namespace: str) -> dict[str, str]:
    return {"namespace": namespace} if namespace else {}


def marked(manifest: Object, mark: str) -> Object:
    """A manifest with the labels of what a plan makes."""
    metadata = manifest["metadata"]
    labels = {**(metadata.get("labels") or {}), MANAGED_BY: FIELD_MANAGER, MARK: mark}
    return {**manifest, "metadata": {**metadata, "labels": labels}}


def label(item: Object) -> str:
    """The mark of the plan that made an object, or nothing."""
    return (item["metadata"].get("labels") or {}).get(MARK, "")


def key_of(manifest: Object) -> tuple[str, str, str]:
    """Kind, namespace and name of an object."""
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace") or "", metadata["name"]


def shown(key: tuple[str, str, str]) -> str:
    """Kind, namespace and name as people read them."""
    return f"{key[0]} {'/'.join(filter(None, key[1:]))}"


def is_ours(item: Object, made: Made | None) -> bool:
    """Whether an object is the one that the journal has, and still says so itself."""
    if made is None or label(item) != made.mark:
        return False
    return made.uid in (None, item["metadata"]["uid"])


def make(cluster: ClusterTarget, journal: Journal, vm: str, manifest: Object) -> Object:
    """An object of the plan as the cluster has it: made, or there from an earlier run; one of others is Refused."""
    key = key_of(manifest)
    made = journal.made(cluster.name, key)
    item = cluster.get(*key)
    if item is None:
        made = journal.make(cluster.name, vm, key)
        item = cluster.apply(manifest, made.mark)
        if others := _managers(item) - {f"{FIELD_MANAGER}-{made.mark}"}:
            raise Refused(f"{shown(key)} was made by {', '.join(sorted(others))} at the same moment: see whose it is")
    elif not is_ours(item, made):
        raise Refused(
            f"{shown(key)} is there and is not the work of this plan: remove it if nothing needs it, or plan into "
            f"another namespace"
        )
    if made.uid is None:
        journal.exists(cluster.name, made, item["metadata"]["uid"])
    return item


def _managers(item: Object) -> set[str]:
    return {field.get("manager", "") for field in item["metadata"].get("managedFields") or []}


def remove(cluster: ClusterTarget, journal: Journal, made: Made) -> bool:
    """Removes an object that the plan made, and waits for its end; whether it was there and is left as not ours."""
    item = cluster.get(*made.key)
    if item is not None:
        if not is_ours(item, made):
            return True
        cluster.delete(*made.key)
        uid = item["metadata"]["uid"]

        def gone() -> bool | None:
            there = cluster.get(*made.key)
            return True if there is None or there["metadata"]["uid"] != uid else None

        cluster.wait(gone, lambda: f"{shown(made.key)} is being removed and still there: see what uses it")
    journal.remove(cluster.name, made)
    return False


def started(cluster: ClusterTarget, namespace: str, name: str) -> str | None:
    """Why a VM has to be taken for one that has run, None where it certainly has not."""
    vm = cluster.get("VirtualMachine", namespace, name)
    if cluster.get("VirtualMachineInstance", namespace, name):
        return "it runs, or has just run"
    if vm is None:
        return "it is gone, so nobody knows whether it has run"
    spec, status = vm.get("spec") or {}, vm.get("status") or {}
    if spec.get("runStrategy") != "Halted":
        return "it is not halted"
    if status.get("created") or status.get("ready") or status.get("stateChangeRequests"):
        return "it starts or runs"
    # What starts a VM changes its spec, or leaves a revision of it (pkg/virt-controller/watch/vm/vm.go).
    own = f"{FIELD_MANAGER}-{label(vm)}"
    changed = [field for field in vm["metadata"].get("managedFields") or [] if "f:spec" in field.get("fieldsV1", {})]
    if any(field.get("manager") != own for field in changed):
        return "it was changed since it was made, as by a start"
    revisions = cluster.labelled("ControllerRevision", namespace, {})
    if any(item["metadata"]["name"].startswith(f"revision-start-vm-{vm['metadata']['uid']}") for item in revisions):
        return "it has run"
    return None
