"""Sound cards: one, HD Audio or AC97, on x86_64."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.signs import Context, Sign, View, flag, write

SAME = ("ich9", "ac97")
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
    """The card of the same model, or an ich9."""
    model = view.text("model")
    yield write(view.owned, "domain.devices.sound.name", "sound")
    yield write(view.owned, "domain.devices.sound.model", model if model in SAME else "ich9")
    row = "silent" if model in SAME else "near" if model in HD_AUDIO else "model"
    yield flag(view.owned, row, None if model in SAME else model)
