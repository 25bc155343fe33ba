"""Report of `benchmarks.accuracy.quality`: tables, and which targets are reached.

Gains are PSNR over the peer that is best on that case by the truth.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from udig_recon.core.acquisition import Modality

FLAGGED_SHARE = 0.9
FALSE_ALARMS = 0.05
STANDARD_SECONDS = 60.0
LEAST_GAINS = {"4x": 5.0, "8x": 3.0, "poisson 8x": 3.0, "18 views": 2.5, "30 views": 2.0}
"""dB over the best peer on average, in distribution, by sampling."""

Fields = Mapping[str, Any]


class Row(NamedTuple):
    """One case: what each peer and each method of ours gave."""

    group: str
    foreign: bool  # of anatomy that the prior was not trained on
    modality: Modality
    case: str
    sampling: str
    peers: Mapping[str, Fields]
    ours: Mapping[str, Fields]
    missing_peers: int = 0

    @property
    def at_edge(self) -> bool:
        """Whether the best peer has the first or last of its weights that were tried; they are named in order."""
        if self.best_peer is None:
            return False
        family = self.best_peer[0].rsplit(" ", 1)[0]
        tried = [name for name in self.peers if name.rsplit(" ", 1)[0] == family]
        return self.best_peer[0] in (tried[0], tried[-1])

    @property
    def best_peer(self) -> tuple[str, Fields] | None:
        return max(self.peers.items(), key=lambda item: item[1]["psnr"], default=None)

    @property
    def wavelet(self) -> Fields | None:
        """BART's best run with wavelets."""
        runs = [fields for name, fields in self.peers.items() if name.startswith("BART wavelet")]
        return max(runs, key=lambda fields: fields["psnr"], default=None)

    def gain(self, method: str) -> float | None:
        """dB over the best peer."""
        if method not in self.ours or self.best_peer is None:
            return None
        return float(self.ours[method]["psnr"] - self.best_peer[1]["psnr"])

    @property
    def flagged(self) -> bool | None:
        """Whether `standard` called the scan unlike what its prior was trained on; None: it was not judged."""
        verdict = self.ours.get("standard", {}).get("prior_check")
        return None if verdict is None else bool(verdict["out_of_distribution"])


class Criterion(NamedTuple):
    """A figure that is wanted, and the one measured; None: nothing was measured."""

    what: str
    wanted: str
    value: str | None
    reached: bool | None

    def __str__(self) -> str:
        verdict = {None: "not measured", True: "reached", False: "**not reached**"}[self.reached]
        return f"| {self.what} | {self.wanted} | {self.value or ''} | {verdict} |"


def criteria(rows: Sequence[Row]) -> list[Criterion]:
    """Every figure that is wanted."""
    known, foreign = [row for row in rows if not row.foreign], [row for row in rows if row.foreign]
    brains = [row for row in known if row.modality is Modality.MRI]
    timed = [row for row in rows if row.wavelet is not None and "preview" in row.ours]
    return [
        *(
            _least(f"standard, {sampling}, known anatomy: mean gain", gains(known, "standard", sampling), mean, limit)
            for sampling, limit in LEAST_GAINS.items()
        ),
        _least("standard, known anatomy: worst gain", gains(known, "standard"), min, 0.3),
        _least("standard, foreign anatomy: mean gain", gains(foreign, "standard"), mean, 0.3),
        _least("standard, foreign anatomy: worst gain", gains(foreign, "standard"), min, -0.2),
        _share("foreign scans that are flagged", [row.flagged for row in foreign], FLAGGED_SHARE, at_least=True),
        _share("scans of known anatomy that are flagged", [row.flagged for row in known], FALSE_ALARMS, at_least=False),
        _least("preview, brains: mean gain", gains(brains, "preview"), mean, 2.0),
        _share(
            "MRI: preview, coil maps included, no longer than BART's best wavelet run without them",
            [row.ours["preview"]["seconds"] <= row.wavelet["seconds"] for row in timed if row.wavelet],
            1.0,
            at_least=True,
        ),
        _most("standard: longest, s", [row.ours["standard"]["seconds"] for row in rows if "standard" in row.ours]),
    ]


def gains(rows: Sequence[Row], method: str, sampling: str | None = None) -> list[float]:
    """dB over the best peer of each case where both were measured."""
    chosen = [row.gain(method) for row in rows if sampling in (None, row.sampling)]
    return [gain for gain in chosen if gain is not None]


def _least(what: str, values: list[float], of: Callable[[list[float]], float], limit: float) -> Criterion:
    wanted = f">= {limit:+g} dB"
    if not values:
        return Criterion(what, wanted, None, None)
    return Criterion(what, wanted, f"{of(values):+.2f} dB ({len(values)} cases)", of(values) >= limit)


def _most(what: str, values: list[float]) -> Criterion:
    wanted = f"<= {STANDARD_SECONDS:g} s"
    if not values:
        return Criterion(what, wanted, None, None)
    return Criterion(what, wanted, f"{max(values):.1f} s ({len(values)} cases)", max(values) <= STANDARD_SECONDS)


def _share(what: str, answers: Sequence[bool | None], limit: float, *, at_least: bool) -> Criterion:
    wanted = f"{'>=' if at_least else '<='} {limit:.0%}"
    given = [answer for answer in answers if answer is not None]
    if not given:
        return Criterion(what, wanted, None, None)
    share = sum(given) / len(given)
    return Criterion(
        what, wanted, f"{sum(given)} of {len(given)}", bool(share >= limit if at_least else share <= limit)
    )


