"""The SEV policy's bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.mapping.rules import Rules

STATE = "domain.launchSecurity.sev.policy.encryptedState"


@given(st.integers(0, 0xFFFF), st.sampled_from([hex, "{:x}".format, "{:04x}".format]))
def test_a_policy_says_whether_registers_are_encrypted(
    run: Callable, rules: Rules, policy: int, form: Callable[[int], str]
) -> None:
    book = run(f"<launchSecurity type='sev'><policy>{form(policy)}</policy></launchSecurity>", rules)
    assert book.writes[STATE].value == bool(policy & 4)
    found = {finding.id for entry in book.entries for finding in entry.findings}
    assert ("launch-security/debug" in found) == (not policy & 1)


def test_a_missing_gate_blocks(run: Callable, rules: Rules) -> None:
    book = run("<launchSecurity type='tdx'/>", rules)
    found = [f for entry in book.entries for f in entry.findings if f.id == "launch-security/unsupported"]
    assert [finding.severity for finding in found] == ["blocker"]
    assert "WorkloadEncryptionTDX" in found[0].because


@pytest.mark.parametrize("name", ["session", "dhCert", "idAuth"])
def test_secrets_of_the_owner_are_shown_nowhere(run: Callable, rules: Rules, name: str) -> None:
    xml = f"<launchSecurity type='sev'><policy>1</policy><{name}>hunter2</{name}></launchSecurity>"
    assert "hunter2" not in repr(run(xml, rules).entries)


def test_a_cipher_that_is_off_is_named(run: Callable, rules: Rules) -> None:
    book = run("<keywrap><cipher name='aes' state='off'/><cipher name='dea' state='on'/></keywrap>", rules)
    found = [f for entry in book.entries for f in entry.findings if f.id == "key-wrap/off"]
    assert [finding.value for finding in found] == ["name=aes, state=off"]
