"""A double of virt-controller: what it says of virtual machines that are halted or run. No guest runs."""

from __future__ import annotations

from cluster.wire import Events, Object, overtaken
from lightkube.types import PatchType

from migrate.target import api

FINALIZER = "kubevirt.io/virtualMachineControllerFinalize"
OBSERVED = {"kubevirt.io/latest-observed-api-version": "v1", "kubevirt.io/storage-observed-api-version": "v1"}


class Controller:
    def __init__(self, events: Events) -> None:
        self.client = events.client
        kinds = api.kinds()
        self.machines, self.instances = kinds["virtualmachines"], kinds["virtualmachineinstances"]
        events.follow(self.machines, self._machine)

    def _machine(self, event: str, machine: Object) -> None:
        metadata = machine.metadata
        if event == "DELETED":
            return
        ends = metadata.deletionTimestamp is not None
        runs = not ends and _wanted(machine.spec)
        self._instance(machine, runs)
        finalizers = [each for each in metadata.finalizers or [] if each != FINALIZER]
        patch: Object = {"metadata": {"finalizers": finalizers if ends else [*finalizers, FINALIZER]}}
        patch["metadata"]["annotations"] = OBSERVED
        patch["status"] = {"printableStatus": "Running", "created": True, "ready": True}
        if not runs:
            patch["status"] = {"printableStatus": "Stopped", "created": None, "ready": None}
        where = {"namespace": metadata.namespace, "patch_type": PatchType.MERGE}
        self.client.patch(self.machines, metadata.name, patch, **where)

    def _instance(self, machine: Object, runs: bool) -> None:
        """The instance is there while the machine runs."""
        name, namespace = machine.metadata.name, machine.metadata.namespace
        owner = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": name, "uid": machine.metadata.uid}
        made = {
            "metadata": {"name": name, "namespace": namespace, "ownerReferences": [owner | {"controller": True}]},
            "spec": machine.spec["template"]["spec"],
            "status": {"phase": "Running"},
        }
        with overtaken():
            if runs:
                self.client.create(self.instances.from_dict(made))
            else:
                self.client.delete(self.instances, name, namespace=namespace)


def _wanted(spec: Object) -> bool:
    return spec.get("running") is True or spec.get("runStrategy") in ("Always", "RerunOnFailure", "Once")
