"""Kubernetes quantities: bytes as text and back."""

from __future__ import annotations

import math
from decimal import Decimal

BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
DECIMAL = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}


def to_bytes(quantity: str | int) -> int:
    """The bytes that a quantity stands for, rounded up: `1Gi`, `1.5M`, `1e9`, `512`. ValueError where it is none."""
    text = str(quantity)
    for suffix, factor in {**BINARY, **DECIMAL}.items():
        if text.endswith(suffix):
            return math.ceil(Decimal(text.removesuffix(suffix)) * factor)
    return math.ceil(Decimal(text))


def from_bytes(count: int) -> str:
    """Bytes in the largest binary unit that holds them exactly: 1073741824 is `1Gi`, 1000 is `1000`."""
    for suffix, factor in reversed(BINARY.items()):
        if count and count % factor == 0:
            return f"{count // factor}{suffix}"
    return str(count)


def human(count: int | None) -> str:
    """Bytes for people, three digits and a binary unit; `?` where unknown."""
    if count is None:
        return "?"
    for suffix, factor in reversed(BINARY.items()):
        if count >= factor:
            return f"{count / factor:.3g} {suffix}B"
    return f"{count} B"
