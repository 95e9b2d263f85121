"""What of a plan goes to a cluster, and whether the cluster as it is now takes it: asked before the first byte."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from migrate import sources, transfer
from migrate.model import PlannedDisk, Refused, Translation, Unfinished
from migrate.planned import PLAN, Planned
from migrate.target import admission, api, fits, live, vocabulary
from migrate.target import cluster as clusters
from migrate.target.live import ClusterTarget, Object, key_of
from migrate.target.vocabulary import Target, strict
from migrate.transfer import cdi_import

VM, CLAIM, VOLUME = "VirtualMachine", "PersistentVolumeClaim", "PersistentVolume"
FILES = ("claims.yaml", "vm.yaml")


@dataclass(slots=True)
class Carried:
    """One VM of a plan with its objects as they stand in the plan folder, the VM last."""

    row: Planned
    objects: list[Object]

    @property
    def machine(self) -> Object:
        """The manifest of the VM."""
        return self.objects[-1]

    @property
    def claims(self) -> list[Object]:
        """The manifests of its claims."""
        return [item for item in self.objects if item["kind"] == CLAIM]

    @property
    def volumes(self) -> list[Object]:
        """The manifests of the volumes of LUNs."""
        return [item for item in self.objects if item["kind"] == VOLUME]

    @property
    def others(self) -> list[Object]:
        """What is made of a manifest alone: all but the VM and the claims of disks with their volumes."""
        filled = {(CLAIM, disk.namespace, disk.claim) for disk in self.row.disks}
        filled |= {(VOLUME, "", disk.volume) for disk in self.row.disks}
        return [item for item in self.objects[:-1] if key_of(item) not in filled]


def carried(folder: Path, row: Planned, namespace: str | None) -> Carried:
    """A VM's manifests as they stand, in another `namespace` where one is given; Refused where one is none."""
    own = [item for name in FILES for item in _read(folder / row.vm.folder / name)]
    names = {disk.claim for disk in row.disks} | {disk.volume for disk in row.disks}
    shared = [item for item in _read(folder / FILES[0]) if item["metadata"]["name"] in names]
    machines = [item for item in own if item["kind"] == VM]
    if len(machines) != 1:
        raise Refused(f"{folder / row.vm.folder / FILES[1]}: holds {len(machines)} VirtualMachines: plan again")
    objects = [*shared, *(item for item in own if item["kind"] != VM), *machines]
    if namespace:
        for item in objects:
            named = item["spec"]["claimRef"] if item["kind"] == VOLUME else item["metadata"]
            named["namespace"] = namespace
        row.disks = [replace(disk, namespace=namespace) for disk in row.disks]
    return Carried(row, objects)


def _read(path: Path) -> list[Object]:
    """The objects of a YAML file, none where there is no file."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        found = list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; plan again") from None
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError):
        raise Refused(f"{path}: is not YAML any more: mend it, or plan again") from None
    items = [item for item in found if item is not None]
    for item in items:
        metadata = item.get("metadata") if isinstance(item, dict) else None
        named = isinstance(metadata, dict) and [item.get("kind"), metadata.get("name"), metadata.get("namespace", "")]
        if not (named and all(isinstance(text, str) for text in named) and metadata["name"]):
            raise Refused(f"{path}: holds what is no Kubernetes object: mend it, or plan again")
        api.kind_of(item["kind"])
    return items


def target_of(folder: Path, facts: clusters.Cluster) -> Target:
    """What is asked of the manifests: the cluster's KubeVirt, else the one that was planned for."""
    if facts.kubevirt is not None:
        return facts.target()
    planned = _document(folder / PLAN).get("target") or {}
    return vocabulary.target(str(planned.get("kubevirt")), ",".join(planned.get("featureGates") or []))


