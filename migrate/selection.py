"""The one language of `--select` and `--exclude`: a name glob, a folder of the plan, a uuid or `state=STATE`."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from migrate.model import VM, Refused, Skipped

STATES = (
    *("running", "blocked", "paused", "shutting down", "shut off"),
    *("saved", "migrated", "crashed", "pmsuspended", "unknown"),
)

Test = Callable[[VM], bool]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which VMs are meant: those any `select` matches (all without one), less those any `exclude` matches."""

    select: tuple[Test, ...] = ()
    exclude: tuple[Test, ...] = ()

    @classmethod
    def parse(cls, select: Iterable[str] = (), exclude: Iterable[str] = ()) -> Selection:
        """The selection that the options' expressions say; a malformed one is Refused."""
        return cls(tuple(map(_test, select)), tuple(map(_test, exclude)))

    @classmethod
    def of(cls, ids: Collection[str]) -> Selection:
        """The VMs of these identities, all without one."""
        return cls((lambda vm: vm.id in ids,) if ids else ())

    @property
    def narrows(self) -> bool:
        """Whether anything is asked for, so that finding nothing is a mistake."""
        return bool(self.select or self.exclude)

    def may_mean(self, item: Skipped) -> bool:
        """Whether what could not be read is a host or a file with VMs in it, or a VM that is meant by its name."""
        return item.whole or not self.narrows or self.wants(VM(item.name, "", "", item.source, ""))

    def wants(self, vm: VM) -> bool:
        """Whether the VM is meant, by its name, folder, uuid and state alone."""
        chosen = not self.select or any(test(vm) for test in self.select)
        return chosen and not any(test(vm) for test in self.exclude)


def _test(expression: str) -> Test:
    key, equals, value = expression.partition("=")
    if not expression.strip():
        raise Refused("an empty --select or --exclude; give a name, a glob such as 'web*', a uuid or state=STATE")
    if equals:
        if key != "state":
            raise Refused(f"{expression!r}: {key!r} cannot be selected by; use state=STATE (in a name, ? stands for =)")
        return _state(value)
    try:
        wanted = str(uuid.UUID(expression))
    except ValueError:
        return _glob(expression)
    # A uuid may also be the name of a VM.
    return lambda vm: vm.uuid == wanted or vm.name == expression


def _state(value: str) -> Test:
    # `shutoff` and `shut-off` are what other tools call libvirt's `shut off`.
    wanted = [state for state in STATES if re.sub("[ -]", "", value.lower()) == state.replace(" ", "")]
    if not wanted:
        raise Refused(f"'state={value}': no such state; use one of {', '.join(STATES)}")
    return lambda vm: vm.state == wanted[0]


def _glob(pattern: str) -> Test:
    if "[" in re.sub(r"\[!?\]?[^]]*\]", "", pattern):
        raise Refused(f"{pattern!r}: a [ without its ]; write [[] for the character itself")
    # The folder is what a plan calls the VM wherever it tells of it.
    return lambda vm: fnmatchcase(vm.name, pattern) or vm.folder == pattern
