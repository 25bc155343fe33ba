"""How unlike the images that a prior was trained on an image is, by what the prior's own network sees in it.

Lee et al. (2018): the Mahalanobis distance of inner features from those of the training images. Their covariance is
known in the directions in which they differ most alone, and shrunk towards one spread of all (Ledoit, Wolf 2004).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from udig_recon.core.errors import MissingPrior, ReconstructionError
from udig_recon.core.files.atomic import replacing
from udig_recon.core.normalisation import unit
from udig_recon.core.priors.card import Card
from udig_recon.core.priors.load import DiffusionPrior, prior_of
from udig_recon.core.training.dataset import Source, TrainingImage

DIRECTIONS = 64
SHRINKAGE = 0.1
SLICES = 48
"""of each source at most"""
FALSE_ALARMS = 0.05
OBJECT = 0.05
"""What is darker than this is air; images are scaled to about [0, 1]."""


class Look(NamedTuple):
    """What of its network a prior looks at an image with."""

    prefix: str  # of its tensors in the file
    above: int  # levels above the coarsest
    sigma: float  # noise level that the network is told: the higher, the less it looks at texture
    least_limit: float  # few people do not tell how far another one may lie


LOOKS = (Look("", 0, 0.2, 1.5), Look("middle_", 1, 0.5, 0.9))
"""The first tells other anatomy of a prior of one kind, the second what is not grown at all, metal and phantoms."""


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Where the features of a prior's training images lie: mean and spread (F,), directions (F, K), variances (K,)."""

    mean: Tensor
    spread: Tensor
    directions: Tensor
    variances: Tensor
    limit: Tensor  # (), the distance that few people's images exceed when the prior has not seen them

    def strangeness(self, seen: Tensor) -> float:
        """Distance of an image's features (F,) as a share of the limit: more than 1 is unlike all."""
        return float(_distances(self, seen[None]) / self.limit)


def features(prior: DiffusionPrior, image: Tensor, look: Look) -> Tensor:
    """Mean and deviation of a level's channels over the object of an image (1, C, H, W) of any brightness: (F,)."""
    magnitude = image.norm(dim=1, keepdim=True)
    x = F.pad(magnitude / unit(image), (0, 0, 0, 0, 0, image.shape[1] - 1))
    with torch.no_grad():
        seen = prior.inside(x, look.sigma, look.above)
    object_ = (F.adaptive_avg_pool2d(x[:, :1], (seen.shape[-2], seen.shape[-1])) > OBJECT).float()
    share = object_ / object_.sum().clamp(min=1)
    mean = (seen * share).sum((2, 3), keepdim=True)
    deviation = ((seen - mean).square() * share).sum((2, 3)).sqrt()
    return torch.cat([mean[0, :, 0, 0], deviation[0]]).cpu()


def learn(
    card: Card, images: Sequence[TrainingImage], sources: Sequence[Source], device: torch.device
) -> Mapping[Look, Familiarity]:
    """Write beside a prior's weights how its training images look to it, and give it.

    The limit of each look is what a share `FALSE_ALARMS` of the slices exceeds when their person is left out. Raises
    ReconstructionError for a prior of another network than those that are trained here.
    """
    prior = prior_of(card, device)
    if not isinstance(prior, DiffusionPrior):
        raise ReconstructionError(f"{card.name} is a converted {card.network.architecture}, expected one trained here")
    people = {source.name: source.person for source in sources}
    chosen = [image for source in people for image in _spread([i for i in images if i.source == source])]
    whose = [people[image.source] for image in chosen]
    known = {look: _learned(prior, look, [image.pixels.to(device) for image in chosen], whose) for look in LOOKS}
    with replacing(_path(card)) as part:
        tensors = {look.prefix + name: value for look, each in known.items() for name, value in vars(each).items()}
        save_file(tensors, part, {"prior": card.sha256})
        part.chmod(0o644)  # safetensors writes for the owner alone; a worker may be someone else
    return known


