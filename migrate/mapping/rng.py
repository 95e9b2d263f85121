"""Random number generators: KubeVirt has one."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.signs import Context, Sign, View, flag, write

VIRTIO = ("virtio", "virtio-non-transitional", "virtio-transitional")


def gate(view: View, context: Context) -> str | None:
    """Lets the first generator through."""
    return "further" if view.node.index else None


def device(view: View, context: Context) -> Iterator[Sign]:
    """The generator is there or not; it has no settings."""
    yield write(view.owned, "domain.devices.rng", {})
    model = view.text("model")
    if model == "virtio-transitional":
        yield flag(view.owned, "transitional")
    elif model not in VIRTIO:
        yield flag(view.owned, "model", model)
