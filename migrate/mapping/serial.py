"""Serial ports: KubeVirt has the first one."""

from __future__ import annotations

from migrate.mapping.signs import Context, View


def gate(view: View, context: Context) -> str | None:
    """Lets port 0 through: the one that says so, else the first one if it says nothing."""
    zero = [leaf.node.trail[1] for leaf in view.every("/devices.serial.target.port") if leaf.value == "0"]
    if zero:
        return None if zero[0] is view.node else "further"
    return None if view.node.index == 0 and not view.text("target.port") else "further"
