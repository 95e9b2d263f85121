"""Moves bytes: any disk as NBD, one copy engine, and one module for each method that fills a claim.

The folder is the registry; `cdi_upload.py` is the method `cdi-upload`. A method has `TARGET`, the kind of target whose
claims it fills, `OPENS`, whether it reads the source here (None: where it can), `unfit` and `move`, and for claims it
filled `present`, `check`, `discard`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from migrate.model import PlannedDisk, Refused

LUN = "lun"  # the method that hands LUNs over, and serves nothing else


@cache
def methods() -> list[str]:
    """The names of the methods there are, sorted."""
    names = (module.name for module in iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))


@cache
def method(name: str) -> ModuleType:
    """The module of a method; a name that is none is Refused."""
    if name not in methods():
        raise Refused(f"{name!r} is no transfer method; use one of {', '.join(methods())}")
    return import_module(f"{__name__}.{name.replace('-', '_')}")


def name_of(method: ModuleType) -> str:
    """What a method is called."""
    return method.__name__.rpartition(".")[2].replace("_", "-")


def chosen(disk: PlannedDisk, target: Any, unread: str | None) -> tuple[ModuleType | None, str | None]:
    """The first of the disk's methods that serves, or why none does: the reason of the last one.

    `target` is None in a plan, which is for any; `unread` says why the source's disk cannot be read here.
    """
    reason = f"none of its methods ({', '.join(disk.methods)}) is for this target: extend `methods` in the site file"
    for found in map(method, disk.methods):
        if target is not None and not isinstance(target, found.TARGET):
            continue
        reason = (unread if found.OPENS else None) or found.unfit(disk, target)
        if reason is None:
            return found, None
    return None, reason
