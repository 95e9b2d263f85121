"""What the API server and KubeVirt's webhooks refuse of a VM and its claims, or accept and then cannot start.

Nothing is refused that KubeVirt accepts and starts with the defaults of its configuration. Paths in KubeVirt's sources
are below pkg/ or pkg/virt-api/webhooks/.
"""

from __future__ import annotations

from collections.abc import Iterator

from migrate.target.admission import (
    compute,
    credentials,
    devices,
    names,
    network,
    pods,
    resourceclaims,
    storage,
    values,
)
from migrate.target.admission.spec import Manifest, Refusal, Spec
from migrate.target.vocabulary import Target

CHECKS = (
    names.of_identity,
    storage.of_disks,
    storage.of_volumes,
    storage.of_filesystems,
    storage.of_boot_order,
    storage.of_data_volumes,
    network.of_nics,
    network.of_networks,
    compute.of_machine,
    compute.of_memory,
    compute.of_resources,
    compute.of_cpu,
    devices.of_firmware,
    devices.of_hyperv,
    devices.of_other_devices,
    devices.of_architecture,
    devices.of_launch_security,
    resourceclaims.of_resource_claims,
    resourceclaims.of_claimed_devices,
    credentials.of_credentials,
    pods.of_scheduling,
    pods.of_probes,
    pods.of_dns,
    pods.of_pod,
)


def refusals(vm: Manifest, claims: list[Manifest], target: Target) -> list[Refusal]:
    """All that the target refuses or cannot start of a VM and its claims, whose fields are strictly valid."""
    return [*_vm(vm, target), *names.of_claims(claims)]


def _vm(vm: Manifest, target: Target) -> Iterator[Refusal]:
    template = vm.get("spec", {}).get("template", {})
    spec = template.get("spec", {})
    arch = spec.get("architecture") or "amd64"
    yield from values.refused(vm, target, arch)
    yield from names.of_metadata(vm, "VirtualMachine.metadata")
    yield from names.of_metadata(template, "VirtualMachine.spec.template.metadata")
    every = Spec(vm, spec, target, arch)
    for check in CHECKS:
        yield from check(every)
