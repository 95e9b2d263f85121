"""Consoles: KubeVirt has the one that is the first serial port."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from migrate.mapping.signs import Context, Sign, View, default, flag, ignore

SERIAL = ("serial", "sclp")
HOST_END = ("source", "protocol", "tty")
CONSOLE = "KubeVirt gives every VM a serial port and console (converter/compute/console.go)."


def gate(view: View, context: Context) -> tuple[str, str] | str | None:
    """Lets the first console through where it is a serial port."""
    kind = view.text("target.type")
    if kind == "virtio":
        return "virtio"
    return None if kind in SERIAL and view.node.index == 0 else ("further", kind)


def console(view: View, context: Context) -> Iterator[Sign]:
    """All of a console that only repeats a serial port, and each part of one that stands alone."""
    if "devices.serial" in context.document.nodes:
        yield ignore(view.owned, "libvirt repeats the first serial port here; what becomes of it stands there.")
        return
    for leaf in view.owned:
        name = leaf.path[len(view.node.path) + 1 :]
        if name.partition("[")[0].partition(".")[0] in HOST_END or name == "log.append":
            yield ignore(leaf, "Where the console ends on the source host; its type says what becomes of it.")
        elif name == "log.file":
            yield flag(leaf, "log")
        elif name in ("target", "target.type", "target.port", "target.model.name") or leaf.value == "pty":
            yield default(leaf, CONSOLE)
        else:
            yield flag(leaf, "host-end" if name == "type" else "unknown", leaf.value)


def gained_serial(context: Context, writes: Mapping[str, Any]) -> bool | None:
    """True where the source has neither a serial port nor a console that stands for one."""
    nodes, text = context.document.nodes, context.document.text
    consoles = nodes.get("devices.console", [])
    serial = "devices.serial" in nodes or any(text(f"{node.path}.target.type") in SERIAL for node in consoles)
    return None if serial else True


def gained_log(context: Context, writes: Mapping[str, Any]) -> str | None:
    """The log of the first serial port, where the source has the port and keeps none (converter/compute/console.go)."""
    patterns = ("devices.serial.log.file", "devices.console.log.file")
    logged = any(pattern in context.document.by_pattern for pattern in patterns)
    return None if gained_serial(context, writes) or logged else "virt-serial0-log"
