"""Ranking of methods by mean PSNR, with Wilcoxon signed-rank tests against the best one and Holm's correction."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from udig_recon.core.acquisition import Modality
from udig_recon.core.comparison.entries import Entry, samplings_of
from udig_recon.core.comparison.tables import markdown_table

SIGNIFICANCE = 0.05

_Slice = tuple[str, int]  # scan, number
_Run = tuple[str, int, int]  # scan, number, seed


@dataclass(frozen=True)
class RankedMethod:
    """One method compared with the best of its modality.

    A method without a result for a slice that another method has gets no rank, and is not tested.
    """

    method: str
    rank: int | None
    psnr: float  # dB, mean over its slices, seeds of each averaged
    n_slices: int
    difference: float | None = None  # dB, mean over the slices; None for the best
    p: float | None = None  # Wilcoxon's signed-rank test of the differences, two-sided
    p_adjusted: float | None = None  # after Holm, for all methods tested


@dataclass(frozen=True)
class Ranking:
    """The methods of one modality, best first, over the same slices."""

    modality: Modality
    methods: tuple[RankedMethod, ...]

    @property
    def n_slices(self) -> int:
        """Number of paired slices, each sampling counted."""
        return max((method.n_slices for method in self.methods), default=0)

    @property
    def min_p(self) -> float:
        """The smallest p that so many pairs can give: all differences have one sign."""
        return min(1.0, 2.0 ** (1 - self.n_slices))

    @property
    def note(self) -> str:
        """What this number of pairs can and cannot show."""
        if not self.methods:
            return "no scan has a reference, so nothing is ranked"
        tests = max(1, sum(method.p is not None for method in self.methods))
        if self.min_p * tests > SIGNIFICANCE:
            return (
                f"n = {self.n_slices} is too few to tell: if all differences had one sign, p would still be "
                f"{self.min_p:.2g} before its correction for {tests} comparisons"
            )
        return f"n = {self.n_slices}; slices of one person, or of one image at two samplings, are not independent"


@dataclass
class _MethodScores:
    """PSNR of one method's runs."""

    psnr: dict[_Run, float] = field(default_factory=dict)

    @property
    def slices(self) -> set[_Slice]:
        return {(scan, number) for scan, number, _ in self.psnr}

    @property
    def mean(self) -> float:
        return statistics.fmean(_mean_over_seeds(self.psnr))

    def differences(self, best: "_MethodScores") -> list[float]:
        """For each slice, the mean difference over the seeds that both methods have."""
        return _mean_over_seeds({run: self.psnr[run] - best.psnr[run] for run in self.psnr if run in best.psnr})


def rank_methods(entries: Sequence[Entry]) -> list[Ranking]:
    """A ranking for each modality; pairs have the same scan, slice and seed, and the seeds of a slice are averaged."""
    return [_rank(modality, entries) for modality in samplings_of(entries)]


def _rank(modality: Modality, entries: Sequence[Entry]) -> Ranking:
    scores: dict[str, _MethodScores] = {}
    for entry in entries:
        if entry.modality is modality and entry.psnr is not None and math.isfinite(entry.psnr):
            runs = scores.setdefault(entry.method, _MethodScores())
            runs.psnr[entry.scan, entry.slice, entry.seed] = entry.psnr
    all_slices = set().union(*(each.slices for each in scores.values()))
    by_mean = sorted(scores, key=lambda method: scores[method].mean, reverse=True)
    complete = [method for method in by_mean if scores[method].slices == all_slices]
    incomplete = [method for method in by_mean if scores[method].slices != all_slices]

    differences = {method: scores[method].differences(scores[complete[0]]) for method in complete[1:]}
    p_values = {method: _wilcoxon(values) for method, values in differences.items()}
    p_adjusted = holm({method: p for method, p in p_values.items() if p is not None})

    ranked = []
    for rank, method in enumerate(complete, start=1):
        # Seeds need not overlap: without a pair there is no difference.
        values = differences.get(method)
        ranked.append(
            RankedMethod(
                method=method,
                rank=rank,
                psnr=scores[method].mean,
                n_slices=len(scores[method].slices),
                difference=statistics.fmean(values) if values else None,
                p=p_values.get(method),
                p_adjusted=p_adjusted.get(method),
            )
        )
    for method in incomplete:
        ranked.append(RankedMethod(method, None, scores[method].mean, len(scores[method].slices)))
    return Ranking(modality, tuple(ranked))


def _mean_over_seeds(runs: Mapping[_Run, float]) -> list[float]:
    """The mean over the seeds of each slice."""
    slices: dict[_Slice, list[float]] = {}
    for (scan, number, _), value in runs.items():
        slices.setdefault((scan, number), []).append(value)
    return [statistics.fmean(values) for values in slices.values()]


def _wilcoxon(differences: Sequence[float]) -> float | None:
    """Two-sided p; None where nothing differs."""
    if not any(differences):
        return None
    # Imported here because it takes half a second, which the API would pay for tables too.
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values adjusted for the number of tests, by the step-down method of Holm (1979)."""
    adjusted: dict[str, float] = {}
    running_max = 0.0
    for index, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        running_max = max(running_max, min(1.0, (len(p_values) - index) * p_values[name]))
        adjusted[name] = running_max
    return adjusted


def render_rankings(rankings: Iterable[Ranking]) -> str:
    """Markdown: a table for each modality, and below it what its number of slices can show."""
    parts = []
    for ranking in rankings:
        head = (ranking.modality.upper(), "method", "PSNR, dB", "slices", "against the best, dB", "p", "p, Holm")
        rows = [
            (
                str(each.rank or ""),
                each.method,
                f"{each.psnr:.2f}",
                str(each.n_slices),
                "" if each.difference is None else f"{each.difference:+.2f}",
                "" if each.p is None else f"{each.p:.2g}",
                "" if each.p_adjusted is None else f"{each.p_adjusted:.2g}",
            )
            for each in ranking.methods
        ]
        parts.append(f"{markdown_table(head, rows)}\n\n{ranking.note}.")
    return "\n\n".join(parts) + "\n"
