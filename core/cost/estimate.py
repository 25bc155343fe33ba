"""Cost estimate of a job before it runs: evaluations of each expensive operation, and so time, memory and files.

Counts follow from the parameters and are upper bounds, since many runs end earlier. Seconds are those of one core of a
CPU, measured by `benchmarks.speed.estimates`; a service multiplies them by the time of its own workers. Torch-free.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from udig_recon.core.acquisition import Modality
from udig_recon.core.cost.evaluations import Evaluations, of_run, of_setup
from udig_recon.core.parameters import Parameters
from udig_recon.core.priors.card import Card
from udig_recon.core.results.outputs import OUTPUTS
from udig_recon.core.scan_geometry import CONTINUED, LARGEST_PAIR_BYTES

# Measured: seconds on one core, bytes at the peak.
NORMAL_SECONDS = 3e-10  # of A^H A in MRI, for coils * pixels * log2(pixels)
ENTRY_SECONDS = 8e-10  # of A^H A in CT, for an entry of the projector
BUILD_SECONDS = 6.5e-8  # of making such an entry
RAY_SECONDS = 1.05e-8  # of A^H A in CT without a stored projector, for a pixel of a view
CALL_SECONDS = 1e-4  # of any A^H A beside
PASS_SECONDS = 3e-9  # of an image operation, for a pixel
PRIOR_SECONDS = 7e-12  # of a prior's evaluation, for a product of its convolutions
PRIOR_CALL_SECONDS = 3e-3
GRADIENT = 2.1  # evaluations that the gradient of one costs
NETWORKS = {"unet": (1.0e-5, 0.02), "residual": (7e-7, 6e-3)}  # of an update: for a pixel, and beside
FORWARD = 0.35  # updates that a network's evaluation alone costs
MAPS_SECONDS = 3e-8  # of ESPIRiT, for coils^2 * pixels
SLICE_SECONDS = 0.4  # of reading, looking at and writing a slice

BASE_BYTES = 320 << 20  # of a worker that has loaded its libraries
COIL_BYTES = 110  # for a pixel of a coil: k-space, maps, spectra
BATCH_COIL_BYTES = 24  # the same for each image that goes through at once
ENTRY_BYTES = 16  # of the projector, which is kept with its transpose
MOST_ENTRIES = LARGEST_PAIR_BYTES / ENTRY_BYTES
WIDEST = 1.5  # sides of the grid of an object that reaches beyond the detector, for those of the image, at most
UNSTORED_BYTES = 120  # for a pixel and a ray of a scan whose projector is not stored, see benchmarks.speed.tomography
PRIOR_BYTES, GRADIENT_BYTES = 460, 1750  # for a pixel, of the bundled priors; with what a gradient needs
NETWORK_BYTES = {"unet": (9000, 80 << 20), "residual": (2200, 100 << 20)}  # for a pixel, and beside
IMAGE_BYTES = 160  # for a pixel of each image that goes through at once
KEPT_COPIES = 3  # of a slice: its own file, the preview, the result
BUNDLED_PRODUCTS = 180_000.0  # for a pixel, of a bundled prior
BUNDLED_CHANNELS = 64.0


@dataclass(frozen=True)
class Size:
    """Sizes that the cost of a slice depends on."""

    modality: Modality
    pixels: int  # of the grid on which it is reconstructed
    shown_pixels: int  # of the image that comes out
    coils: int = 1
    entries: float = 0.0  # of the stored projector
    views: int = 0  # of a scan whose projector is not stored
    rays: int = 0  # of such a scan
    makes_maps: bool = False  # the scan brings none

    @classmethod
    def of(cls, header: Mapping[str, Any]) -> Self:
        """Of a slice of the scan with this header, a `ScanHeader` as JSON."""
        modality, (rows, columns) = Modality(header["modality"]), header["matrix"]
        shown = int(rows) * int(columns)
        if modality is Modality.CT:
            # A shadow of width w lies on 1 + w / p strips, and is 4 / pi pixels wide on average.
            finer = int(header["detectors"]) / int(rows)
            views = int(header["views"])
            wider = WIDEST if CONTINUED in (header.get("corrections") or ()) else 1.0
            grid = math.ceil(shown * wider**2)
            entries = views * grid * (1 + 4 / math.pi * finer)
            # Views at equal steps share up to eighths of the projector.
            if entries > 8 * MOST_ENTRIES:
                return cls(modality, grid, shown, views=views, rays=math.ceil(views * wider * int(header["detectors"])))
            return cls(modality, grid, shown, entries=min(entries, MOST_ENTRIES))
        grid_rows, grid_columns = header.get("kspace_matrix") or (rows, columns)
        coils = int(header.get("coils") or 1)
        grid = int(grid_rows) * int(grid_columns)
        return cls(modality, grid, shown, coils, makes_maps=coils > 1 and not header.get("has_maps"))


class PriorSize(NamedTuple):
    """Cost of a prior's evaluation for each pixel, relative to the bundled priors."""

    products: float = BUNDLED_PRODUCTS
    channels: float = BUNDLED_CHANNELS

    @classmethod
    def of(cls, card: Card | None) -> Self:
        """Of the prior with this card; without one, as the bundled ones."""
        if card is None:
            return cls()
        levels = card.network.levels
        if not levels:
            return cls()
        products = sum(level.blocks * 2 * 9 * level.channels**2 * level.pixel_share for level in levels)
        # The bundled network has 64 channels on a quarter of the pixels.
        return cls(products, sum(level.channels * level.pixel_share for level in levels) / (1.5 * 0.25))


BUNDLED = PriorSize()


