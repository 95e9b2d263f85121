"""What stands in a domain against libvirt's schema."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.paths import REPEATED
from migrate.mapping.signs import Context, Sign, View, flag


def repeated(view: View, context: Context) -> Iterator[Sign]:
    """All further copies of elements that libvirt knows once, by the names of the outermost ones."""
    outermost = (next(node for node in leaf.node.trail if node.pattern.startswith(REPEATED)) for leaf in view.owned)
    yield flag(view.owned, "further", ", ".join(dict.fromkeys(node.path for node in outermost)))
