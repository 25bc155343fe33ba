"""A reconstruction watched: its quality measured now and then on the way, and at its end."""

from collections.abc import Iterable, Iterator

from udig_recon.core.iterates import Iterate
from udig_recon.core.reconstruct import Quality, SliceProblem

EVERY = 10
"""Iterates from one measurement to the next."""

Curves = dict[str, list[float]]
"""`iteration`, `data_residual` and, with a reference, `psnr` and `ssim`: a value for each measurement."""


def with_quality(
    problem: SliceProblem, iterates: Iterable[Iterate], curves: Curves
) -> Iterator[tuple[Iterate, Quality | None]]:
    """The iterates, each with its quality where it was measured; the curves, empty at first, grow by what was."""
    measured_at = curves["iteration"][-1] if curves.get("iteration") else 0
    for iterate in iterates:
        quality = None
        if iterate.step == iterate.steps or (iterate.step % EVERY == 0 and iterate.step != measured_at):
            quality, measured_at = problem.quality(iterate.image), iterate.step
            curves.setdefault("iteration", []).append(iterate.step)
            for name in ("data_residual", "psnr", "ssim"):
                if (value := getattr(quality, name)) is not None:
                    curves.setdefault(name, []).append(value)
        yield iterate, quality
