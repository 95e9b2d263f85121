"""Features that depend on the firmware or the architecture."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.signs import Context, Sign, View, flag, write


def acpi(view: View, context: Context) -> Iterator[Sign]:
    """ACPI as the source has it, except where EFI on x86 needs it; s390x machines never have it."""
    arch = view.text("os.type.arch")
    present = view.text("features.acpi") != "off" and arch != "s390x"
    needed = not present and context.firmware == "efi" and arch in ("x86_64", "i686")
    yield write(view.owned, "domain.features.acpi.enabled", present or needed)
    if needed:
        yield flag(view.owned, "needed")
    elif not present and arch != "s390x":
        yield flag(view.owned, "off")
