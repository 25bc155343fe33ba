"""The reconstruction engine: a library of numpy and torch without HTTP, queues and tables.

    from udig_recon.core import open_scan, reconstruct_volume

`open_scan`, `reconstruct_volume` and `Volume` reconstruct a file with one call (`udig_recon.core.volume`). Below them
`udig_recon.core.formats` reads scans, `udig_recon.core.reconstruct` runs a method on one slice, and
`udig_recon.core.results` writes volumes. Importing this package does not import torch: the three names are imported
when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from udig_recon.core.volume import Volume, open_scan, reconstruct_volume

__all__ = ["Volume", "open_scan", "reconstruct_volume"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from udig_recon.core import volume

        return getattr(volume, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
