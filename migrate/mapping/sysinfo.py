"""SMBIOS entries: those with a field in KubeVirt are kept, those of the whole cluster are said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from migrate.mapping.paths import Leaf, Node
from migrate.mapping.signs import Context, Sign, View, default, flag, ignore, write

UNSEEN = "libvirt shows these entries to the guest only with <smbios mode='sysinfo'/>."
FURTHER = "libvirt shows the first SMBIOS block to the guest, and no other."
# The entries of the system that each VM has of its own; one without a name is none.
OF_THE_VM = ("serial", "uuid", "")
CHASSIS = ("manufacturer", "version", "serial", "asset", "sku")


def _hidden(view: View, context: Context) -> str | None:
    """Why the guest sees nothing of a block, None where it does."""
    if view.text("/os.smbios.mode") != "sysinfo":
        return UNSEEN
    return None if view.node is _shown(context) else FURTHER


def _shown(context: Context) -> Node | None:
    """The SMBIOS block that the guest sees."""
    text = context.document.text
    blocks = context.document.nodes.get("sysinfo", ()) if text("os.smbios.mode") == "sysinfo" else ()
    return next((node for node in blocks if text(f"{node.path}.type") == "smbios"), None)


def _entries(owned: Iterable[Leaf]) -> Iterator[tuple[str, list[Leaf]]]:
    """The entries with their leaves, by name; libvirt takes the first of a name, so later ones have no name here."""
    by_node: dict[str, list[Leaf]] = {}
    for leaf in owned:
        by_node.setdefault(leaf.node.path, []).append(leaf)
    seen = set()
    for leaves in by_node.values():
        name = next((leaf.value for leaf in leaves if leaf.attribute == "name"), "")
        yield "" if name in seen else name, leaves
        seen.add(name)


def _text(leaves: list[Leaf]) -> str:
    return next((leaf.value for leaf in leaves if leaf.attribute is None), "")


def system(view: View, context: Context) -> Iterator[Sign]:
    """Serial number and uuid of the system; all else is the cluster's."""
    if hidden := _hidden(view, context):
        yield ignore(view.owned, hidden)
        return
    cluster_wide = []
    for name, leaves in _entries(view.owned):
        if name == "serial" and _text(leaves):
            yield write(leaves, "domain.firmware.serial", _text(leaves))
        elif name == "uuid" and _text(leaves).lower() == view.text("/uuid").lower():
            yield default(
                leaves, "It is the domain's uuid, which becomes firmware.uuid (converter/compute/sysinfo.go)."
            )
        elif name == "uuid":
            yield flag(leaves, "uuid")
        elif name in ("", "serial") or not _text(leaves):
            yield ignore(leaves, "libvirt takes the first entry of a name that has a value.")
        else:
            cluster_wide += leaves
    if cluster_wide:
        yield flag(cluster_wide, "cluster-wide")


def chassis(view: View, context: Context) -> Iterator[Sign]:
    """The fields of the chassis."""
    if hidden := _hidden(view, context):
        yield ignore(view.owned, hidden)
        return
    for name, leaves in _entries(view.owned):
        if name in CHASSIS and _text(leaves):
            yield write(leaves, f"domain.chassis.{name}", _text(leaves))
        elif name in ("", *CHASSIS):
            yield ignore(leaves, "libvirt takes the first entry of a name that has a value.")
        else:
            yield flag(leaves, "unknown")


def other(view: View, context: Context) -> Iterator[Sign]:
    """Entries that no field of KubeVirt takes."""
    if hidden := _hidden(view, context):
        yield ignore(view.owned, hidden)
    elif not any(leaf.value and leaf.attribute is None for leaf in view.owned):
        yield ignore(view.owned, "Without a value nothing is said.")
    else:
        yield flag(view.owned, "lost")


def gained_maker(context: Context, writes: Mapping[str, Any]) -> str | None:
    """The maker in SMBIOS, which s390x machines do not have, where no entry of the source says that it changes."""
    return None if context.arch == "s390x" or _names_its_own(context) else "KubeVirt"


def _names_its_own(context: Context) -> bool:
    """Whether the guest sees a maker, product, family, version or sku of its own, which are flagged as cluster-wide."""
    block = _shown(context)
    if block is None:
        return False
    every = context.document.by_pattern
    leaves = [*every.get("sysinfo.system.entry.name", ()), *every.get("sysinfo.system.entry", ())]
    entries = _entries(leaf for leaf in leaves if leaf.path.startswith(block.prefix))
    return any(name not in OF_THE_VM and _text(found) for name, found in entries)


def gained_serial(context: Context, writes: Mapping[str, Any]) -> str | None:
    """The serial number in SMBIOS that KubeVirt makes up since 1.5 where the VM names none."""
    made = context.target.at_least("1.5") and "domain.firmware.serial" not in writes
    return "a random UUID" if made and context.arch != "s390x" else None
