"""Entries of a comparison: the metrics of one method on one slice with one seed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from udig_recon.core.acquisition import Modality, ScanHeader

_VIEWS = " views"
ENTRY_METRICS = ("psnr", "ssim", "nmse", "data_residual", "seconds", "prior_evaluations", "optimizer_steps")
"""Names of the metrics that an entry holds, see `udig_recon.core.metrics.METRICS`."""


@dataclass(frozen=True)
class Entry:
    """One reconstruction, its quality and its cost; None: unknown."""

    method: str  # label: the method's name, where its settings differ followed by a blank and words of its own
    scan: str
    sampling: str  # "4x" in MRI, "18 views" in CT
    slice: int
    seed: int
    psnr: float | None  # dB
    ssim: float | None
    nmse: float | None
    data_residual: float | None  # |A x - y| / |y|
    seconds: float
    prior_evaluations: int | None  # evaluations of the diffusion prior, an image each
    optimizer_steps: int | None  # of a network that is fitted
    rating: str | None = None  # see core/quality/rating.py

    @property
    def modality(self) -> Modality:
        """The modality, which the sampling implies."""
        return modality_of(self.sampling)


def sampling_of(header: ScanHeader) -> str:
    """Sampling of a scan in tables: its acceleration, rounded, as `4x`, or its number of views, as `18 views`."""
    if header.modality is Modality.CT:
        return f"{header.views}{_VIEWS}"
    return f"{header.acceleration or 1:.0f}x"


def modality_of(sampling: str) -> Modality:
    """The modality of a sampling."""
    return Modality.CT if sampling.endswith(_VIEWS) else Modality.MRI


def samplings_of(entries: Iterable[Entry]) -> dict[Modality, list[str]]:
    """The samplings of the entries by modality, those with most data first."""
    found: dict[Modality, list[str]] = {}
    for sampling in sorted({entry.sampling for entry in entries}, key=_amount_left_out):
        found.setdefault(modality_of(sampling), []).append(sampling)
    return {modality: found[modality] for modality in Modality if modality in found}


def methods_of(entries: Iterable[Entry]) -> Sequence[str]:
    """The labels of the entries, in the order of their first results."""
    return list(dict.fromkeys(entry.method for entry in entries))


def _amount_left_out(sampling: str) -> float:
    number = float(sampling.removesuffix(_VIEWS).removesuffix("x"))
    return -number if modality_of(sampling) is Modality.CT else number
