"""Network architectures of priors, by the name that cards give: a module each. Torch-free.

A further one is a module and a line in `_BUILT_IN`, or a class that another distribution names as an entry point of the
group `udig_recon.priors`.
"""

from collections.abc import Mapping
from typing import get_args

from udig_recon.core.extensions import BrokenExtension, load_extensions
from udig_recon.core.priors.architectures.adm import ADMNetwork
from udig_recon.core.priors.architectures.description import ConvolutionLevel, NetworkDescription, PublishedNetwork
from udig_recon.core.priors.architectures.edm import EDMNetwork
from udig_recon.core.priors.architectures.ncsnpp import NCSNppNetwork

__all__ = [
    "ARCHITECTURES",
    "AUTO",
    "LAYOUTS",
    "ADMNetwork",
    "ConvolutionLevel",
    "EDMNetwork",
    "NCSNppNetwork",
    "NetworkDescription",
    "PublishedNetwork",
]

GROUP = "udig_recon.priors"
_BUILT_IN = (EDMNetwork, ADMNetwork, NCSNppNetwork)


def _architectures() -> Mapping[str, type[NetworkDescription]]:
    """The built-in classes, then those of other distributions. Raises BrokenExtension."""
    classes: dict[str, type[NetworkDescription]] = {}
    for cls in (*_BUILT_IN, *load_extensions(GROUP).values()):
        if not (isinstance(cls, type) and issubclass(cls, NetworkDescription)):
            raise BrokenExtension(f"{cls!r} in {GROUP} is no subclass of NetworkDescription")
        names = get_args(cls.model_fields["architecture"].annotation)
        if len(names) != 1:
            raise BrokenExtension(f"{cls.__qualname__} in {GROUP}: expected `architecture: Literal[NAME] = NAME`")
        if names[0] in classes:
            raise BrokenExtension(f"{cls.__qualname__} in {GROUP}: there is another architecture {names[0]!r}")
        classes[names[0]] = cls
    return classes


ARCHITECTURES = _architectures()
"""Description classes by architecture."""
AUTO = "auto"
LAYOUTS = (AUTO, *(name for name, cls in ARCHITECTURES.items() if cls.importer is not None))
"""Layouts of published checkpoints that `convert-prior` reads."""
