"""Output format `png`, and PNG pictures of images (y, x): magnitudes, errors, comparisons, contact sheets.

Row 0 is at the top.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from udig_recon.core.acquisition import frame_labels
from udig_recon.core.interruption import check_interruption
from udig_recon.core.results.output_format import OutputFormat, ResultInfo, ResultSlice
from udig_recon.core.results.spool import SpooledImages

Window = tuple[float, float]

_PANEL = 320  # least pixels a side of a comparison's panel
_THUMBNAIL = 256  # most pixels a side of a contact sheet's slice
_SHEET = 4096  # about the most pixels a side of a contact sheet
_MARGIN = 8
_FRAME = 2  # pixels around an inset
_SQUARE = 1.02  # sides of a pixel that are as good as equal, by their ratio
_LONGEST = 8  # ratio of the sides of a pixel beyond which nothing is drawn larger
_TITLE = 16  # font size
_LINE = 40  # most characters in a line of an inset's title
_SHORT_LINE = 24  # the same of a contact sheet's


def display_window(image: NDArray[Any]) -> Window:
    """Black and white level: 0 and the 99.8th percentile of the magnitude, which a few bright pixels do not move."""
    white = float(np.percentile(np.abs(image), 99.8))
    return 0.0, white if white > 0 else max(float(np.abs(image).max()), 1.0)


def square_pixels(image: NDArray[Any], spacing_mm: Sequence[float] | None) -> NDArray[Any]:
    """An image (y, x[, channels]) with pixels of these sizes (y, x) resampled to square pixels of the smaller size.

    Viewers draw pixels as squares, whatever a PNG says. Where one side is a whole multiple of the other, pixels
    are repeated; otherwise values are interpolated along that axis. Beyond a ratio of 8 the image stays as it is.
    """
    ratio = 1.0 if spacing_mm is None else spacing_mm[0] / spacing_mm[1]
    axis, factor = (0, ratio) if ratio >= 1 else (1, 1 / ratio)
    if not _SQUARE < factor <= _LONGEST:
        return image
    if abs(factor - round(factor)) < _SQUARE - 1:
        return np.repeat(image, round(factor), axis)
    size = image.shape[axis]
    at = np.clip((np.arange(round(size * factor)) + 0.5) / factor - 0.5, 0, size - 1)
    below = np.minimum(at.astype(int), max(size - 2, 0))
    share = (at - below).astype(np.float32).reshape(-1, *(1,) * (image.ndim - 1 - axis))
    low, high = np.take(image, below, axis), np.take(image, np.minimum(below + 1, size - 1), axis)
    between: NDArray[Any] = low + share * (high.astype(np.float32) - low)
    return between


def magnitude_png(
    image: NDArray[Any], window: Window | None = None, spacing_mm: Sequence[float] | None = None
) -> bytes:
    """The magnitude of an image (y, x) in greys, one pixel each; a real image below black stays black.

    With pixels of unlike sides, `spacing_mm` (y, x), it is drawn as `square_pixels` has it.
    """
    window = window or display_window(image)
    return _png(Image.fromarray(_to_greys(square_pixels(_magnitude(image), spacing_mm), window)))


def error_png(
    image: NDArray[Any],
    reference: NDArray[Any],
    gain: float = 5,
    spacing_mm: Sequence[float] | None = None,
    window: Window | None = None,
) -> bytes:
    """| |image| - |reference| | times `gain` on a window from 0, by default the reference's, both (y, x)."""
    return _png(Image.fromarray(np.uint8(square_pixels(_error(image, reference, gain, window), spacing_mm))))


def overlay_png(
    image: NDArray[Any],
    heat: NDArray[Any],
    hottest: float,
    spacing_mm: Sequence[float] | None = None,
    window: Window | None = None,
) -> bytes:
    """An image (y, x) in greys on a window, the redder the nearer `heat` (y, x) is to `hottest`."""
    greys = _to_greys(image, window or display_window(image)).astype(np.float32)[..., None]
    share = np.clip(np.nan_to_num(heat) / hottest, 0, 1)[..., None]
    coloured = greys + share * (np.array([255, 0, 0], np.float32) - greys)
    return _png(Image.fromarray(np.uint8(square_pixels(coloured, spacing_mm) + 0.5)))


def comparison_png(
    panels: Sequence[tuple[str, NDArray[Any]]],
    reference: NDArray[Any] | None = None,
    gain: float = 5,
    spacing_mm: Sequence[float] | None = None,
) -> bytes:
    """Titled images (y, x) side by side on one window; with a reference their errors times `gain` below.

    A title may have several lines.
    """
    return _png(_comparison(panels, reference, gain, spacing_mm))


