"""Features that depend on the firmware or the architecture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from migrate.mapping import iommu, tuning
from migrate.mapping.signs import Context, Sign, View, default, flag, write

OFFERED = "QEMU switches paravirtual end of interrupt on for every KVM guest (target/i386/kvm/kvm-cpu.c)."
HINT = "pkg/virt-launcher/virtwrap/converter/vcpu/vcpu.go AdjustDomainForTopologyAndCPUSet"


def acpi(view: View, context: Context) -> Iterator[Sign]:
    """ACPI as the source has it, except where EFI on x86 needs it; s390x machines never have it."""
    arch = view.text("os.type.arch")
    present = view.text("features.acpi") != "off" and arch != "s390x"
    needed = not present and context.firmware == "efi" and arch in ("x86_64", "i686")
    yield write(view.owned, "domain.features.acpi.enabled", present or needed)
    if needed:
        yield flag(view.owned, "needed")
    elif not present and arch != "s390x":
        yield flag(view.owned, "off")


def apic(view: View, context: Context) -> Iterator[Sign]:
    """The interrupt controller of x86, and whether the guest is offered a paravirtual end of interrupt."""
    eoi = view.text("features.apic.eoi")
    yield write(view.owned, "domain.features.apic.enabled", True, OFFERED if eoi == "on" else None)
    if eoi not in ("", "on"):
        yield flag(view.owned, "off" if eoi == "off" else "unknown")


def dedicated(view: View, context: Context) -> Iterator[Sign]:
    """The hint that the guest's CPUs are its own, which KubeVirt gives along with such CPUs on x86."""
    hinted = view.text("features.kvm.hint-dedicated.state") == "on"
    given = context.arch in ("x86_64", "i686") and tuning.dedicated(view, context)
    if hinted == given:
        yield default(view.owned, f"KubeVirt gives the hint with dedicated CPUs and without them none ({HINT}).")
    else:
        yield flag(view.owned, "untold" if hinted else "told")


def vmport(view: View, context: Context) -> Iterator[Sign]:
    """VMware's port, which KubeVirt closes since 1.5 and before left to QEMU, which has it open."""
    state = view.text("features.vmport.state", "on")
    if _closes_vmport(context) and state == "off":
        yield default(view.owned, "KubeVirt switches it off (converter/compute/hypervisor_features.go).")
    elif not _closes_vmport(context) and state == "on":
        yield default(view.owned, "KubeVirt leaves it to QEMU, which has it on (QEMU hw/i386/pc.c, vmport).")
    else:
        yield flag(view.owned, "closed" if _closes_vmport(context) else "open")


def gained_vmport(context: Context, writes: Mapping[str, Any]) -> str | None:
    """That VMware's port is closed."""
    return "vmport off" if _closes_vmport(context) else None


def _closes_vmport(context: Context) -> bool:
    return context.target.at_least("1.5")


def ioapic(view: View, context: Context) -> Iterator[Sign]:
    """The I/O interrupt controller, which libvirt puts into QEMU along with an IOMMU that it adds by itself."""
    driver = view.text("features.ioapic.driver")
    if driver == "kvm":
        yield default(view.owned, "KVM's is QEMU's default and KubeVirt changes nothing (accel/kvm/kvm-all.c).")
    elif driver == "qemu" and iommu.added(view, context):
        yield default(view.owned, "It comes with the IOMMU that libvirt adds (qemuDomainDefEnableDefaultFeatures).")
    else:
        yield flag(view.owned, "qemu" if driver == "qemu" else "unknown")
