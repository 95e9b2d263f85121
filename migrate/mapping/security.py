"""Memory encryption of confidential guests."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.paths import printable
from migrate.mapping.signs import Context, Sign, View, default, flag, write

# Bits of policies: of SEV and SEV-SNP (AMD's API specifications), and of the attributes of a TDX guest (Intel's).
NO_DEBUG = 1
ENCRYPTED_STATE = 4
SNP_DEBUG = 1 << 19
TDX_DEBUG = 1


def key_wrap(view: View, context: Context) -> Iterator[Sign]:
    """Whether the guest may wrap keys for a cipher, which KubeVirt leaves to the machine: it has both on."""
    state = view.text("state")
    if state == "on":
        yield default(view.owned, "s390-ccw-virtio has both ciphers on (QEMU hw/s390x/s390-virtio-ccw.c).")
    else:
        yield flag(view.owned, "off" if state == "off" else "unknown", view.text("name"))


def launch(view: View, context: Context) -> Iterator[Sign]:
    """The kind of memory encryption, and of SEV whether registers are encrypted too."""
    kind, policy = view.text("launchSecurity.type"), view.text("launchSecurity.policy")
    if kind == "sev":
        encrypted = bool(_number(policy) & ENCRYPTED_STATE)
        yield write(view.owned, "domain.launchSecurity.sev.policy.encryptedState", encrypted)
    elif kind == "sev-snp":
        yield write(view.owned, "domain.launchSecurity.snp", {})
    elif kind == "tdx":
        yield write(view.owned, "domain.launchSecurity.tdx", {})
    elif _secure_execution(kind, context):
        yield write(view.owned, "domain.launchSecurity", {})
        yield flag(view.owned, "host-keys")
        return
    else:
        yield flag(view.owned, "secure-execution" if kind == "s390-pv" else "unknown")
        return
    yield flag(view.owned, "measurement", f"policy {printable(policy, 60)} before" if policy else None)
    if _debugged(kind, _number(policy)):
        yield flag(view.owned, "debug")


def _secure_execution(kind: str, context: Context) -> bool:
    """Whether the VM is a guest of Secure Execution, as KubeVirt has them."""
    return kind == "s390-pv" and context.arch == "s390x" and context.target.enabled("SecureExecution")


def behind_iommu(context: Context) -> bool:
    """Whether KubeVirt gives virtio devices the IOMMU option: in guests of SEV and Secure Execution, not of TDX."""
    kind = context.document.text("launchSecurity.type")
    return kind in ("sev", "sev-snp") or _secure_execution(kind, context)


def _debugged(kind: str, policy: int) -> bool:
    """Whether the policy lets the host read the guest's memory."""
    if kind == "sev":
        return not policy & NO_DEBUG
    return bool(policy & (SNP_DEBUG if kind == "sev-snp" else TDX_DEBUG))


def _number(text: str) -> int:
    """A policy as libvirt reads it, hexadecimal with or without 0x (virDomainSEVDefParseXML); 0 for what is none."""
    try:
        return int(text, 16)
    except ValueError:
        return 0
