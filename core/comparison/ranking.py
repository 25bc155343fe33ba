"""Methods in the order of their PSNR, and whether the first one's lead is more than chance."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from udig_recon.core.acquisition import Modality
from udig_recon.core.comparison.entries import Entry, samplings_of
from udig_recon.core.comparison.tables import markdown_row

SIGNIFICANT = 0.05

_Case = tuple[str, int, int]  # scan, slice, seed


@dataclass(frozen=True)
class Place:
    """One method against the first of its modality.

    `p` is of Wilcoxon's signed-rank test of the differences, two-sided, `adjusted` after Holm among all methods tested.
    A method that lacks a slice which another has gets no rank, and is not tested.
    """

    method: str
    rank: int | None
    psnr: float  # dB, mean over its slices
    n: int  # slices, seeds of each averaged
    difference: float | None = None  # dB, mean over the slices; of all but the first
    p: float | None = None
    adjusted: float | None = None


@dataclass(frozen=True)
class Ranking:
    """The places of one modality's methods, best first, over the same slices."""

    modality: Modality
    places: tuple[Place, ...]

    @property
    def n(self) -> int:
        """Slices, at each sampling, that are paired."""
        return max((place.n for place in self.places), default=0)

    @property
    def least_p(self) -> float:
        """The least p that so many pairs can give, all differences of one sign."""
        return min(1.0, 2.0 ** (1 - self.n))

    @property
    def remark(self) -> str:
        """What the number of pairs allows to say, in one sentence."""
        tested = sum(place.p is not None for place in self.places)
        if self.least_p * max(tested, 1) > SIGNIFICANT:
            return (
                f"n = {self.n} is too few to tell: were all differences of one sign, p would still be "
                f"{self.least_p:.2g}, before it is corrected for {max(tested, 1)} comparisons"
            )
        return f"n = {self.n}; slices of one person, or of one image at two samplings, are not independent"


def rankings(entries: Sequence[Entry]) -> list[Ranking]:
    """A ranking for each modality; pairs are of the same scan, slice and seed, the seeds of a slice then averaged."""
    return [_ranking(modality, entries) for modality in samplings_of(entries)]


def _ranking(modality: Modality, entries: Sequence[Entry]) -> Ranking:
    found: dict[str, dict[_Case, float]] = {}
    for run in entries:
        if run.modality is modality and run.psnr is not None and math.isfinite(run.psnr):
            found.setdefault(run.method, {})[run.scan, run.slice, run.seed] = run.psnr
    wanted = {(scan, number) for runs in found.values() for scan, number, _ in runs}
    means = {method: statistics.fmean(_by_slice(runs).values()) for method, runs in found.items()}
    order = sorted(found, key=lambda method: -means[method])
    whole = [method for method in order if _by_slice(found[method]).keys() == wanted]
    against = {method: _differences(found[method], found[whole[0]]) for method in whole[1:]}
    p = {method: value for method, them in against.items() if (value := _wilcoxon(them)) is not None}
    adjusted = holm(p)
    places = [
        Place(
            method=method,
            rank=whole.index(method) + 1 if method in whole else None,
            psnr=means[method],
            n=len(_by_slice(found[method])),
            difference=statistics.fmean(against[method]) if against.get(method) else None,
            p=p.get(method),
            adjusted=adjusted.get(method),
        )
        for method in (*whole, *(method for method in order if method not in whole))
    ]
    return Ranking(modality, tuple(places))


def _by_slice(runs: Mapping[_Case, float]) -> dict[tuple[str, int], float]:
    """Mean over the seeds of each slice."""
    found: dict[tuple[str, int], list[float]] = {}
    for (scan, number, _), value in runs.items():
        found.setdefault((scan, number), []).append(value)
    return {place: statistics.fmean(values) for place, values in found.items()}


def _differences(runs: Mapping[_Case, float], first: Mapping[_Case, float]) -> list[float]:
    """Of each slice, the mean over the seeds that both have."""
    shared = {key: runs[key] - first[key] for key in runs if key in first}
    return list(_by_slice(shared).values())


def _wilcoxon(differences: Sequence[float]) -> float | None:
    """Two-sided p; None where nothing differs."""
    if not any(differences):
        return None
    # Here, for it takes half a second and the API, which may only want a table, shall not wait for it.
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """P values corrected for their number, so that any false one has the chance named (Holm 1979)."""
    adjusted: dict[str, float] = {}
    least = 0.0
    for done, name in enumerate(sorted(p, key=lambda name: p[name])):
        least = max(least, min(1.0, (len(p) - done) * p[name]))
        adjusted[name] = least
    return adjusted


def render_rankings(found: Sequence[Ranking]) -> str:
    """Markdown, a table for each modality and below it what its number of slices allows to say."""
    parts = []
    for ranking in found:
        rows = [
            (
                str(place.rank or ""),
                place.method,
                f"{place.psnr:.2f}",
                str(place.n),
                _told(place.difference, "+.2f"),
                _told(place.p, ".2g"),
                _told(place.adjusted, ".2g"),
            )
            for place in ranking.places
        ]
        head = (ranking.modality.upper(), "method", "PSNR, dB", "slices", "against the first, dB", "p", "p, Holm")
        lines = [markdown_row(cells) for cells in (head, ["---"] * len(head), *rows)]
        parts.append("\n".join([*lines, "", f"{ranking.remark}."]))
    return "\n\n".join(parts) + "\n"


def _told(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
