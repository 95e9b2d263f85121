"""Moves bytes: any disk as NBD, one copy engine, and one module for each method that fills a claim.

The folder is the registry. A method has `unfit` and `move`, and for claims it filled `present`, `check`, `discard`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from migrate.model import Refused


@cache
def methods() -> list[str]:
    """The names of the methods there are, sorted."""
    return sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))


def method(name: str) -> ModuleType:
    """The module of a method; a name that is none is Refused."""
    if name not in methods():
        raise Refused(f"{name!r} is no transfer method; use one of {', '.join(methods())}")
    return import_module(f"{__name__}.{name}")
