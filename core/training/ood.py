"""Calibration of the out-of-distribution (OOD) score: statistics of a prior's features over its training images."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from udig_recon.core.errors import ReconstructionError
from udig_recon.core.files.atomic import atomic_write
from udig_recon.core.priors.card import Card
from udig_recon.core.priors.edm import EDMPrior
from udig_recon.core.priors.load import load_card
from udig_recon.core.priors.ood import (
    PROBES,
    SHRINKAGE,
    FeatureProbe,
    FeatureStatistics,
    extract_features,
    statistics_path,
)
from udig_recon.core.training.dataset import Source, TrainingImage

DIRECTIONS = 64
SLICES_PER_SOURCE = 48
FALSE_ALARM_RATE = 0.05


def calibrate_ood(
    card: Card, images: Sequence[TrainingImage], sources: Sequence[Source], device: torch.device
) -> Mapping[FeatureProbe, FeatureStatistics]:
    """Measure the feature statistics of a prior's training images, write them beside its weights and return them.

    The limit of each probe is the distance that a share `FALSE_ALARM_RATE` of the slices exceeds when their person is
    left out. Raises ReconstructionError for a prior whose network this project does not train.
    """
    prior = load_card(card, device)
    if not isinstance(prior, EDMPrior):
        raise ReconstructionError(
            f"{card.name} has the architecture {card.network.architecture}; expected a prior trained by train-prior"
        )
    people = {source.name: source.person for source in sources}
    selected: list[TrainingImage] = []
    for source in people:
        slices = [image for image in images if image.source == source]
        selected += slices[:: max(1, math.ceil(len(slices) / SLICES_PER_SOURCE))]
    person_of_slice = [people[image.source] for image in selected]
    # The magnitude is the first channel; the others, the imaginary part in MRI, are zero.
    padding = (0, 0, 0, 0, 0, prior.channels - 1)
    slices_on_device = [F.pad(image.pixels[None].to(device).float(), padding) for image in selected]
    statistics = {
        probe: _measure(
            torch.stack([extract_features(prior, x, probe) for x in slices_on_device]), person_of_slice, probe
        )
        for probe in PROBES
    }
    tensors = {probe.prefix + name: value for probe, each in statistics.items() for name, value in vars(each).items()}
    with atomic_write(statistics_path(card)) as part:
        save_file(tensors, part, {"prior": card.sha256})
        part.chmod(0o644)  # safetensors writes for the owner alone; a worker may run as another user
    return statistics


def _measure(features: Tensor, person_of_slice: Sequence[str], probe: FeatureProbe) -> FeatureStatistics:
    """Statistics of features (N, F), their limit set by leaving each person out once."""
    distances = []
    for person in sorted(set(person_of_slice)):
        is_left_out = torch.tensor([name == person for name in person_of_slice])
        if int((~is_left_out).sum()) >= 2:
            others = _fit(features[~is_left_out], torch.zeros(()))
            distances.append(others.distances(features[is_left_out]))
        else:
            distances.append(features.new_zeros(0))
    left_out = torch.cat(distances) if len(distances) > 1 else torch.zeros(1)
    return _fit(features, torch.quantile(left_out, 1 - FALSE_ALARM_RATE).clamp(min=probe.min_limit))


def _fit(features: Tensor, limit: Tensor) -> FeatureStatistics:
    """Principal directions of features (N, F), each first divided by its spread."""
    mean, spread = features.mean(0), features.std(0)
    spread = spread + 1e-3 * features.std()
    standard = (features - mean) / spread
    _, _, directions = torch.linalg.svd(standard, full_matrices=False)
    directions = directions[:DIRECTIONS].T.contiguous()
    variances = torch.lerp((standard @ directions).var(0), torch.ones(()), SHRINKAGE)
    return FeatureStatistics(mean, spread, directions, variances, limit)
