"""The memory balloon: free page reporting, which KubeVirt has on unless an annotation says otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from migrate.mapping.signs import Context, Sign, View, default, flag, write

DISABLED = "VirtualMachine.spec.template.metadata.annotations[kubevirt.io/free-page-reporting-disabled]"


def reporting(view: View, context: Context) -> Iterator[Sign]:
    """Off is an annotation, on is KubeVirt's default."""
    value = view.text("devices.memballoon.freePageReporting")
    if value == "on":
        yield default(
            view.owned, "KubeVirt has it on (pkg/virt-launcher/virtwrap/manager.go isFreePageReportingEnabled)."
        )
    elif value == "off":
        yield write(view.owned, DISABLED, "true")
    else:
        yield flag(view.owned, "unknown", value)


def gained_reporting(context: Context, writes: Mapping[str, Any]) -> bool | None:
    """True where the source has a balloon that reports no free pages and does not say so."""
    text = context.document.text
    balloon = text("devices.memballoon.model") not in ("", "none")
    return True if balloon and not text("devices.memballoon.freePageReporting") else None
