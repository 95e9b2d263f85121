"""Channels: KubeVirt has that of QEMU's guest agent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from migrate.mapping.signs import Context, View

AGENT = "org.qemu.guest_agent.0"
SPICE = ("com.redhat.spice.0", "org.spice-space.webdav.0", "org.spice-space.stream.0")
MANAGER = ("ovirt-guest-agent.0", "com.redhat.rhevm.vdsm", "org.ovirt.hosted-engine-setup.0")


def _names(context: Context) -> Iterator[str]:
    for node in context.document.nodes.get("devices.channel", ()):
        if context.document.text(f"{node.path}.target.type") == "virtio":
            yield context.document.text(f"{node.path}.target.name")


def gate(view: View, context: Context) -> tuple[str, str] | str | None:
    """Lets the guest agent's channel through."""
    name, kind = view.text("target.name"), view.text("target.type")
    if name == AGENT and kind == "virtio":
        return None
    if name in SPICE or view.text("type") in ("spicevmc", "spiceport", "qemu-vdagent"):
        return "spice"
    return "manager" if name in MANAGER else ("other", name or kind)


def gained_agent(context: Context, writes: Mapping[str, Any]) -> str | None:
    """The guest agent's channel where the source has none."""
    return None if AGENT in set(_names(context)) else AGENT
