"""Train a diffusion prior on images: `python -m core.train_prior --modality mri --images DIR --output DIR`."""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from core.acquisition import Modality
from core.augmentation import batch, with_phase
from core.cards import IMAGE_CHANNELS, Card, EDMNetwork
from core.metrics import psnr
from core.priors import SIGMA_DATA, DiffusionPrior, load_prior, save_prior
from core.training_images import TrainingImage, load_images

SIGMA_RANGE = (0.004, 1.2)
SCORED_SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5)
SAVED_EVERY = 500
WIDTHS = (64, 128, 224)
BLOCKS = 2
LIMITS = (
    "Trained on few people. It has not seen other anatomy, contrasts or disease and may invent or remove structure "
    "there; research use only."
)


def denoising_scores(prior: DiffusionPrior, images: Sequence[TrainingImage], modality: Modality) -> dict[str, float]:
    """PSNR in dB of denoised whole slices of people kept out, by noise level."""
    rng = torch.Generator().manual_seed(0)
    chosen = images[:: max(1, len(images) // 8)]
    scores = {}
    for sigma in SCORED_SIGMAS:
        total = sum(_denoised_psnr(prior, image.pixels, modality, sigma, rng) for image in chosen)
        scores[f"psnr_at_{sigma}"] = round(total / len(chosen), 2)
    return scores


def _denoised_psnr(
    prior: DiffusionPrior, pixels: Tensor, modality: Modality, sigma: float, rng: torch.Generator
) -> float:
    magnitude = pixels[None].float()
    clean = with_phase(magnitude, rng) if modality is Modality.MRI else magnitude
    with torch.no_grad():
        denoised = prior(clean + sigma * torch.randn(clean.shape, generator=rng), sigma)
    shown = denoised.norm(dim=1, keepdim=True) if modality is Modality.MRI else denoised
    return psnr(shown[0, 0].numpy(), magnitude[0, 0].numpy())


class Training:
    """Optimiser, running mean of the weights and schedule of one run; saved and resumed as one."""

    def __init__(self, modality: Modality, steps: int, learning_rate: float, decay: float) -> None:
        self.prior = DiffusionPrior(2 if modality is Modality.MRI else 1, WIDTHS, BLOCKS).to(
            memory_format=torch.channels_last  # type: ignore[call-overload]
        )
        self.optimiser = torch.optim.AdamW(self.prior.parameters(), learning_rate, weight_decay=1e-4, betas=(0.9, 0.99))
        self.mean = {key: value.clone() for key, value in self.prior.state_dict().items()}
        self.steps, self.learning_rate, self.decay, self.step = steps, learning_rate, decay, 0

    def update(self, clean: Tensor, rng: torch.Generator) -> float:
        """One AdamW step on the denoising loss, weighted to be of one size at every sigma (Karras et al. 2022)."""
        low, high = (math.log(sigma) for sigma in SIGMA_RANGE)
        sigma = torch.exp(low + (high - low) * torch.rand(clean.shape[0], generator=rng))
        noisy = clean + sigma[:, None, None, None] * torch.randn(clean.shape, generator=rng)
        weight = 1 / sigma**2 + 1 / SIGMA_DATA**2
        loss = (weight * ((self.prior(noisy, sigma) - clean) ** 2).mean((1, 2, 3))).mean()
        self._follow_schedule()
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.prior.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self._average()
        return float(loss.detach())

    def _follow_schedule(self) -> None:
        warm = min(1.0, (self.step + 1) / 200)
        fall = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * warm * fall

    def _average(self) -> None:
        # A short memory at first: the first weights are far from anything.
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for key, value in self.prior.state_dict().items():
            self.mean[key].lerp_(value, 1 - decay)

    def start_from(self, prior: nn.Module) -> None:
        """Take the weights of a trained prior of the same shape."""
        self.prior.load_state_dict(prior.state_dict())
        self.mean = {key: value.clone() for key, value in prior.state_dict().items()}

    def averaged(self) -> DiffusionPrior:
        """The prior with the running mean of the weights."""
        prior = DiffusionPrior(self.prior.network.leave.out_channels // 4, WIDTHS, BLOCKS)
        prior.load_state_dict(self.mean)
        return prior.eval()

    def save(self, path: Path) -> None:
        """Write everything needed to go on."""
        part = path.with_suffix(".part")
        state = {"prior": self.prior.state_dict(), "mean": self.mean, "step": self.step}
        torch.save({**state, "optimiser": self.optimiser.state_dict()}, part)
        part.rename(path)

    def load(self, path: Path) -> None:
        """Go on from a file of `save`."""
        state = torch.load(path, weights_only=True)
        self.prior.load_state_dict(state["prior"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.mean, self.step = state["mean"], state["step"]


def write_prior(prior: DiffusionPrior, card: Card, folder: Path) -> None:
    """Write `<name>.safetensors` in half precision and `<name>.json` with its hash."""
    save_prior({key: value.half().contiguous() for key, value in prior.state_dict().items()}, card, folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modality", type=Modality, choices=list(Modality), required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder of NIfTI volumes; CT in Hounsfield units")
    parser.add_argument("--sources", type=Path, help="JSON: file stem -> {weight, terms}; others weigh 1")
    parser.add_argument("--hold-out", nargs="*", default=[], help="file stems of people kept out of training")
    parser.add_argument("--leave-out", nargs="*", default=[], help="file stems that are not used at all")
    parser.add_argument("--start-from", help="a prior whose weights to begin with, bundled or in the output folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoint, weights and card")
    parser.add_argument("--name", help="name of the prior; the modality's by default")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=96, help="side of the training patches in pixels")
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    parser.add_argument("--decay", type=float, default=0.999, help="of the running mean of the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    train(parser.parse_args())


def train(options: argparse.Namespace) -> None:
    """Run or resume one training; a checkpoint every 500 steps, weights and card as well."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    sources = json.loads(options.sources.read_text()) if options.sources else {}
    images, held_out = load_images(options.images, options.modality, sources, options.hold_out, options.leave_out)
    training = Training(options.modality, options.steps, options.learning_rate, options.decay)
    options.output.mkdir(parents=True, exist_ok=True)
    name = options.name or options.modality.value
    checkpoint = options.output / f"{name}.checkpoint"
    if checkpoint.exists():
        training.load(checkpoint)
    elif options.start_from:
        training.start_from(load_prior(options.start_from, options.modality, options.output, torch.device("cpu")))
    with tqdm(total=options.steps, initial=training.step, unit="step", mininterval=10) as bar:
        while training.step < options.steps:
            # A generator a step: a resumed run draws what the unbroken one would have drawn.
            rng = torch.Generator().manual_seed(options.seed * 2**32 + training.step)
            clean = batch(images, options.modality, options.patch, options.batch, rng)
            loss = training.update(clean, rng)
            bar.update()
            if training.step % 50 == 0:
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if training.step % SAVED_EVERY == 0 or training.step == options.steps:
                training.save(checkpoint)
                prior = training.averaged()
                scores = denoising_scores(prior, held_out, options.modality)
                tqdm.write(f"{training.step}: {scores}")
                write_prior(prior, _card(name, options, sources, images, scores, training.step), options.output)


def _card(
    name: str,
    options: argparse.Namespace,
    sources: dict[str, dict[str, str]],
    images: Sequence[TrainingImage],
    scores: dict[str, float],
    step: int,
) -> Card:
    stems = sorted({image.source for image in images})
    return Card(
        name=name,
        modality=options.modality,
        description=f"Denoiser of {options.modality.value} images for purification, noise levels {SIGMA_RANGE}",
        network=EDMNetwork(channels=IMAGE_CHANNELS[options.modality], widths=WIDTHS, blocks=BLOCKS),
        sha256="",
        data=tuple(f"{stem}: {sources.get(stem, {}).get('terms', 'terms not stated')}" for stem in stems),
        held_out=tuple(options.hold_out),
        training={
            "steps": step,
            "of_steps": options.steps,
            "batch": options.batch,
            "patch": options.patch,
            "learning_rate": options.learning_rate,
            "ema": options.decay,
            "seed": options.seed,
            "slices": len(images),
            **({"started_from": options.start_from} if options.start_from else {}),
        },
        scores=scores,
        limits=LIMITS,
    )


if __name__ == "__main__":
    main()
