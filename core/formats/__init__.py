"""Scan files, recognised by their content: `probe` looks at all of a file, `read` takes slices of it.

Importing this package imports no reader: a process that leaves reading to the sandbox never loads one. The names are
imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from udig_recon.core.formats.limits import Limits
    from udig_recon.core.formats.reading import probe, read
    from udig_recon.core.formats.sandbox.client import Prober

__all__ = ["Limits", "Prober", "probe", "read"]

_HOMES = {"Limits": "limits", "Prober": "sandbox.client", "probe": "reading", "read": "reading"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
