"""Firmware, features, other devices and memory encryption: vmi-create-admitter.go, hyperv.go and amd64.go."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.target.admission.spec import Manifest, Refusal, Spec, is_on, qualified
from migrate.target.admission.storage import image_path

# Each feature with the one it needs; KubeVirt switches that one on unless it is switched off: webhooks/hyperv.go.
HYPERV_NEEDS = {"evmcs": "vapic", "ipi": "vpindex", "tlbflush": "vpindex", "synictimer": "synic", "synic": "vpindex"}


def of_firmware(every: Spec) -> Iterator[Refusal]:
    """Boot loader, secure boot, ACPI tables and kernel."""
    firmware = every.domain.get("firmware", {})
    bootloader = firmware.get("bootloader", {})
    efi = bootloader.get("efi")
    smm = every.domain.get("features", {}).get("smm")
    if efi is not None and "bios" in bootloader:
        because = "KubeVirt refuses EFI together with BIOS."
        yield Refusal("domain.firmware.bootloader.bios", "firmware-efi-bios", because, "Keep one of them.")
    secure = efi is not None and efi.get("secureBoot", True)
    stateless = "tdx" in every.domain.get("launchSecurity", {}) and every.target.at_least("1.9")
    if secure and not is_on(smm) and not stateless:
        because = "KubeVirt refuses secure boot, which EFI means unless switched off, without the SMM feature."
        path = "domain.firmware.bootloader.efi.secureBoot"
        yield Refusal(path, "firmware-smm", because, "Switch smm on, or set secureBoot to false.")
    elif secure and every.arch == "arm64":
        # pkg/virt-launcher/virtwrap/efi knows no firmware for it.
        because = "A VM on arm64 does not start with secure boot, which EFI means unless switched off."
        yield Refusal(
            "domain.firmware.bootloader.efi.secureBoot", "firmware-arm64", because, "Set secureBoot to false."
        )
    acpi, volumes = firmware.get("acpi"), {volume.get("name"): volume for volume in every.volumes}
    if acpi is not None:
        names = [name for name in (acpi.get("slicNameRef"), acpi.get("msdmNameRef")) if name]
        nameless = not names and every.target.at_least("1.5")
        if nameless or not all("secret" in volumes.get(name, {}) for name in names):
            because = "KubeVirt refuses ACPI tables that are not volumes of Secrets."
            yield Refusal("domain.firmware.acpi", "firmware-acpi", because, "Add the volume of the Secret.")
    yield from _kernel(firmware.get("kernelBoot"))


def _kernel(boot: Manifest | None) -> Iterator[Refusal]:
    if boot is None:
        return
    path = "domain.firmware.kernelBoot"
    container = boot.get("container")
    if container is None:
        if boot.get("kernelArgs"):
            because = "KubeVirt refuses kernel arguments without a kernel of its own."
            yield Refusal(f"{path}.kernelArgs", "kernel-boot", because, "Leave the arguments out.")
        return
    paths = [key for key in ("kernelPath", "initrdPath") if container.get(key)]
    if not container.get("image") or not paths:
        because = "KubeVirt refuses to boot a kernel without an image and a path in it."
        yield Refusal(f"{path}.container", "kernel-boot", because, "Set image and kernelPath.")
    for key in paths:
        for refusal in image_path({"path": container[key]}, f"{path}.container"):
            yield refusal._replace(path=f"{path}.container.{key}")


def of_hyperv(every: Spec) -> Iterator[Refusal]:
    """Hyper-V features that need each other: webhooks/hyperv.go."""
    features = every.domain.get("features", {})
    hyperv = features.get("hyperv")
    if "enabled" not in features.get("hypervPassthrough", {"enabled": True}):
        because = "A VM with hypervPassthrough that is neither on nor off does not start."
        yield Refusal("domain.features.hypervPassthrough", "hyperv-passthrough", because, "Set enabled.")
    if "hypervPassthrough" in features and hyperv is not None:
        because = "A VM with both hyperv and hypervPassthrough does not start."
        yield Refusal("domain.features.hypervPassthrough", "hyperv-passthrough", because, "Keep one of them.")
    hyperv = hyperv or {}
    on = {name for name in HYPERV_NEEDS if is_on(hyperv.get(name))}
    if "synictimer" in on and "synic" not in hyperv:
        on.add("synic")
    for name in sorted(on):
        other = HYPERV_NEEDS[name]
        if other in hyperv and not is_on(hyperv[other]):
            because = f"A VM with the Hyper-V feature {name} does not start while {other} is off."
            yield Refusal(f"domain.features.hyperv.{name}", "hyperv-needs", because, f"Switch {other} on.")


def of_other_devices(every: Spec) -> Iterator[Refusal]:
    """Displays, devices of the host and I/O threads."""
    devices = every.devices
    if "video" in devices and devices.get("autoattachGraphicsDevice") is False:
        because = "KubeVirt refuses a video device while autoattachGraphicsDevice is false."
        yield Refusal("domain.devices.video", "video-detached", because, "Keep one of them.")
    if "video" in devices and "type" not in devices["video"]:
        because = "A VM with a video device of no type does not start."
        yield Refusal("domain.devices.video.type", "video-type", because, "Name the type, or leave it to KubeVirt.")
    if sum(map(_shows_early, devices.get("gpus", []))) > 1:
        because = "KubeVirt refuses more than one GPU with a display from the start (ramFB)."
        remedy = "Set virtualGPUOptions.display.ramFB.enabled to false for the others."
        yield Refusal("domain.devices.gpus", "gpu-displays", because, remedy)
    if devices.get("autoattachGraphicsDevice") is False:
        for gpu in devices.get("gpus", []):
            if is_on(gpu.get("virtualGPUOptions", {}).get("display")):
                # qemu_validate.c asks for a graphics device where a host device has a display.
                because = "A VM without a graphics device does not start with a GPU that has a display."
                path = f"domain.devices.gpus[{gpu.get('name')}].virtualGPUOptions.display"
                yield Refusal(path, "gpu-detached", because, "Switch the display off, or keep the graphics device.")
    for kind in ("hostDevices", "gpus"):
        for device in devices.get(kind, []):
            resource = device.get("deviceName") or "a/b"
            if "/" not in resource or not qualified(resource):
                because = f"A VM with a device of {resource:.80}, which is no name of a resource, never starts."
                path = f"domain.devices.{kind}[{device.get('name')}].deviceName"
                yield Refusal(path, "device-resource", because, "Name it DOMAIN/NAME, as the cluster's nodes do.")
    threads = every.domain.get("ioThreads", {}).get("supplementalPoolThreadCount") or 0
    if every.domain.get("ioThreadsPolicy") == "supplementalPool" and threads < 1:
        because = "KubeVirt refuses a pool of I/O threads without their number."
        yield Refusal("domain.ioThreadsPolicy", "io-threads", because, "Set ioThreads.supplementalPoolThreadCount.")


def of_architecture(every: Spec) -> Iterator[Refusal]:
    """What libvirt's QEMU driver has on x86 only: qemu_validate.c."""
    if every.arch == "arm64" and every.devices.get("tpm", {}).get("persistent"):
        because = "A VM on arm64 does not start with a persistent TPM, which is a tpm-crb."
        yield Refusal("domain.devices.tpm.persistent", "tpm-arm64", because, "Set persistent to false.")
    if every.arch == "s390x" and every.devices.get("autoattachVSOCK"):
        # converter/compute/vsock.go has one model for all, which is none of devices on channels (qemu_command.c).
        because = "A VM on s390x does not start with KubeVirt's vsock device, which is one of PCI."
        yield Refusal("domain.devices.autoattachVSOCK", "vsock-s390x", because, "Leave it out.")
    timers = every.domain.get("clock", {}).get("timer", {})
    for name in ("hpet", "kvm", "hyperv"):
        if every.arch != "amd64" and name in timers and timers[name].get("present") is not False:
            because = f"A VM on {every.arch} does not start with the timer {name}, which x86 machines have."
            yield Refusal(f"domain.clock.timer.{name}", "timer-arch", because, "Leave the timer out.")


