"""USB redirection: KubeVirt has four slots or none, whatever feeds them."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.signs import Context, Sign, View, default, flag, write

SLOTS = 4  # kubevirt.io/api/core/v1/schema.go UsbClientPassthroughMaxNumberOf


def slot(view: View, context: Context) -> Iterator[Sign]:
    """The first slot opens all four."""
    if context.arch == "s390x":
        yield flag(view.owned, "arch")
    elif view.node.index == 0:
        yield write(view.owned, "domain.devices.clientPassthrough", {})
        yield flag(view.owned, "client")
    elif view.node.index < SLOTS:
        yield default(view.owned, "KubeVirt opens four slots at once (converter/compute/usb_redir.go).")
    else:
        yield flag(view.owned, "further")
