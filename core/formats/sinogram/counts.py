"""Line integrals from counts, by the Beer-Lambert law, and the unattenuated beam of a sinogram file."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import Array, SqueezedAxes
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.limits import PEAKS, quote_safely
from udig_recon.core.formats.sinogram.consistency import format_numbers
from udig_recon.core.formats.with_warnings import WithWarnings

_QUANTITIES = {
    "line_integrals": "line_integrals",
    "line_integral": "line_integrals",
    "counts": "counts",
    "count": "counts",
    "photons": "counts",
    "transmission": "transmission",
    "transmissions": "transmission",
    "transmittance": "transmission",
}
_PHOTONS = 100  # i0 of less is a unit, not a number of photons


@dataclass(frozen=True)
class Beam:
    """Readings without an object (flat) and without a beam (dark), (detectors,) or one number for all."""

    flat: NDArray[np.float64]
    dark: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))


def line_integrals(
    counts: Array, flat: float | NDArray[np.float64], dark: float | NDArray[np.float64] = 0.0
) -> NDArray[np.float32]:
    """Beer and Lambert: -log((counts - dark) / (flat - dark)), where a ray without photons counts as half a photon.

    `counts` (slices, views, detectors) photons, `flat` and `dark` (detectors,) or one number what is read without an
    object and without a beam; with a flat below 100 they are taken for transmissions, not photons.
    """
    beam = np.asarray(flat - np.asarray(dark), np.float64)
    least = np.where(beam >= _PHOTONS, 0.5, 5e-6 * beam)
    # counts of unsigned types must not wrap below dark
    found = counts if np.ndim(dark) == 0 and not np.any(dark) else np.asarray(counts, np.float64) - dark
    return np.asarray(-np.log(np.maximum(found, least) / beam), np.float32)


def read_beam(contents: Contents, detectors: int, measured: NDArray[np.bool_] | None) -> WithWarnings[Beam | None]:
    """The unattenuated beam; None where the sinogram holds line integrals."""
    attributes, arrays = contents.attributes, contents.arrays
    given = attributes.get("quantity", "line_integrals")
    quantity = _QUANTITIES.get(str(given).lower().strip().replace(" ", "_").replace("-", "_"))
    if quantity is None:
        raise UnreadableScan.at("quantity", quote_safely(given), "'line_integrals', 'counts' or 'transmission'")
    there = [name for name in ("i0", "flat", "dark") if name in attributes or name in arrays]
    if quantity == "line_integrals":
        if "flat" in there or "dark" in there:
            name = "flat" if "flat" in there else "dark"
            raise UnreadableScan.at(name, f"{name} beside line integrals", f"quantity='counts' beside it, or no {name}")
        unused = "i0 is not used: the sinogram is taken for line integrals, as quantity is not 'counts'"
        return WithWarnings(None, (unused,) if there else ())
    if "i0" in there and "flat" in there:
        raise UnreadableScan.at("flat", "both i0 and flat", "one of them: what a detector reads without an object")
    name = "flat" if "flat" in there else "i0"
    if name not in there:
        if quantity == "counts":
            expected = f"photons per ray without an object, {PEAKS[0]:g} to {PEAKS[1]:g}, for quantity 'counts'"
            raise UnreadableScan.at("i0", "None", f"{expected}; or flat and dark (detectors,)")
        flat = np.ones(())
    else:
        flat = _per_detector(contents, name, detectors)
    dark = _per_detector(contents, "dark", detectors) if "dark" in there else np.zeros(())
    used = np.ones(detectors, bool) if measured is None else np.asarray(measured.any(axis=0))
    _check_beam(name, flat, dark, used)
    return WithWarnings(Beam(np.where(flat - dark > 0, flat, dark + 1), dark))


def _per_detector(contents: Contents, name: str, detectors: int) -> NDArray[np.float64]:
    """One number, or one for each detector."""
    source = contents.arrays.get(name)
    if source is None:
        value = contents.attributes[name]
        if isinstance(value, str):
            raise UnreadableScan.at(name, quote_safely(value), "one number, or one for each detector")
        return np.asarray(value, np.float64)
    fitted = SqueezedAxes(source)
    if fitted.shape != (detectors,):
        expected = f"one number or shape {(detectors,)}, one for each detector (the mean over frames)"
        raise UnreadableScan.at(name, f"shape {source.shape}", expected)
    if source.dtype.kind not in "iuf":
        raise UnreadableScan.at(name, f"{source.dtype} values", "numbers")
    return fitted.whole().astype(np.float64)


def _check_beam(name: str, flat: NDArray[np.float64], dark: NDArray[np.float64], used: NDArray[np.bool_]) -> None:
    """Raise UnreadableScan for a beam that no ray can be divided by, with its detectors."""
    for which, values, least in ((name, flat, PEAKS[0]), ("dark", dark, 0.0)):
        with np.errstate(invalid="ignore"):
            wrong = used & ~((values >= least) & (values <= PEAKS[1]))
        if wrong.any():
            first = quote_safely(float(values if values.ndim == 0 else values[wrong][0]))
            where = "" if values.ndim == 0 else f" at {format_numbers('detector', np.flatnonzero(wrong))}"
            expected = f"photons per ray, {least:g} to {PEAKS[1]:g}; or an array mask with 0 at such detectors"
            raise UnreadableScan.at(which, first + where, expected)
    beaten = used & (flat - dark <= PEAKS[0])
    if beaten.any():
        where = (
            "everywhere" if flat.ndim == dark.ndim == 0 else f"at {format_numbers('detector', np.flatnonzero(beaten))}"
        )
        raise UnreadableScan.at(name, f"no more than dark {where}", f"{name} above dark, or an array mask with 0 there")


def beam_warnings(beam: Beam, highest: float) -> list[str]:
    """Warnings about counts and i0 that cannot belong together."""
    flat, dark = float(beam.flat.max()), float(beam.dark.min())
    share = (highest - dark) / (flat - dark)
    if share > 2:
        return [f"rays read up to {share:.3g} times what i0 or flat says of the beam: is it right?"]
    if share < 3e-4:
        return [f"no ray reads more than {share:.2g} of i0 or flat: is it right, and are these counts?"]
    return []
