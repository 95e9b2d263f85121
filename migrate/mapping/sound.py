"""Sound cards: one, of HD Audio, on x86_64."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.signs import Context, Sign, View, flag, write

# KubeVirt takes ac97 too, but the QEMU of its launcher has none (kubevirt/kubevirt#8404), so such a VM does not start.
SAME = "ich9"
HD_AUDIO = ("ich6", "ich7")


def gate(view: View, context: Context) -> tuple[str, str] | str | None:
    """Lets through the first card on x86."""
    if view.text("model") == "pcspk":
        return "speaker"
    if context.arch not in ("x86_64", "i686"):
        return "arch", context.arch
    text, cards = context.document.text, context.document.nodes["devices.sound"]
    first = next(node for node in cards if text(f"{node.path}.model") != "pcspk")
    return None if first is view.node else "further"


def card(view: View, context: Context) -> Iterator[Sign]:
    """An ich9 in place of any card."""
    model = view.text("model")
    yield write(view.owned, "domain.devices.sound.name", "sound")
    yield write(view.owned, "domain.devices.sound.model", SAME)
    row = "silent" if model == SAME else "near" if model in HD_AUDIO else "model"
    yield flag(view.owned, row, None if model == SAME else model)
