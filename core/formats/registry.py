"""Registry of input formats.

A new format is one module in `core/formats/inputs` and one line in `BUILT_IN`; another distribution adds one by an
entry point in the group `udig_recon.formats` that names an `InputFormat`.
"""

from functools import cache

from udig_recon.core.extensions import BrokenExtension, load_extensions
from udig_recon.core.formats.input_format import InputFormat
from udig_recon.core.formats.inputs import hdf5, matlab, npy, npz

ENTRY_POINTS = "udig_recon.formats"
BUILT_IN: tuple[InputFormat, ...] = (npy.FORMAT, npz.FORMAT, matlab.FORMAT, hdf5.FORMAT)


@cache
def input_formats() -> tuple[InputFormat, ...]:
    """All formats in the order in which they are tried. Raises BrokenExtension.

    Those of other distributions come first, in the order of their entry points' names: they may share a signature with
    a format of ours, and know their files more closely.
    """
    extensions = load_extensions(ENTRY_POINTS)
    for name, extension in extensions.items():
        if not isinstance(extension, InputFormat):
            raise BrokenExtension(f"{ENTRY_POINTS}: {name} is {extension!r}, expected an InputFormat")
    return (*extensions.values(), *BUILT_IN)
