"""Firmware: whether the guest starts with EFI, with Secure Boot, and where its variables are kept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from migrate.mapping.paths import Leaf
from migrate.mapping.signs import EFI_IMAGE, Context, Sign, View, default, flag, ignore, write

# Builds with Secure Boot (OVMF_CODE.secboot.fd, edk2-i386-secure-code.fd), and templates of variables that have keys.
SECURE_IMAGE = re.compile(r"secboot|secure|[-._]ms[-._]|snakeoil|enrolled", re.IGNORECASE)
# Debian's templates for tests have one key of Debian's own and none of Microsoft's.
OWN_KEYS = re.compile("snakeoil", re.IGNORECASE)
# Builds that come with such a template: OVMF_CODE_4M.ms.fd, ovmf-x86_64-smm-ms-code.bin. One called secboot comes with
# either: libvirt's own table gives OVMF_CODE.secboot.fd one without keys (src/qemu/qemu_conf.c, DEFAULT_LOADER_NVRAM).
KEYED_BUILD = re.compile(r"[-._]ms[-._]|snakeoil|enrolled", re.IGNORECASE)
SECURE_BOOT = "domain.firmware.bootloader.efi.secureBoot"
FEATURES = {
    "os.firmware.feature.name": ("secure-boot", "enrolled-keys"),
    "os.firmware.feature.enabled": ("yes", "no"),
    "os.loader.secure": ("yes", "no"),
}
CONFIDENTIAL = ("sev-snp", "tdx")


def efi(view: View, context: Context) -> Iterator[Sign]:
    """BIOS or EFI, Secure Boot and the system management mode that it needs."""
    smm = [leaf for leaf in view.owned if leaf.pattern.startswith("features.")]
    leaves = [leaf for leaf in view.owned if leaf not in smm]
    secure = False
    if leaves and context.firmware == "efi":
        secure, row = _secure_boot(view)
        yield write(leaves, SECURE_BOOT, secure)
        if row:
            yield flag(leaves, row)
        if view.text("os.type.arch") == "i686":
            yield flag(leaves, "ia32")
        yield from _unknown(view, leaves)
    elif leaves:
        yield _bios(view, leaves)
    off = view.text("features.smm.state", "on") != "on"
    tdx = view.text("launchSecurity.type") == "tdx"
    if off and tdx:
        yield default(smm, "KubeVirt takes TDX guests without it only (webhooks/amd64.go), and QEMU has none for them.")
    elif off:
        yield flag(smm, "smm-on")
    # The keys of TDX guests are in the firmware's image, which nothing writes to.
    if secure and not tdx:
        yield write(leaves if off else [*smm, *leaves], "domain.features.smm.enabled", True)
    elif smm and not off:
        yield write(smm, "domain.features.smm.enabled", True)


def _unknown(view: View, leaves: list[Leaf]) -> Iterator[Sign]:
    """What is asked of the EFI firmware and not known here."""
    if view.text("os.firmware", "efi") != "efi" or view.text("os.loader.type") not in ("", "pflash", "rom"):
        yield flag(leaves, "unknown")
    image = view.leaf("os.loader")
    if image and image.value and not EFI_IMAGE.search(image.value.rpartition("/")[2]):
        yield flag(image, "own-build")
    for leaf in leaves:
        if leaf.value not in FEATURES.get(leaf.pattern, (leaf.value,)):
            yield flag(leaf, "feature", leaf.value)


def _bios(view: View, leaves: list[Leaf]) -> Sign:
    if view.text("os.firmware") not in ("", "bios"):
        return flag(leaves, "unknown")
    if view.text("os.loader"):
        return flag(leaves, "host-firmware")
    return default(leaves, "A guest that asks for no EFI starts with SeaBIOS (KubeVirt, api/core/v1 Bootloader).")


def _secure_boot(view: View) -> tuple[bool, str | None]:
    """Whether Secure Boot is on, and the row that says what is not as it was or not known."""
    features = {view.others(leaf, "name"): leaf.value for leaf in view.every("os.firmware.feature.enabled")}
    build = view.text("os.loader").rpartition("/")[2]
    asked = view.text("os.loader.secure") == "yes" or features.get("secure-boot") == "yes"
    keys = features.get("enrolled-keys") or _keys(build, view.text("os.nvram.template").rpartition("/")[2])
    if features.get("secure-boot") == "no":
        return False, None
    if not (asked or SECURE_IMAGE.search(build) or keys == "yes"):
        return False, _host_choice(view) if not build and keys != "no" else None
    if view.text("os.type.arch") not in ("x86_64", "i686"):
        return False, "arch"
    if keys == "no" or view.text("os.loader.secure") == "no":
        return False, "no-keys"
    if OWN_KEYS.search(build) or OWN_KEYS.search(view.text("os.nvram.template")):
        return False, "own-keys"
    if keys == "yes":
        return True, None
    return asked, "keys-assumed" if asked else "keys-unknown"


def _host_choice(view: View) -> str | None:
    """The row that says so where a build with Secure Boot is among those that the source's libvirt chooses from.

    They are for q35 machines and need system management mode (src/qemu/qemu_firmware.c qemuFirmwareMatchDomain), but
    for those of TDX; SEV and SEV-SNP have none.
    """
    board = view.text("os.type.arch") == "x86_64" and "q35" in view.text("os.type.machine")
    if not board or view.text("os.firmware") != "efi" or view.text("os.loader.secure") == "no":
        return None
    secret = view.text("launchSecurity.type")
    if secret == "tdx":
        return "host-choice-tdx"
    return None if secret in ("sev", "sev-snp") or view.text("features.smm.state") == "off" else "host-choice"


def _keys(build: str, template: str) -> str:
    """Whether keys are enrolled by the names of the firmware's files: yes, no, or nothing where they do not say it."""
    if template:
        return "yes" if SECURE_IMAGE.search(template) else "no"
    return "yes" if KEYED_BUILD.search(build) else ""


def variables(view: View, context: Context) -> Iterator[Sign]:
    """The store of EFI variables: left behind, and kept from the first start on where the source keeps one."""
    if context.firmware != "efi":
        yield ignore(view.owned, "Without EFI firmware nothing reads or writes EFI variables.")
    elif view.text("os.loader.stateless") == "yes":
        yield default(view.owned, "KubeVirt throws EFI variables away at each stop (converter/compute/os.go).")
    elif view.text("launchSecurity.type") in CONFIDENTIAL:
        yield flag(view.owned, "not-kept")
    else:
        yield write(view.owned, "domain.firmware.bootloader.efi.persistent", True)
        yield flag(view.owned, "left-behind")


def serial_output(view: View, context: Context) -> Iterator[Sign]:
    """SeaBIOS's messages on the serial console."""
    wanted = view.text("os.bios.useserial")
    if context.firmware == "efi" or context.arch not in ("x86_64", "i686"):
        yield ignore(view.owned, "The setting is SeaBIOS's, and the guest has another firmware.")
    elif wanted == "yes":
        yield write(view.owned, "domain.firmware.bootloader.bios.useSerial", True)
    elif wanted == "no":
        yield default(
            view.owned, "KubeVirt sends nothing there unless asked to (converter/compute/os.go configureBIOS)."
        )
    else:
        yield flag(view.owned, "unknown")


def gained_bios(context: Context, writes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The BIOS of a guest that starts with it, said where a preference could choose EFI."""
    if not context.preference or context.arch not in ("x86_64", "i686") or context.firmware == "efi":
        return None
    return None if any(path.startswith("domain.firmware.bootloader.") for path in writes) else {}
