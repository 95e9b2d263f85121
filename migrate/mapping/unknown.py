"""What stands in a domain against libvirt's schema."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.paths import REPEATED, Leaf
from migrate.mapping.signs import Context, Sign, View, flag


def repeated(view: View, context: Context) -> Iterator[Sign]:
    """All further copies of what libvirt knows once, by the names of the outermost ones."""
    yield flag(view.owned, "further", ", ".join(dict.fromkeys(map(_outermost, view.owned))))


def _outermost(leaf: Leaf) -> str:
    """The path of the further copy that a leaf is in, or is."""
    return next((node.path for node in leaf.node.trail if node.pattern.startswith(REPEATED)), leaf.path)
