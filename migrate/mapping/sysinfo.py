"""SMBIOS entries: those with a field in KubeVirt are kept, those of the whole cluster are said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from migrate.mapping.memory import X86
from migrate.mapping.paths import Leaf, Node
from migrate.mapping.signs import Context, Sign, View, default, flag, ignore, write
from migrate.target.admission import values

UNSEEN = "libvirt shows these entries to the guest only with <smbios mode='sysinfo'/>."
FURTHER = "libvirt shows the first SMBIOS block to the guest, and no other."
# The entries of the system that each VM has of its own; one without a name is none.
OF_THE_VM = ("serial", "uuid", "")
NO_TABLES = "KubeVirt leaves SMBIOS tables of this architecture to QEMU, as the source does (converter/arch/arm64.go)."
SERIAL = "domain.firmware.serial"
CHASSIS = ("manufacturer", "version", "serial", "asset", "sku")


def _tables(context: Context) -> bool:
    """Whether KubeVirt fills SMBIOS tables: on x86, and on arm64 since 1.6 (see `_by_patch`)."""
    return context.arch in X86 or (context.arch == "aarch64" and context.target.at_least("1.6"))


def _by_patch(context: Context) -> bool:
    """Whether the target's patch release decides: arm64 has tables since 1.6.5, 1.7.3, 1.8.2 and 1.9.0."""
    return context.arch == "aarch64" and _tables(context) and not context.target.at_least("1.9")


def mode(view: View, context: Context) -> Iterator[Sign]:
    """Where the tables come from: KubeVirt fills them, or leaves them to QEMU."""
    chosen = view.text("os.smbios.mode")
    if not _tables(context):
        yield default(view.owned, NO_TABLES) if chosen == "emulate" else flag(view.owned, "qemu")
    elif chosen != "sysinfo":
        yield flag(view.owned, chosen if chosen in ("emulate", "host") else "unknown")
    elif _by_patch(context):
        yield flag(view.owned, "patch")
    else:
        yield default(view.owned, "KubeVirt's guests have tables with given entries (converter/compute/os.go).")


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
    tables = _tables(context)
    lost = []
    for name, leaves in _entries(view.owned):
        if name == "serial" and _text(leaves) and tables:
            allowed = values.allows(SERIAL, _text(leaves), context.target)
            yield write(leaves, SERIAL, _text(leaves)) if allowed else flag(leaves, "serial")
        elif name == "uuid" and _text(leaves).lower() == view.text("/uuid").lower():
            yield default(
                leaves, "It is the domain's uuid, which becomes firmware.uuid (converter/compute/sysinfo.go)."
            )
        elif name == "uuid":
            yield flag(leaves, "uuid")
        elif not name or not _text(leaves):
            yield ignore(leaves, "libvirt takes the first entry of a name that has a value.")
        else:
            lost += leaves
    if lost:
        yield flag(lost, "cluster-wide" if tables else "no-tables")


def chassis(view: View, context: Context) -> Iterator[Sign]:
    """The fields of the chassis."""
    if hidden := _hidden(view, context):
        yield ignore(view.owned, hidden)
        return
    if not _tables(context):
        yield flag(view.owned, "no-tables")
        return
    for name, leaves in _entries(view.owned):
        if name in CHASSIS and _text(leaves):
            yield write(leaves, f"domain.chassis.{name}", _text(leaves))
        elif not name or name in CHASSIS:
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
    """The maker in SMBIOS where KubeVirt fills its tables, and no entry of the source says that it changes."""
    return "KubeVirt" if _tables(context) and not _names_its_own(context) else None


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
    made = context.target.at_least("1.5") and SERIAL not in writes
    return "a random UUID" if made and _tables(context) else None
