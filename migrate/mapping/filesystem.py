"""Folders of the host: the site file names the claim that holds their files, which KubeVirt serves by virtiofs."""

from __future__ import annotations

import json
from collections.abc import Iterator

from migrate.mapping.ledger import item_key
from migrate.mapping.paths import Node
from migrate.mapping.signs import Context, Sign, View, default, flag, write
from migrate.target.vocabulary import Target

FILESYSTEMS = "domain.devices.filesystems"
# How QEMU serves a folder; the other drivers are those of containers.
DRIVERS = ("virtiofs", "path", "handle")


def folder(node: Node, context: Context) -> str:
    """The folder of the host that a guest mounts, or nothing."""
    text = context.document.text
    mounted = text(f"{node.path}.type") == "mount" and text(f"{node.path}.driver.type") in DRIVERS
    return text(f"{node.path}.source.dir") if mounted else ""


def needed_gate(target: Target) -> str:
    """The feature gate without which KubeVirt shares no claim by virtiofs."""
    return "EnableVirtioFsStorageVolumes" if target.at_least("1.5") else "ExperimentalVirtiofsSupport"


def gate(view: View, context: Context) -> tuple[str, str] | str | None:
    """Lets a folder through whose files have a claim in the cluster."""
    driver = view.text("driver.type")
    if driver == "mtp":
        return driver
    if view.text("type") != "mount" or driver not in DRIVERS:
        return "container"
    path = folder(view.node, context)
    if not context.site.filesystem(path):
        return (driver, f"filesystems: {{{json.dumps(path)}: CLAIM}}") if path else driver
    needed = needed_gate(context.target)
    return None if context.target.enabled(needed) else ("gate-off", needed)


def served(view: View, context: Context) -> Iterator[Sign]:
    """The volume of the claim, and the device by which the guest mounts it; its name is the mount's tag."""
    tag, name = view.text("target.dir"), view.key
    if name in {item_key(leaf.value) for leaf in view.every("/devices.disk.target.dev")}:
        name = f"fs-{name}"
    yield write(view.owned, f"{FILESYSTEMS}[{name}].name", name)
    yield write(view.owned, f"{FILESYSTEMS}[{name}].virtiofs", {})
    yield write(view.owned, f"volumes[{name}].name", name)
    claim = context.site.filesystem(view.text("source.dir"))
    yield write(view.owned, f"volumes[{name}].persistentVolumeClaim.claimName", claim)
    if view.leaf("readonly"):
        yield write(view.owned, f"volumes[{name}].persistentVolumeClaim.readOnly", True)
    yield flag(view.owned, "files", f"claim {claim}")
    if view.text("driver.type") != "virtiofs":
        yield flag(view.owned, "from-9p", f"mount -t virtiofs {name}")
    if name != tag:
        yield flag(view.owned, "tag", f"{name} for {tag}")


def attributes(view: View, context: Context) -> Iterator[Sign]:
    """Extended attributes, which KubeVirt's virtiofsd passed on before 1.5, where it ran with privileges."""
    passed = not context.target.at_least("1.5")
    if view.text("binary.xattr") == ("on" if passed else "off"):
        what = "passes on extended attributes" if passed else "passes on no extended attributes"
        yield default(view.owned, f"KubeVirt's virtiofsd {what} (pkg/virt-controller/services/virtiofs.go).")
    else:
        yield flag(view.owned, "passed" if passed else "lost")
