"""TPMs: an emulated 2.0 one that keeps its state where the target can, and starts empty in any case."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.devices import described
from migrate.mapping.signs import Context, Sign, View, default, flag, write
from migrate.target.vocabulary import missing

PERSISTENT = "domain.devices.tpm.persistent"
WITH_CRB = ("x86_64", "i686")


def gate(view: View, context: Context) -> str | None:
    """Lets the first TPM through."""
    return "further" if view.node.index else None


def _persistent(context: Context) -> bool:
    """Whether KubeVirt's TPM can keep its state: such a one is a tpm-crb, which QEMU has on x86 alone."""
    return context.arch in WITH_CRB and missing(PERSISTENT, True, context.target) is None


def backend(view: View, context: Context) -> Iterator[Sign]:
    """The TPM is there, persistent where possible; its secrets are not."""
    yield write(view.owned, PERSISTENT, _persistent(context))
    yield flag(view.owned, "hardware" if view.text("backend.type") == "passthrough" else "secrets")
    if not _persistent(context):
        yield flag(view.owned, "volatile" if context.arch in WITH_CRB else "arch")


def model(view: View, context: Context) -> Iterator[Sign]:
    """The interface follows from persistence."""
    name, new = view.text("model"), "tpm-crb" if _persistent(context) else "tpm-tis"
    if name == new:
        yield default(view.owned, f"KubeVirt's TPM is then a {new} (converter/compute/tpm.go).")
    else:
        yield flag(view.owned, "interface" if name in ("tpm-crb", "tpm-tis") else "model", f"{name} becomes {new}")


def profile(view: View, context: Context) -> Iterator[Sign]:
    """The profile of the TPM's emulator; libvirt writes the name of the default that it got."""
    named = [leaf for leaf in view.owned if leaf.value]
    if not named:
        yield default(view.owned, "Without a profile the emulator takes its default (swtpm_setup), as KubeVirt's does.")
        return
    profiles = [leaf for leaf in named if leaf.attribute != "removeDisabled"]
    usual = profiles and all(leaf.value.startswith("default-v") for leaf in profiles)
    yield flag(view.owned, "usual" if usual else "lost", described(view.owned, view.node.path))
