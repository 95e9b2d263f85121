"""Watchdogs: one for the VM, by architecture, with an action that KubeVirt knows."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.signs import Context, Sign, View, flag, write

BUILT_IN = "itco"
KNOWN = {"x86_64": "i6300esb", "i686": "i6300esb", "s390x": "diag288"}
# pause keeps a hung guest from going on, as poweroff does; after dump and inject-nmi a guest starts again.
NEAREST = {"pause": "poweroff", "dump": "reset", "inject-nmi": "reset"}
ACTIONS = ("reset", "shutdown", "poweroff")


def gate(view: View, context: Context) -> tuple[str, str] | str | None:
    """Lets through the first watchdog that acts, and the chipset's own one."""
    model, action = view.text("model"), view.text("action", "reset")
    if model == BUILT_IN:
        return None if action == "reset" else "built-in"
    if context.arch not in KNOWN:
        return "arch", context.arch
    text, watchdogs = context.document.text, context.document.nodes["devices.watchdog"]
    if view.node is not next(node for node in watchdogs if text(f"{node.path}.model") != BUILT_IN):
        return "further"
    return "none" if action == "none" else None


def device(view: View, context: Context) -> Iterator[Sign]:
    """The architecture's watchdog with the action, or the nearest of both."""
    model, action = view.text("model"), view.text("action", "reset")
    target = KNOWN[context.arch]
    yield write(view.owned, "domain.devices.watchdog.name", "watchdog")
    yield write(
        view.owned,
        f"domain.devices.watchdog.{target}.action",
        action if action in ACTIONS else NEAREST.get(action, "reset"),
    )
    if model != target:
        yield flag(view.owned, "model", model)
    if action not in ACTIONS:
        yield flag(view.owned, "action", action)