def _learned(prior: DiffusionPrior, look: Look, images: Sequence[Tensor], whose: Sequence[str]) -> Familiarity:
    """One look at slices (1, H, W), and whose they are."""
    seen = torch.stack([features(prior, _as_image(prior, pixels), look) for pixels in images])
    left_out = [_left_out(seen, torch.tensor([name == person for name in whose])) for person in sorted(set(whose))]
    distances = torch.cat(left_out) if len(left_out) > 1 else torch.zeros(1)
    return _fitted(seen, torch.quantile(distances, 1 - FALSE_ALARMS).clamp(min=look.least_limit))


def strangeness_to(prior: nn.Module, card: Card) -> Callable[[Tensor], float] | None:
    """How unlike its training images a prior finds an image (1, C, H, W); None where nothing is known of them.

    It is what the look that finds it strangest says. Raises MissingPrior when the file that should tell cannot be read.
    """
    if not isinstance(prior, DiffusionPrior) or not (known := _load(card)):
        return None
    return lambda image: max(each.strangeness(features(prior, image, look)) for look, each in known.items())


def _load(card: Card) -> Mapping[Look, Familiarity]:
    """What lies beside a prior's weights; nothing where there is none, or it is of other weights.

    Files of before there were several looks have the first one alone.
    """
    if not _path(card).exists():
        return {}
    try:
        with safe_open(_path(card), "pt") as file:
            if (file.metadata() or {}).get("prior") != card.sha256:
                return {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no dict
        names = [field.name for field in fields(Familiarity)]
        looks = [look for look in LOOKS if not look.prefix or look.prefix + names[0] in tensors]
        return {look: Familiarity(**{name: tensors[look.prefix + name] for name in names}) for look in looks}
    except (SafetensorError, KeyError) as error:
        raise MissingPrior(
            f"prior {card.name}: {_path(card).name} is not what `familiarise` writes; write it anew, or remove it",
            field="parameters.prior",
            found=card.name,
            expected=f"a {_path(card).name} that can be read",
        ) from error


def _path(card: Card) -> Path:
    return card.weights.with_name(f"{card.name}.familiarity.safetensors")


def _fitted(seen: Tensor, limit: Tensor) -> Familiarity:
    """Principal directions of features (N, F), each first divided by its spread."""
    mean, spread = seen.mean(0), seen.std(0)
    spread = spread + 1e-3 * seen.std()
    standard = (seen - mean) / spread
    _, _, directions = torch.linalg.svd(standard, full_matrices=False)
    directions = directions[:DIRECTIONS].T.contiguous()
    variances = torch.lerp((standard @ directions).var(0), torch.ones(()), SHRINKAGE)
    return Familiarity(mean, spread, directions, variances, limit)


def _distances(familiarity: Familiarity, seen: Tensor) -> Tensor:
    """Root mean square of features (N, F) in deviations of the training images: (N,)."""
    standard = (seen - familiarity.mean) / familiarity.spread
    along = (standard @ familiarity.directions).square()
    across = (standard.square().sum(1) - along.sum(1)).clamp(min=0)
    return (((along / familiarity.variances).sum(1) + across / SHRINKAGE) / standard.shape[1]).sqrt()


def _left_out(seen: Tensor, theirs: Tensor) -> Tensor:
    """Distances of one person's slices from those of all others; none where there are no others."""
    if int((~theirs).sum()) < 2:
        return seen.new_zeros(0)
    return _distances(_fitted(seen[~theirs], torch.zeros(())), seen[theirs])


def _spread(images: Sequence[TrainingImage]) -> Sequence[TrainingImage]:
    return images[:: max(1, math.ceil(len(images) / SLICES))]


def _as_image(prior: DiffusionPrior, pixels: Tensor) -> Tensor:
    """A slice (1, H, W) of magnitudes with the channels of the prior, (1, C, H, W)."""
    return F.pad(pixels[None].float(), (0, 0, 0, 0, 0, prior.channels - 1))
