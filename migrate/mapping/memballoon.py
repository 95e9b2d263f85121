"""The memory balloon: free page reporting, which KubeVirt has on for most guests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from migrate.mapping.memory import page
from migrate.mapping.signs import Context, Sign, View, default, flag, write
from migrate.mapping.tuning import DEDICATED, dedicated

ENABLED = "pkg/virt-launcher/virtwrap/manager.go isFreePageReportingEnabled"
# What makes a guest a high-performance one, of which KubeVirt has no pages reported (IsHighPerformanceVMI).
HIGH_PERFORMANCE = (DEDICATED, "domain.memory.hugepages.pageSize")
DISABLED = "VirtualMachine.spec.template.metadata.annotations[kubevirt.io/free-page-reporting-disabled]"


def reporting(view: View, context: Context) -> Iterator[Sign]:
    """Off is an annotation, on is KubeVirt's default, but for guests with huge pages or CPUs of their own."""
    value = view.text("devices.memballoon.freePageReporting")
    never = bool(page(view, context)) or dedicated(view, context)
    if value == "on" and never:
        yield flag(view.owned, "never")
    elif value == "on":
        yield default(view.owned, f"KubeVirt has it on ({ENABLED}).")
    elif value == "off" and never:
        yield default(view.owned, f"KubeVirt has it off with huge pages and with dedicated CPUs ({ENABLED}).")
    elif value == "off":
        yield write(view.owned, DISABLED, "true")
    else:
        yield flag(view.owned, "unknown", value)


def gained_reporting(context: Context, writes: Mapping[str, Any]) -> bool | None:
    """True where the source has a balloon that reports no free pages and does not say so."""
    text = context.document.text
    balloon = text("devices.memballoon.model") not in ("", "none")
    never = any(path in writes for path in HIGH_PERFORMANCE)
    return True if balloon and not never and not text("devices.memballoon.freePageReporting") else None
