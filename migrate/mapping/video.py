"""Graphics adapters: one for the VM, named only where it is not the one that KubeVirt chooses itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from migrate.mapping.paths import Node
from migrate.mapping.signs import Context, Sign, View, default, flag, write

# pkg/virt-api/webhooks/amd64.go, arm64.go, s390x.go
KNOWN = {
    "x86_64": ("vga", "cirrus", "virtio", "ramfb", "bochs"),
    "i686": ("vga", "cirrus", "virtio", "ramfb", "bochs"),
    "aarch64": ("virtio", "ramfb"),
    "s390x": ("virtio",),
}
MEMORY = "16384"
CHOSEN = "KubeVirt chooses this adapter itself (converter/compute/graphics.go)"
# pkg/virt-handler/options.go, since 1.4.
UNLESS = ", unless the KubeVirt resource is annotated with kubevirt.io/vga-display-efi-x86."


def usual(context: Context) -> str:
    """The adapter that KubeVirt chooses where the VM names none."""
    if context.arch in ("aarch64", "s390x"):
        return "virtio"
    gated, annotated = context.target.enabled("BochsDisplayForEFIGuests"), context.target.vga_for_efi
    bochs = context.firmware == "efi" and gated and not (annotated and context.target.at_least("1.4"))
    return "bochs" if bochs else "vga"


def gate(view: View, context: Context) -> str | None:
    """Lets the primary adapter through."""
    return None if view.node is context.once(_primary) else "further"


def _primary(context: Context) -> Node:
    """The adapter that says so, else the first; libvirt puts it first (domain_conf.c virDomainDefParseXML)."""
    nodes = context.document.nodes["devices.video"]
    named = (node for node in nodes if context.document.text(f"{node.path}.model.primary") == "yes")
    return next(named, nodes[0])


def model(view: View, context: Context) -> Iterator[Sign]:
    """The same adapter, or the usual one; none at all takes the console away too."""
    name = view.text("model.type")
    if name == "none" and any(leaf.value == "on" for leaf in view.every("/devices.hostdev.display")):
        yield flag(view.owned, "beside")
    elif name == "none":
        yield write(view.owned, "domain.devices.autoattachGraphicsDevice", False)
        if "devices.graphics" in context.document.nodes:
            yield flag(view.owned, "vgpu")
    elif name == usual(context):
        yield default(view.owned, CHOSEN + (UNLESS if name == "bochs" else "."))
    elif name in KNOWN.get(context.arch, ()):
        yield write(view.owned, "domain.devices.video.type", name)
    else:
        yield flag(view.owned, "arch" if name in KNOWN["x86_64"] else "model", f"{name} becomes {usual(context)}")


def memory(view: View, context: Context) -> Iterator[Sign]:
    """All kinds of video memory together."""
    if all(leaf.value == MEMORY and leaf.pattern.endswith(".vram") for leaf in view.owned):
        yield default(view.owned, "KubeVirt's adapter has 16384 KiB (converter/compute/graphics.go).")
    else:
        yield flag(view.owned, "size", ", ".join(f"{leaf.path.rpartition('.')[2]}={leaf.value}" for leaf in view.owned))


def gained_screen(context: Context, writes: Mapping[str, Any]) -> bool | None:
    """True where the guest has an adapter that KubeVirt shows over VNC (converter/compute/graphics.go)."""
    shown = writes.get("domain.devices.autoattachGraphicsDevice")
    return True if "devices.video" in context.document.nodes and (shown is None or shown.value) else None