def report(rows: Sequence[Row]) -> str:
    """All tables in Markdown."""
    told = [fields for row in rows for fields in (*row.peers.values(), *row.ours.values())]
    threads = sorted({str(fields["threads"]) for fields in told if "threads" in fields})
    engines = sorted({fields["engine"] for row in rows for fields in row.ours.values()})
    parts = [
        "## Figures wanted\n",
        _table(["figure", "wanted", "measured", "verdict"], map(str, criteria(rows))),
        "\n## By group and sampling\n",
        _table(_SUMMARY, (_summary(part) for part in _parts(rows))),
        "\n## Case by case, dB (SSIM)\n",
        _table(_CASES, map(_case, rows)),
        "\n## Seconds a slice: wall (CPU)\n",
        _table(_SECONDS, map(_seconds, rows)),
        "\n`tv` and `l1_wavelet` are ours, their weights found without the truth.",
        *_warnings(rows, engines),
        f"Threads: {', '.join(threads) or 'none'}. State of the engine: {', '.join(engines) or 'none'}.\n",
    ]
    return "\n".join(parts)


_SUMMARY = [
    *("group", "sampling", "cases", "best peer dB (SSIM)", "which", "standard dB (SSIM)", "gain (least to most)"),
    *("preview gain", "peer's wavelets s", "preview s", "standard s", "flagged", "chosen"),
]
_CASES = ["case", "best peer", "which", "standard", "gain", "preview", "tv", "l1_wavelet", "verdict"]
_SECONDS = ["case", "BART ecalib", "BART wavelet", "preview", "its coil maps", "standard", "tv", "l1_wavelet", "load"]


def _warnings(rows: Sequence[Row], engines: Sequence[str]) -> Iterator[str]:
    """What makes the tables less than they seem."""
    if len(engines) > 1:
        yield "**Our results are of several states of the engine, some of older code than others.**"
    if incomplete := [row.case for row in rows if row.missing_peers]:
        yield f"**Not all peers are there yet, so gains may be too large: {', '.join(incomplete)}.**"
    if edges := [row.case for row in rows if row.at_edge]:
        yield f"The best peer's weight is the first or last of those tried, others may be better: {', '.join(edges)}."


def _table(head: Sequence[str], rows: Iterable[str]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


def _parts(rows: Sequence[Row]) -> list[list[Row]]:
    keys = dict.fromkeys((row.group, row.sampling) for row in rows)
    return [[row for row in rows if (row.group, row.sampling) == key] for key in keys]


def _summary(rows: list[Row]) -> str:
    best = [row.best_peer for row in rows if row.best_peer is not None]
    ours = [row.ours["standard"] for row in rows if "standard" in row.ours]
    standard, preview = gains(rows, "standard"), gains(rows, "preview")
    flags = [row.flagged for row in rows if row.flagged is not None]
    cells = [
        f"{rows[0].group}{' (foreign)' if rows[0].foreign else ''}",
        rows[0].sampling,
        str(len(rows)),
        _quality([fields for _, fields in best]),
        ", ".join(sorted({name for name, _ in best})),
        _quality(ours),
        f"{mean(standard):+.2f} ({min(standard):+.2f} to {max(standard):+.2f})" if standard else "",
        f"{mean(preview):+.2f}" if preview else "",
        _mean_seconds([row.wavelet for row in rows]),
        *(_mean_seconds([row.ours.get(method) for row in rows]) for method in ("preview", "standard")),
        f"{sum(flags)} of {len(flags)}" if flags else "",
        ", ".join(sorted({fields["prior_check"]["selected"] for fields in ours if fields.get("prior_check")})),
    ]
    return f"| {' | '.join(cells)} |"


def _quality(results: Sequence[Fields]) -> str:
    if not results:
        return ""
    return f"{mean(fields['psnr'] for fields in results):.2f} ({mean(fields['ssim'] for fields in results):.3f})"


def _mean_seconds(results: Sequence[Fields | None]) -> str:
    seconds = [fields["seconds"] for fields in results if fields is not None]
    return f"{mean(seconds):.1f}" if seconds else ""


def _case(row: Row) -> str:
    name, peer = row.best_peer or ("", None)
    gain = row.gain("standard")
    told = row.ours.get("standard", {}).get("prior_check")
    verdict = (
        f"{told['selected']} {told['prior_weight']:.2f}{', flagged' * told['out_of_distribution']}" if told else ""
    )
    shown = [_quality([row.ours[method]] if method in row.ours else []) for method in ("preview", "tv", "l1_wavelet")]
    standard = _quality([row.ours["standard"]] if "standard" in row.ours else [])
    cells = [_quality([peer] if peer else []), name, standard, "" if gain is None else f"{gain:+.2f}", *shown, verdict]
    return f"| {row.case} | {' | '.join(cells)} |"


def _seconds(row: Row) -> str:
    def both(fields: Fields | None) -> str:
        return f"{fields['seconds']:.1f} ({fields['cpu_seconds']:.1f})" if fields else ""

    preview, standard = row.ours.get("preview"), row.ours.get("standard")
    cells = [
        f"{row.wavelet['maps_seconds']:.1f}" if row.wavelet else "",
        both(row.wavelet),
        both(preview),
        f"{preview['problem_seconds']:.1f}" if preview else "",
        *(both(row.ours.get(method)) for method in ("standard", "tv", "l1_wavelet")),
        f"{standard['load']:.1f}" if standard else "",
    ]
    return f"| {row.case} | {' | '.join(cells)} |"