class Estimate(NamedTuple):
    """Estimated cost of a job."""

    seconds: float  # of one worker, over all slices
    memory_bytes: int  # of the worker at its peak
    result_bytes: int  # of all that is kept of it, at most


@dataclass(frozen=True)
class Task:
    """Job to estimate: a method with these numbers of slices and seeds, on slices of this size.

    `factor` is the time of the service's workers relative to the built-in seconds.
    """

    method: Parameters
    size: Size
    slices: int
    followers: int = 0  # of the slices, those that take over what another has found
    seeds: int = 1
    outputs: tuple[str, ...] = ("h5",)
    prior: PriorSize = BUNDLED
    factor: float = 1.0

    @property
    def estimate(self) -> Estimate:
        """Estimate of the whole job."""
        return Estimate(self.seconds(), memory_bytes(self.method, self.size, self.prior), self.result_bytes())

    def seconds(self, slices: int | None = None, seeds: int | None = None) -> float:
        """Seconds of the whole job, or with other numbers of slices and seeds."""
        slices = self.slices if slices is None else slices
        seeds = self.seeds if seeds is None else seeds
        followers = self.followers * slices / self.slices
        alone, following = (self._run_seconds(follows=follows) for follows in (False, True))
        runs = (slices - followers) * alone + followers * following
        built = BUILD_SECONDS * self.size.entries  # once for the slices of a volume that follow each other
        return self.factor * (built + slices * self._setup_seconds() + seeds * runs)

    def _setup_seconds(self) -> float:
        maps = MAPS_SECONDS * self.size.coils**2 * self.size.pixels if self.size.makes_maps else 0.0
        setup = of_setup(self.method, self.size.modality, self.size.coils, finds_norm=not self.size.rays)
        return SLICE_SECONDS + maps + seconds_of(setup, self.size, self.prior)

    def _run_seconds(self, *, follows: bool) -> float:
        evaluations = of_run(self.method, self.size.coils, follows=follows)
        return seconds_of(evaluations, self.size, self.prior)

    def result_bytes(self, slices: int | None = None) -> int:
        """Upper bound on the bytes of the stored result; they are measured when the job has ended."""
        complex_image = 8 if self.size.modality is Modality.MRI else 0
        maps = 4 * (self.method.needs_prior + (self.seeds > 1))
        pixel = KEPT_COPIES * (12 + complex_image + maps) + sum(OUTPUTS[name].pixel_bytes for name in set(self.outputs))
        count = self.slices if slices is None else slices
        return count * (pixel * self.size.shown_pixels + (64 << 10))

    def most_slices(self, seconds: float) -> int:
        """Largest number of slices, with these seeds, that takes at most these seconds."""
        return _most(self.slices, lambda number: self.seconds(slices=number) <= seconds)

    def most_seeds(self, seconds: float) -> int:
        """Largest number of seeds of these slices that takes at most these seconds."""
        return _most(self.seeds, lambda number: self.seconds(seeds=number) <= seconds)

    def most_samples(self, memory: int) -> int:
        """Largest `samples` that need at most this memory; 0 where the method has none, or one is too many."""
        if not hasattr(self.method, "samples"):
            return 0

        def fits(number: int) -> bool:
            return memory_bytes(self.method.model_copy(update={"samples": number}), self.size, self.prior) <= memory

        return _most(self.method.samples, fits)


def seconds_of(evaluations: Evaluations, size: Size, prior: PriorSize = BUNDLED) -> float:
    """Seconds of one core for these evaluations."""
    if size.modality is Modality.MRI:
        normal = NORMAL_SECONDS * size.coils * size.pixels * max(1.0, math.log2(size.pixels))
    else:
        normal = ENTRY_SECONDS * size.entries + RAY_SECONDS * size.views * size.pixels
    called = PRIOR_SECONDS * prior.products * size.pixels + PRIOR_CALL_SECONDS
    updates = sum(
        number * (NETWORKS[name][0] * size.pixels + NETWORKS[name][1])
        for name, number in (
            ("unet", evaluations.unet_updates + FORWARD * evaluations.unet_calls),
            ("residual", evaluations.residual_updates + FORWARD * evaluations.residual_calls),
        )
    )
    return (
        evaluations.normals * (normal + CALL_SECONDS)
        + evaluations.passes * PASS_SECONDS * size.pixels
        + (evaluations.prior_calls + GRADIENT * evaluations.prior_gradients) * called
        + updates
    )


def memory_bytes(method: Parameters, size: Size, prior: PriorSize = BUNDLED) -> int:
    """Peak memory of a worker. It does not depend on the number of slices and seeds, which run one after the other."""
    run = of_run(method, size.coils)
    batch, pixels = run.batch, size.pixels
    operator = size.coils * pixels * (COIL_BYTES + BATCH_COIL_BYTES * (1 if run.batch_is_coils else batch))
    if size.modality is Modality.CT:
        operator = int(ENTRY_BYTES * size.entries + UNSTORED_BYTES * (size.rays + (pixels if size.rays else 0)))
    wide = prior.channels / BUNDLED_CHANNELS
    evaluated = GRADIENT_BYTES if run.prior_gradients else PRIOR_BYTES if run.prior_calls else 0
    total = BASE_BYTES + operator + pixels * batch * (IMAGE_BYTES + evaluated * wide)
    for name, used in (("unet", run.unet_updates), ("residual", run.residual_updates)):
        if used:
            total += NETWORK_BYTES[name][0] * pixels * (batch if name == "unet" else 1) + NETWORK_BYTES[name][1]
    return int(total)


def _most(wanted: int, fits: Any) -> int:
    """Largest number up to `wanted` that fits, by bisection: if a number does not fit, larger ones do not."""
    least, most = 0, wanted
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(middle) else (least, middle - 1)
    return least