def comparison_greys(
    panels: Sequence[tuple[str, NDArray[Any]]],
    reference: NDArray[Any] | None = None,
    gain: float = 5,
    spacing_mm: Sequence[float] | None = None,
    *,
    note: str,
) -> NDArray[np.uint8]:
    """The pixels (y, x) of the same picture, with a note below."""
    picture = _comparison(panels, reference, gain, spacing_mm)
    font = ImageFont.load_default(_TITLE)
    left, _, right, bottom = ImageDraw.Draw(picture).multiline_textbbox((_MARGIN, 0), note, font=font)
    width = max(picture.width, math.ceil(right - left) + 2 * _MARGIN)
    noted = Image.new("L", (width, picture.height + math.ceil(bottom) + _MARGIN))
    noted.paste(picture, (0, 0))
    ImageDraw.Draw(noted).multiline_text((_MARGIN, picture.height), note, fill=255, font=font)
    return np.asarray(noted)


def _comparison(
    panels: Sequence[tuple[str, NDArray[Any]]],
    reference: NDArray[Any] | None,
    gain: float,
    spacing_mm: Sequence[float] | None,
) -> Image.Image:
    window = display_window(panels[0][1] if reference is None else reference)
    rows = [[(title, _to_greys(image, window)) for title, image in panels]]
    if reference is not None:
        rows.append([_titled_error(image, reference, gain) for _, image in panels])
    square = [[(title, square_pixels(greys, spacing_mm).astype(np.uint8)) for title, greys in row] for row in rows]
    return _sheet([[(title, _enlarge(greys)) for title, greys in row] for row in square])


def rows_png(rows: Sequence[Sequence[tuple[str, NDArray[Any]]]], gain: float = 5) -> bytes:
    """Rows of titled images (y, x), all of one size, on the window of a row's first; then the error of its last."""
    sheet = []
    for row in rows:
        reference = row[0][1]
        greys = [(title, _to_greys(image, display_window(reference))) for title, image in row]
        sheet.append([*greys, _titled_error(row[-1][1], reference, gain)])
    return _png(_sheet([[(title, _enlarge(greys)) for title, greys in row] for row in sheet]))


def insets_png(
    title: str,
    reference: NDArray[Any] | None,
    images: Sequence[tuple[str, NDArray[Any]]],
    gain: float = 5,
    across: int = 5,
    spacing_mm: Sequence[float] | None = None,
) -> bytes:
    """The titled reference and titled images (y, x) on its window, `across` beside each other; long titles are broken.

    Each has its busiest part enlarged, as the reference tells it, and but for the reference its error times `gain`.
    With pixels of unlike sides, `spacing_mm` (y, x), all are drawn as `square_pixels` has them. Without a reference the
    first image gives window and part, and there is neither its tile nor an error.
    """
    first = images[0][1] if reference is None else reference
    window, truth = display_window(first), square_pixels(np.abs(first), spacing_mm)
    corner = busiest_corner(truth)
    tiles = []
    if reference is not None:
        tiles.append((title, _enlarge(_to_greys(add_inset(truth, corner, window[1]), window))))
    for name, image in images:
        error = None
        if reference is not None:
            error = square_pixels(gain * np.abs(np.abs(image) - np.abs(reference)), spacing_mm)
        drawn = add_inset(square_pixels(np.abs(image), spacing_mm), corner, window[1], error)
        tiles.append((name, _enlarge(_to_greys(drawn, window))))
    broken = [("\n".join(fill(line, _LINE) for line in name.splitlines()), tile) for name, tile in tiles]
    return _png(_sheet([broken[start : start + across] for start in range(0, len(broken), across)]))


def busiest_corner(image: NDArray[Any]) -> tuple[int, int]:
    """Top left corner of the square of an inset's size with the largest gradients."""
    side = _inset_side(image)
    slope = np.hypot(*np.gradient(np.abs(image)))
    capped = np.minimum(slope, np.percentile(slope, 99))
    sums = np.pad(capped.cumsum(axis=0, dtype=np.float64).cumsum(axis=1), ((1, 0), (1, 0)))
    energy = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    y, x = np.unravel_index(int(energy.argmax()), energy.shape)
    return int(y), int(x)


def add_inset(
    image: NDArray[Any], corner: tuple[int, int], white: float, error: NDArray[Any] | None = None
) -> NDArray[np.float32]:
    """The image at twice its size; a framed part of it at twice that again, in the corner away from the part.

    The same part of an error (y, x) stands in the corner beside.
    """
    side = _inset_side(image)
    y, x = corner
    large = np.kron(np.abs(image), np.ones((2, 2)))
    for edge in (2 * y, 2 * (y + side) - 1):
        large[edge, 2 * x : 2 * (x + side)] = white
    for edge in (2 * x, 2 * (x + side) - 1):
        large[2 * y : 2 * (y + side), edge] = white
    height, width = image.shape
    part_is_above, part_is_left = y < (height - side) / 2, x < (width - side) / 2
    for source, on_the_right in ((np.abs(image), part_is_left), (error, not part_is_left)):
        if source is None:
            continue
        enlarged = np.kron(source[y : y + side, x : x + side], np.ones((4, 4)))
        framed = np.pad(enlarged, _FRAME, constant_values=white)
        rows = slice(-len(framed), None) if part_is_above else slice(len(framed))
        columns = slice(-len(framed), None) if on_the_right else slice(len(framed))
        large[rows, columns] = framed
    return large.astype(np.float32)


