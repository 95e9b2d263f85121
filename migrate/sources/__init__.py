"""The sources of VMs, one module each; the folder is the registry.

A module has `collect`, `unread`, `unfit` and `spools`, and where its disks can be copied `hold` and `open`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from migrate.model import VM, PlannedDisk, Refused, Skipped
from migrate.selection import Selection


@cache
def kinds() -> list[str]:
    """The names of the sources there are, sorted."""
    return sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))


@cache
def source(kind: str) -> ModuleType:
    """The module of a source; a name that is none is Refused."""
    if kind not in kinds():
        raise Refused(f"{kind!r} is no source; use one of {', '.join(kinds())}")
    return import_module(f"{__name__}.{kind}")


def readable(vm: VM, disk: PlannedDisk) -> bool:
    """Whether a disk has bytes that can be read from here."""
    return os.path.isabs(disk.path or "") and source(vm.kind).unfit(vm, disk) is None


def collect(kind: str, urls: Sequence[str], select: Selection, login: object = None) -> Iterator[VM | Skipped]:
    """The VMs behind all urls (the source's default without one), each VM once.

    A url that cannot be read at all is Refused when it is the only one or all are like it; among others it is skipped.
    """
    module = source(kind)
    if len(urls) < 2:
        yield from _once(module.collect(urls[0] if urls else None, select, login))
        return
    yield from _once(_each(module, urls, select, login))


def _each(module: ModuleType, urls: Sequence[str], select: Selection, login: object) -> Iterator[VM | Skipped]:
    refusals = []
    for url in urls:
        try:
            yield from module.collect(url, select, login)
        except Refused as refusal:
            refusals.append(Skipped(*module.unread(url), str(refusal)))
    if len(refusals) == len(urls):
        raise Refused(f"none of {len(urls)} can be read, the first because: {refusals[0].reason}")
    yield from refusals


def _once(items: Iterator[VM | Skipped]) -> Iterator[VM | Skipped]:
    seen = set()
    for item in items:
        key = item.id if isinstance(item, VM) else (item.source, item.name)
        if key not in seen:
            seen.add(key)
            yield item
