"""Plots of lines, drawn by Pillow."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle

from PIL import Image, ImageDraw, ImageFont

Curve = tuple[Sequence[float], Sequence[float]]

_SIZE = (960, 600)
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 24, 48, 64  # margins
_COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"),  # Okabe and Ito's
    *("#8c510a", "#762a83", "#a6d854", "#999999", "#1b7837"),
)
_INK, _GRID = "#222222", "#dddddd"
_MARKED = 40
"""Curves of at most so many points have them marked."""


def lines_png(title: str, axes: tuple[str, str], curves: Mapping[str, Curve], *, logarithmic: bool = False) -> bytes:
    """Named curves (x, y) with a legend; `logarithmic`: the x axis, whose values are then positive."""
    picture = Image.new("RGB", _SIZE, "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    xs, ys = ([value for curve in curves.values() for value in curve[axis]] for axis in (0, 1))
    y_ticks = ticks(min(ys), max(ys))
    x_ticks = decades(min(xs), max(xs)) if logarithmic else ticks(min(xs), max(xs))
    right, bottom = _SIZE[0] - _RIGHT, _SIZE[1] - _BOTTOM
    across = _scale((min(x_ticks[0], *xs), max(x_ticks[-1], *xs)), (_LEFT, right), logarithmic)
    down = _scale((min(y_ticks[0], *ys), max(y_ticks[-1], *ys)), (bottom, _TOP), False)
    for x in x_ticks:
        draw.line([(across(x), _TOP), (across(x), bottom)], fill=_GRID)
        draw.text((across(x), bottom + 8), f"{x:g}", fill=_INK, font=font, anchor="mt")
    for y in y_ticks:
        draw.line([(_LEFT, down(y)), (right, down(y))], fill=_GRID)
        draw.text((_LEFT - 8, down(y)), f"{y:g}", fill=_INK, font=font, anchor="rm")
    draw.rectangle([_LEFT, _TOP, right, bottom], outline=_INK)
    draw.text((_SIZE[0] / 2, _TOP / 2), title, fill=_INK, font=ImageFont.load_default(19), anchor="mm")
    draw.text(((_LEFT + right) / 2, _SIZE[1] - 18), axes[0], fill=_INK, font=font, anchor="mm")
    _upright(picture, axes[1], font, (_TOP + bottom) // 2)
    for (x_values, y_values), colour in zip(curves.values(), cycle(_COLOURS), strict=False):
        points = [(across(x), down(y)) for x, y in zip(x_values, y_values, strict=True)]
        draw.line(points, fill=colour, width=3, joint="curve")
        for x, y in points if len(points) <= _MARKED else ():
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
    _legend(draw, list(curves), font, (right, bottom))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers about so many, in steps of 1, 2 or 5 times a power of ten, from below `low` to above `high`."""
    raw = (high - low or abs(high) or 1.0) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * count, 12) for count in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten in the range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [value for value in fine if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)] or [low, high]


def _scale(values: tuple[float, float], pixels: tuple[int, int], logarithmic: bool) -> Callable[[float], float]:
    low, high = (math.log10(value) if logarithmic else value for value in values)

    def place(value: float) -> float:
        share = ((math.log10(value) if logarithmic else value) - low) / ((high - low) or 1.0)
        return pixels[0] + share * (pixels[1] - pixels[0])

    return place


def _upright(picture: Image.Image, text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, middle: int) -> None:
    """Text that reads upwards at the left edge."""
    size = (round(font.getlength(text)) + 4, 24)
    label = Image.new("RGB", size, "white")
    ImageDraw.Draw(label).text((2, 12), text, fill=_INK, font=font, anchor="lm")
    picture.paste(label.rotate(90, expand=True), (8, middle - size[0] // 2))


def _legend(
    draw: ImageDraw.ImageDraw,
    names: Sequence[str],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    corner: tuple[int, int],
) -> None:
    """Names in a box in the lower right corner of the axes."""
    width, line = math.ceil(max(font.getlength(name) for name in names)) + 56, 24
    left, top = corner[0] - width - 10, corner[1] - line * len(names) - 18
    draw.rectangle([left, top, corner[0] - 10, corner[1] - 10], fill="white", outline=_GRID)
    for row, (name, colour) in enumerate(zip(names, cycle(_COLOURS), strict=False)):
        y = top + 4 + line * (row + 0.5)
        draw.line([(left + 8, y), (left + 36, y)], fill=colour, width=3)
        draw.text((left + 44, y), name, fill=_INK, font=font, anchor="lm")
