"""Secure Boot is never lost in silence."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from migrate.mapping.rules import Rules

SECURE_BOOT = "domain.firmware.bootloader.efi.secureBoot"
ANSWER = st.sampled_from(["", "yes", "no"])


def domain(
    arch: str, secure: str, feature: str, keys: str, code: str, template: str, firmware: str = " firmware='efi'"
) -> str:
    features = "".join(
        f"<feature enabled='{value}' name='{name}'/>"
        for name, value in (("secure-boot", feature), ("enrolled-keys", keys))
        if value
    )
    attribute = f" secure='{secure}'" if secure else ""
    loader = f"<loader type='pflash'{attribute}>{code}</loader>"
    nvram = f"<nvram template='{template}'>/n</nvram>" if template else ""
    return (
        f"<os{firmware}><type arch='{arch}' machine='q35'>hvm</type><firmware>{features}</firmware>{loader}{nvram}</os>"
        "<features><acpi/></features>"
    )


@given(
    arch=st.sampled_from(["x86_64", "aarch64"]),
    secure=ANSWER,
    feature=ANSWER,
    keys=ANSWER,
    code=st.sampled_from(["", "/fw/OVMF_CODE.fd", "/fw/OVMF_CODE_4M.ms.fd", "/fw/OVMF_CODE.secboot.fd"]),
    template=st.sampled_from(["", "/fw/OVMF_VARS.fd", "/fw/OVMF_VARS_4M.ms.fd"]),
)
def test_secure_boot_is_on_or_its_loss_is_said(
    run: Callable, rules: Rules, arch: str, secure: str, feature: str, keys: str, code: str, template: str
) -> None:
    book = run(domain(arch, secure, feature, keys, code, template), rules)
    found = {finding.id for entry in book.entries for finding in entry.findings}
    on = book.writes[SECURE_BOOT].value
    smm = book.writes.get("domain.features.smm.enabled")
    assert on == bool(smm)
    able = secure == "yes" or feature == "yes"
    if able and feature != "no" and not on:
        assert found & {"efi/no-keys", "efi/keys-unknown", "efi/arch"}
    if keys == "no" or feature == "no" or arch != "x86_64":
        assert not on
    if on and keys != "yes" and ".ms." not in code + template:
        assert able and "efi/keys-assumed" in found


def test_variables_are_kept_from_the_first_start_on(run: Callable, rules: Rules) -> None:
    book = run(domain("x86_64", "", "", "", "", ""), rules)
    assert book.writes["domain.firmware.bootloader.efi.persistent"].value is True
    assert "firmware-variables/left-behind" in {f.id for entry in book.entries for f in entry.findings}


def test_a_login_to_the_store_of_variables_is_shown_nowhere(run: Callable, rules: Rules) -> None:
    xml = domain("x86_64", "", "", "", "", "").replace(
        "</os>",
        "<nvram type='network'><source protocol='https' name='x'><host name='h'/>"
        "<cookies><cookie name='c'>hunter2</cookie></cookies></source></nvram></os>",
    )
    book = run(xml, rules)
    assert "hunter2" not in repr(book)