def _inset_side(image: NDArray[Any]) -> int:
    """Pixels a side of what an inset enlarges: two of them, at four times their size, fit into twice the image."""
    return max(1, int(min(image.shape)) * 3 // 16)


def contact_sheet_png(
    volume: Sequence[NDArray[Any]], spacing_mm: Sequence[float] | None = None, titles: Sequence[str] = ()
) -> bytes:
    """All slices (y, x) on the brightest one's window, titled or numbered from 0, in rows from the top left."""
    window = max(display_window(image) for image in volume)
    across = math.ceil(math.sqrt(len(volume)))
    side = min(_THUMBNAIL, _SHEET // across)
    names = [fill(title, _SHORT_LINE) for title in titles] or [str(index) for index in range(len(volume))]
    tiles = [
        (name, _shrink(_to_greys(square_pixels(_magnitude(image), spacing_mm), window), side))
        for name, image in zip(names, volume, strict=True)
    ]
    return _png(_sheet([tiles[start : start + across] for start in range(0, len(tiles), across)]))


def _magnitude(image: NDArray[Any]) -> NDArray[Any]:
    return np.abs(image) if np.iscomplexobj(image) else np.asarray(image)


def _to_greys(image: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    check_interruption()
    values = np.abs(image) if np.iscomplexobj(image) else image
    black, white = window
    scaled = (np.nan_to_num(values) - black) / (white - black)
    return np.asarray(np.clip(scaled * 255 + 0.5, 0, 255), np.uint8)


def _error(
    image: NDArray[Any], reference: NDArray[Any], gain: float, window: Window | None = None
) -> NDArray[np.uint8]:
    difference = np.abs(np.abs(image) - np.abs(reference))
    return _to_greys(gain * difference, window or display_window(reference))


def _titled_error(image: NDArray[Any], reference: NDArray[Any], gain: float) -> tuple[str, NDArray[np.uint8]]:
    """An error image with its title; of the reference itself an empty one."""
    title = "" if np.array_equal(image, reference) else f"error x{gain:g}"
    return title, _error(image, reference, gain)


def _enlarge(greys: NDArray[np.uint8]) -> Image.Image:
    """Every pixel as a square of whole pixels: interpolation would show detail that is not there."""
    factor = math.ceil(_PANEL / max(greys.shape))
    return Image.fromarray(np.kron(greys, np.ones((factor, factor), np.uint8)))


def _shrink(greys: NDArray[np.uint8], side: int) -> Image.Image:
    picture = Image.fromarray(greys)
    picture.thumbnail((side, side))
    return picture


def _sheet(rows: Sequence[Sequence[tuple[str, Image.Image]]]) -> Image.Image:
    """Rows of titled pictures of one size."""
    font = ImageFont.load_default(_TITLE)
    pen = ImageDraw.Draw(Image.new("L", (1, 1)))
    boxes = [pen.multiline_textbbox((0, 0), title, font=font) for row in rows for title, _ in row]
    tile = rows[0][0][1].size
    width = max(tile[0], math.ceil(max(box[2] for box in boxes))) + _MARGIN
    heads = [
        math.ceil(max(pen.multiline_textbbox((0, 0), title, font=font)[3] for title, _ in row)) + _MARGIN
        for row in rows
    ]
    across = max(len(row) for row in rows)
    sheet = Image.new("L", (across * width + _MARGIN, sum(heads) + len(rows) * (tile[1] + _MARGIN) + _MARGIN))
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for row, head in zip(rows, heads, strict=True):
        for column, (title, picture) in enumerate(row):
            left = _MARGIN + column * width
            draw.multiline_text((left, top), title, fill=255, font=font)
            sheet.paste(picture, (left, top + head))
        top += head + tile[1] + _MARGIN
    return sheet


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


class PngWriter:
    """Keeps the images until the last one is there: all are drawn on the window of the brightest."""

    def __init__(self, folder: Path) -> None:
        self._images = SpooledImages(folder)

    def add(self, result: ResultSlice) -> None:
        """Keep the image."""
        self._images.append(result.image)

    def picture(self, info: ResultInfo) -> bytes:
        """The only slice, or a contact sheet of all."""
        spacing = info.pixel_spacing_mm
        if len(self._images) == 1:
            return magnitude_png(self._images[0], None, spacing)
        titles = frame_labels(info.frames) or [str(number) for number in info.slice_numbers]
        return contact_sheet_png(self._images, spacing, titles)

    def close(self) -> None:
        """Delete the temporary file."""
        self._images.close()


@contextmanager
def open_writer(path: Path, info: ResultInfo) -> Iterator[PngWriter]:
    """A writer of a .png file: the slice, or a contact sheet of several."""
    writer = PngWriter(path.parent)
    try:
        yield writer
        path.write_bytes(writer.picture(info))
    finally:
        writer.close()


FORMAT = OutputFormat("png", ".png", "image/png", "a picture of the slice, or a sheet of all slices", open_writer, 2)
