"""Registry of input formats.

A new format is one module in `core/formats/inputs` and one line in `BUILT_IN`; another distribution adds one by an
entry point in the group `udig_recon.formats` that names an `InputFormat`.
"""

from functools import cache

from udig_recon.core.extensions import load_extensions
from udig_recon.core.formats.input_format import InputFormat
from udig_recon.core.formats.inputs import (
    bart,
    bruker,
    ct_pd,
    data_exchange,
    hdf5,
    matlab,
    matlab5,
    mrd,
    mrd_stream,
    npy,
    npz,
    nxtomo,
    twix,
    zipped_hdf5,
)

ENTRY_POINTS = "udig_recon.formats"
BUILT_IN: tuple[InputFormat, ...] = (
    *(npy.FORMAT, bart.FORMAT, bruker.FORMAT, ct_pd.FORMAT, npz.FORMAT, zipped_hdf5.FORMAT),
    *(matlab5.FORMAT, matlab.FORMAT, mrd.FORMAT, data_exchange.FORMAT, nxtomo.FORMAT, hdf5.FORMAT),
    *(mrd_stream.FORMAT, twix.FORMAT),
)


@cache
def input_formats() -> tuple[InputFormat, ...]:
    """All formats in the order in which they are tried. Raises BrokenExtension.

    Those of other distributions come first, in the order of their entry points' names: they may share a signature with
    a format of ours, and know their files more closely.
    """
    return (*load_extensions(ENTRY_POINTS, InputFormat).values(), *BUILT_IN)