def problems(
    folder: Path, items: Iterable[Carried], cluster: ClusterTarget, ours: set[tuple[str, str, str]]
) -> dict[str, str]:
    """What keeps VMs out of the cluster as it is now, by their folders. Raises Unfinished where no disk can be sent.

    `ours` are the objects that the plan has made already, about which nothing is asked.
    """
    items = list(items)
    namespaces = [key_of(item.machine)[1] for item in items]
    facts = clusters.read(cluster.client, next(filter(None, namespaces), cluster.client.namespace))
    target, used, uploads = target_of(folder, facts), Counter(), False
    found: dict[str, str] = {}
    waived, ours = _waived(folder), set(ours)
    for item in items:
        if key_of(item.machine) in ours:
            continue
        methods = {disk.claim: _method(item, disk, cluster) for disk in item.row.disks}
        left = [each for each in item.objects if key_of(each) not in ours]
        made = [each for each in left if methods.get(each["metadata"]["name"]) != "adopt" or each["kind"] != CLAIM]
        translation = Translation(item.row.vm, [], manifest=item.machine, disks=item.row.disks)
        translation.claims = [each for each in made if each["kind"] == CLAIM]
        pulled = [disk for disk in item.row.disks if methods[disk.claim] == "cdi-import" and _is_left(disk.claim, left)]
        asked = [*made, *(cdi_import.volume(cluster, disk) for disk in pulled)]
        reason = next(_reasons(translation, item, asked, facts, target, used, cluster, waived), None)
        if reason:
            found[item.row.vm.folder] = reason
        else:
            sent = [claim for claim, name in methods.items() if name and name.startswith("cdi-upload")]
            uploads |= any(_is_left(claim, left) for claim in sent)
            # Claims that VMs share are asked about once.
            ours |= {key_of(each) for each in made}
    if uploads and (reason := cluster.proxy.unreachable()):
        raise Unfinished(reason)
    return found


def _waived(folder: Path) -> set[tuple[str, str]]:
    """The folders of VMs with the findings that are waived for them."""
    rows = _document(folder / "report.json").get("vms") or []
    found = ((vm.get("folder", ""), finding) for vm in rows for finding in vm.get("findings") or [])
    return {(name, finding.get("id", "")) for name, finding in found if finding.get("waived")}


def _document(path: Path) -> Object:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; plan again") from None
    except ValueError:
        raise Refused(f"{path}: is not JSON any more: plan again") from None
    return document if isinstance(document, dict) else {}


def _is_left(claim: str, left: list[Object]) -> bool:
    return any(each["kind"] == CLAIM and each["metadata"]["name"] == claim for each in left)


def _method(item: Carried, disk: PlannedDisk, cluster: ClusterTarget) -> str | None:
    vm = item.row.vm
    method, _ = transfer.chosen(disk, cluster, sources.source(vm.kind).unfit(vm, disk))
    return method and transfer.name_of(method)


def _reasons(
    translation: Translation,
    item: Carried,
    asked: list[Object],
    facts: clusters.Cluster,
    target: Target,
    used: fits.Used,
    cluster: ClusterTarget,
    waived: set[tuple[str, str]],
) -> Iterator[str]:
    """Why the cluster does not take the VM: the manifests, what they need and what is taken, and its own word."""
    folder, (_, namespace, name) = item.row.vm.folder, key_of(item.machine)
    for kind, place, claim in map(key_of, item.claims):
        if place != namespace:
            yield f"{kind} {claim} is in namespace {place} and its VM {name} in {namespace}: give both one, or use -n"
    for each in item.objects:
        if each["kind"] in vocabulary.API_VERSIONS:
            yield from (f"{live.shown(key_of(each))}: {problem}" for problem in strict(each, target))
    for refusal in admission.refusals(item.machine, item.claims, target):
        if (folder, f"admission/{refusal.id}") not in waived:
            yield f"{refusal.because} {refusal.remedy}"
    for misfit in fits.misfits(translation, facts, target, used):
        if misfit.severity == "blocker" and (folder, f"cluster/{misfit.id}") not in waived:
            yield f"{misfit.because} {misfit.remedy}"
    for each in asked:
        try:
            cluster.apply(each, DRY_RUN, dry_run=True)
        except Refused as refusal:
            yield f"{live.shown(key_of(each))}: {refusal}"


DRY_RUN = "dry-run"
