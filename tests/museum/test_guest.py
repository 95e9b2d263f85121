"""What tools of this kind did to the guest itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mapping.conftest import UUID

EFI = "<os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type><loader secure='{}'/></os>"


def _spec(translation: Any) -> dict[str, Any]:
    return translation.manifest["spec"]["template"]["spec"]


def _ids(translation: Any) -> set[str]:
    return {finding.id for finding in translation.all_findings()}


def test_secure_boot_was_silently_off(translated: Callable) -> None:
    on = _spec(translated(EFI.format("yes")))["domain"]
    assert on["firmware"]["bootloader"]["efi"]["secureBoot"] is True
    assert on["features"]["smm"]["enabled"] is True
    off = _spec(translated(EFI.format("no")))["domain"]
    assert off["firmware"]["bootloader"]["efi"]["secureBoot"] is False
    assert "efi/keys-assumed" in _ids(translated(EFI.format("yes")))


@pytest.mark.parametrize("asked", ["", "secure='yes'"])
@pytest.mark.parametrize(
    ("code", "template"),
    [("OVMF_CODE.secboot.fd", "OVMF_VARS.secboot.fd"), ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd")],
)
def test_secure_boot_was_silently_off_where_files_name_the_firmware(
    code: str, template: str, asked: str, translated: Callable
) -> None:
    loader = f"<loader readonly='yes' {asked} type='pflash'>/usr/share/OVMF/{code}</loader>"
    nvram = f"<nvram template='/usr/share/OVMF/{template}'>/var/lib/libvirt/qemu/nvram/vm_VARS.fd</nvram>"
    domain = _spec(translated(f"<os><type arch='x86_64' machine='q35'>hvm</type>{loader}{nvram}</os>"))["domain"]
    assert domain["firmware"]["bootloader"]["efi"]["secureBoot"] is True
    assert domain["features"]["smm"]["enabled"] is True


def test_the_efi_variables_were_dropped(translated: Callable) -> None:
    plan = translated(EFI.format("no"))
    assert _spec(plan)["domain"]["firmware"]["bootloader"]["efi"]["persistent"] is True
    assert "firmware-variables/left-behind" in _ids(plan)


def test_the_tpm_was_dropped(translated: Callable) -> None:
    tpm = "<devices><tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>"
    plan = translated(tpm)
    assert _spec(plan)["domain"]["devices"]["tpm"]["persistent"] is True
    assert "tpm-backend/secrets" in _ids(plan)


def test_the_smbios_uuid_changed(translated: Callable) -> None:
    assert _spec(translated("<title>x</title>"))["domain"]["firmware"]["uuid"] == UUID


@pytest.mark.parametrize(
    ("xml", "amount"),
    [
        ("<memory>1048576</memory>", "1Gi"),
        ("<memory unit='KB'>1000000</memory>", "1000000000"),
        ("<memory unit='MiB'>1536</memory>", "1536Mi"),
        ("<memory unit='GB'>2</memory>", "2000000000"),
        ("<memory unit='b'>1073741824</memory>", "1Gi"),
    ],
)
def test_the_unit_of_memory_was_ignored_or_decimal(xml: str, amount: str, translated: Callable) -> None:
    from migrate.target.quantity import to_bytes

    given = to_bytes(_spec(translated(xml))["domain"]["memory"]["guest"])
    # libvirt rounds up to MiB when it starts a guest.
    assert given == -(-to_bytes(amount) // 1024**2) * 1024**2


def test_vcpus_were_multiplied_by_the_topology(translated: Callable) -> None:
    plan = translated("<vcpu>8</vcpu><cpu mode='host-model'><topology sockets='2' cores='4' threads='1'/></cpu>")
    cpu = _spec(plan)["domain"]["cpu"]
    assert (cpu["sockets"], cpu["cores"], cpu["threads"]) == (2, 4, 1)
    assert cpu["maxSockets"] == 2


def test_the_time_zone_of_windows_was_taken_for_an_iana_name(translated: Callable) -> None:
    clock = "<clock offset='timezone' timezone='W. Europe Standard Time'/>"
    plan = translated(clock)
    assert _spec(plan)["domain"]["clock"] == {"utc": {}}
    assert "clock-offset/zone" in _ids(plan)
    plan = translated(clock, {"timezone": "Europe/Berlin"})
    assert _spec(plan)["domain"]["clock"] == {"timezone": "Europe/Berlin"}
