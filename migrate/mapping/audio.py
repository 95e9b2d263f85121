"""Sound outputs of the host."""

from __future__ import annotations

from migrate.mapping.signs import Context, View


def gate(view: View, context: Context) -> tuple[str, str] | None:
    """Lets an output through that plays nothing."""
    kind = view.text("type")
    return None if kind == "none" else ("host", kind)
