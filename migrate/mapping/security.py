"""Memory encryption of confidential guests."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.paths import printable
from migrate.mapping.signs import Context, Sign, View, flag, write

# Bits of the SEV policy, of the AMD SEV API specification.
NO_DEBUG = 1
ENCRYPTED_STATE = 4


def launch(view: View, context: Context) -> Iterator[Sign]:
    """The kind of memory encryption, and of SEV whether registers are encrypted too."""
    kind, policy = view.text("launchSecurity.type"), view.text("launchSecurity.policy")
    if kind == "sev":
        bits = _number(policy)
        yield write(view.owned, "domain.launchSecurity.sev.policy.encryptedState", bool(bits & ENCRYPTED_STATE))
        if not bits & NO_DEBUG:
            yield flag(view.owned, "debug")
    elif kind == "sev-snp":
        yield write(view.owned, "domain.launchSecurity.snp", {})
    elif kind == "tdx":
        yield write(view.owned, "domain.launchSecurity.tdx", {})
    else:
        yield flag(view.owned, "secure-execution" if kind == "s390-pv" else "unknown")
        return
    yield flag(view.owned, "measurement", f"policy {printable(policy, 60)} before" if policy else None)


def _number(text: str) -> int:
    """A policy as libvirt reads it, decimal or with 0x; 0 for what is none."""
    try:
        return int(text, 0)
    except ValueError:
        return 0