def _shows_early(gpu: Manifest) -> bool:
    """Whether a GPU has a display that shows the boot, which naming a display means."""
    display = gpu.get("virtualGPUOptions", {}).get("display")
    return is_on(display) and is_on(display.get("ramFB", {}))


def of_launch_security(every: Spec) -> Iterator[Refusal]:
    """What webhooks/amd64.go asks of encrypted VMs; other architectures have none, and s390x one without fields."""
    security = every.domain.get("launchSecurity")
    path = "domain.launchSecurity"
    if security is None:
        return
    if every.arch == "s390x" and (every.target.at_least("1.7") or not security):
        if every.target.at_least("1.7") and not every.target.enabled("SecureExecution"):
            because = f"KubeVirt {every.target.kubevirt} refuses an encrypted VM without feature gate SecureExecution."
            yield Refusal(path, "feature-gate", because, "Switch the feature gate on, or leave the VM unencrypted.")
        return
    kinds = [kind for kind in ("sev", "snp", "tdx") if kind in security]
    efi = every.domain.get("firmware", {}).get("bootloader", {}).get("efi")
    if every.arch != "amd64" or len(kinds) != 1:
        because = "KubeVirt refuses memory encryption that is not exactly one of SEV, SNP and TDX on amd64."
        yield Refusal(path, "launch-security", because, "Keep one of them.")
        return
    (kind,) = kinds
    wrong = [
        (efi is None, "without EFI"),
        (kind != "tdx" and efi is not None and efi.get("secureBoot", True), "with secure boot"),
        (kind != "sev" and (efi or {}).get("persistent"), "with persistent EFI variables"),
        (kind == "tdx" and is_on(every.domain.get("features", {}).get("smm")), "with SMM"),
        (
            "attestation" in (security.get("sev") or {}) and every.spec.get("startStrategy") != "Paused",
            "that is not Paused",
        ),
        (
            any("bootOrder" in nic for nic in every.devices.get("interfaces", [])),
            "with a network interface to boot from",
        ),
    ]
    for is_wrong, what in wrong:
        if is_wrong:
            because = f"KubeVirt refuses a VM encrypted by {kind.upper()} {what}."
            yield Refusal(f"{path}.{kind}", "launch-security", because, "Change that, or leave the encryption out.")
