"""Out-of-distribution (OOD) score: how unlike a prior's training images an image is, by the prior's own features.

The score is the Mahalanobis distance of inner features from those of the training images (Lee et al. 2018), divided by
a limit; above 1 the image is out of distribution. Few images determine the covariance only in the directions in which
they differ most, so it is shrunk towards one variance for all directions (Ledoit and Wolf 2004). `training/ood.py`
measures the statistics and writes them beside the prior's weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from udig_recon.core.errors import MissingPrior
from udig_recon.core.normalisation import intensity_scale
from udig_recon.core.priors.card import Card
from udig_recon.core.priors.edm import EDMPrior

SHRINKAGE = 0.1
"""Weight of the one variance for all directions."""
OBJECT_THRESHOLD = 0.05
"""Pixels below this value are air; images are scaled to about [0, 1]."""


class FeatureProbe(NamedTuple):
    """Where in the prior's network features are taken, and at which noise level."""

    prefix: str  # of the tensors' names in the statistics file
    levels_above_coarsest: int
    sigma: float  # noise level given to the network: a higher one hides texture
    min_limit: float  # lower bound of the limit: few people cannot show how far another person's images lie


PROBES = (FeatureProbe("", 0, 0.2, 1.5), FeatureProbe("middle_", 1, 0.5, 0.9))
"""The first probe detects other anatomy where a prior knows one kind; the second one metal, phantoms and other objects
that are not tissue."""


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Distribution of a probe's features (F,) over training images: mean, spread (F,) and K principal directions."""

    mean: Tensor  # (F,)
    spread: Tensor  # (F,) standard deviations
    directions: Tensor  # (F, K) principal directions of standardised features
    variances: Tensor  # (K,) along the directions
    limit: Tensor  # () distance that images of unseen people seldom exceed

    def distances(self, features: Tensor) -> Tensor:
        """Mahalanobis distances (N,) of features (N, F), per feature: about 1 for training images."""
        standard = (features - self.mean) / self.spread
        along = (standard @ self.directions).square()
        across = (standard.square().sum(1) - along.sum(1)).clamp(min=0)
        return (((along / self.variances).sum(1) + across / SHRINKAGE) / standard.shape[1]).sqrt()

    def score(self, features: Tensor) -> float:
        """OOD score of one image's features (F,): its distance as a multiple of the limit."""
        return float(self.distances(features[None]) / self.limit)


def extract_features(prior: EDMPrior, image: Tensor, probe: FeatureProbe) -> Tensor:
    """Mean and standard deviation of each channel of a level over the object: (F,), F twice the channels.

    The image (1, C, H, W) may have any brightness and phase.
    """
    magnitude = image.norm(dim=1, keepdim=True)
    x = F.pad(magnitude / intensity_scale(image), (0, 0, 0, 0, 0, image.shape[1] - 1))
    with torch.no_grad():
        level = prior.encoder_features(x, probe.sigma, probe.levels_above_coarsest)
    is_object = (F.adaptive_avg_pool2d(x[:, :1], (level.shape[-2], level.shape[-1])) > OBJECT_THRESHOLD).float()
    weights = is_object / is_object.sum().clamp(min=1)
    mean = (level * weights).sum((2, 3), keepdim=True)
    deviation = ((level - mean).square() * weights).sum((2, 3)).sqrt()
    return torch.cat([mean[0, :, 0, 0], deviation[0]]).cpu()


def load_ood_scorer(prior: nn.Module, card: Card) -> Callable[[Tensor], float] | None:
    """A function that gives the OOD score of an image (1, C, H, W): the highest score of all probes.

    Returns None for a prior without statistics. Raises MissingPrior when the statistics file cannot be read.
    """
    if not isinstance(prior, EDMPrior):
        return None
    statistics = read_statistics(card)
    if not statistics:
        return None
    return lambda image: max(
        probe_statistics.score(extract_features(prior, image, probe)) for probe, probe_statistics in statistics.items()
    )


def read_statistics(card: Card) -> Mapping[FeatureProbe, FeatureStatistics]:
    """The statistics of each probe; empty when the prior has no file, or a file made from other weights.

    A file written before the second probe existed has the first one only. Raises MissingPrior for an unreadable file.
    """
    path = statistics_path(card)
    if not path.exists():
        # Version 0.1 named the file so.
        path = card.weights.with_name(f"{card.name}.familiarity.safetensors")
    if not path.exists():
        return {}
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("prior") != card.sha256:
                return {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no dict
        names = [field.name for field in fields(FeatureStatistics)]
        return {
            probe: FeatureStatistics(**{name: tensors[probe.prefix + name] for name in names})
            for probe in PROBES
            if not probe.prefix or probe.prefix + names[0] in tensors
        }
    except (SafetensorError, KeyError) as error:
        raise MissingPrior(
            f"prior {card.name}: {path.name} cannot be read; write it again with `udig calibrate-ood`, or remove it",
            field="parameters.prior",
            found=card.name,
            expected=f"a file {path.name} written by `udig calibrate-ood`",
        ) from error


def statistics_path(card: Card) -> Path:
    """The statistics file of a prior, beside its weights."""
    return card.weights.with_name(f"{card.name}.ood.safetensors")
