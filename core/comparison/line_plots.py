"""Line plots by matplotlib, which only `udig compare` and the benchmarks import: the extra `report`."""

import io
from collections.abc import Mapping, Sequence

from udig_recon.core.errors import ReconstructionError

Curve = tuple[Sequence[float], Sequence[float]]
"""x and y of the points."""

COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"),  # Okabe and Ito's
    *("#8c510a", "#762a83", "#a6d854", "#999999", "#1b7837"),
)
MAX_MARKED_POINTS = 40
"""Curves with more points are drawn without markers."""


def require_matplotlib() -> None:
    """Raise ReconstructionError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ReconstructionError(
            "--figures: iterations and noise need matplotlib; pip install 'udig-recon[report]', or --figures panels",
            field="--figures",
            expected="matplotlib",
        ) from error


def line_plot(title: str, axes: tuple[str, str], curves: Mapping[str, Curve], *, logarithmic: bool = False) -> bytes:
    """PNG of named curves with a legend; `logarithmic`: the x axis, whose values are then positive."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(9.6, 6.0), dpi=100, layout="constrained")
    plot = figure.add_subplot(title=title, xlabel=axes[0], ylabel=axes[1])
    plot.set_prop_cycle(color=COLOURS)
    if logarithmic:
        plot.set_xscale("log")
        plot.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        plot.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        plot.xaxis.set_minor_formatter(NullFormatter())
    for name, (x, y) in curves.items():
        plot.plot(x, y, label=name, linewidth=2, marker="o" if len(x) <= MAX_MARKED_POINTS else None, markersize=5)
    plot.grid(color="#dddddd")
    plot.legend(loc="lower right", fontsize="small")
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
