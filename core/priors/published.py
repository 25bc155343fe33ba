"""Published diffusion networks as denoisers D(x, sigma) = x + sigma^2 score(x, sigma) (Tweedie's formula)."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udig_recon.core.device import has_fast_bfloat16
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.networks.adm import ADMUNet
from udig_recon.core.networks.ncsnpp import NCSNppUNet
from udig_recon.core.priors.architectures import ADMNetwork, NCSNppNetwork


class LinearSchedule(nn.Module):
    """Time steps of the variance preserving process x_t = sqrt(a_t) x0 + sqrt(1 - a_t) n (Ho et al. 2020).

    beta rises linearly over `steps` steps, a_t = prod_(s <= t) (1 - beta_s), sigma_t = sqrt((1 - a_t) / a_t); t counts
    from 0, so M steps of noise end at t = M - 1.
    """

    log_sigmas: Tensor

    def __init__(self, first_beta: float, last_beta: float, steps: int) -> None:
        super().__init__()
        kept = torch.cumprod(1 - torch.linspace(first_beta, last_beta, steps, dtype=torch.float64), 0)
        log_sigmas = 0.5 * ((1 - kept) / kept).log()
        self.noise_range = (math.exp(log_sigmas[0]), math.exp(log_sigmas[-1]))
        self.register_buffer("log_sigmas", log_sigmas.float(), persistent=False)

    def forward(self, sigma: Tensor) -> Tensor:
        """Time step t (B,), with fractions, whose noise level is sigma (B,): linear in log sigma between steps."""
        wanted = sigma.log()
        after = torch.searchsorted(self.log_sigmas, wanted).clamp(1, len(self.log_sigmas) - 1)
        below, above = self.log_sigmas[after - 1], self.log_sigmas[after]
        return after - 1 + ((wanted - below) / (above - below)).clamp(0, 1)

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level (B,) at time steps t (B,), the inverse."""
        before = t.long().clamp(0, len(self.log_sigmas) - 2)
        return torch.lerp(self.log_sigmas[before], self.log_sigmas[before + 1], t - before).exp()


class ScorePrior(nn.Module):
    """D(x, sigma) of a network that gives the score of x0 + sigma n, trained from `least` to `most` sigma.

    Images (B, C, H, W) of any height and width lie in about [0, 1], which the network was trained to see as
    `input_range`; the parts of a complex image are signed. A network of one channel takes real and imaginary part as a
    batch. Below `least` the score is that at `least`, so that D(x, 0) = x.
    """

    def __init__(
        self,
        network: nn.Module,
        channels: int,
        noise_range: tuple[float, float],
        input_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self.network = network
        self.channels = channels
        self.multiple = int(getattr(network, "multiple", 1))
        self.least, self.most = noise_range
        self.low, self.unit = input_range[0], input_range[1] - input_range[0]

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W) at noise level sigma, a number or (B,). Raises UnsupportedScan for sigma too high."""
        level = torch.as_tensor(sigma, dtype=torch.float32).expand(x.shape[0])
        if bool((self.unit * level > self.most).any()):
            found, known = f"{float(level.max()):.4g}", f"{self.most / self.unit:.4g}"
            raise UnsupportedScan(
                f"the prior knows noise levels up to {known}, found {found}",
                field="parameters.noise_level",
                found=found,
                expected=f"at most {known}",
            )
        level = (self.unit * level).repeat_interleave(x.shape[1] // self.channels).to(x.device)
        images = (self.low + self.unit * x).reshape(-1, self.channels, *x.shape[-2:])
        height, width = x.shape[-2:]
        padded = F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        score = self.score(padded, level.clamp(min=self.least))[..., :height, :width]
        denoised = images + level[:, None, None, None] ** 2 * score
        return ((denoised - self.low) / self.unit).reshape(x.shape)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Gradient of log p(x; sigma) at x (B, channels, H, W), sigma (B,)."""
        return self.evaluate(x, sigma)

    def evaluate(self, x: Tensor, condition: Tensor) -> Tensor:
        """Output of the network, in float32."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=has_fast_bfloat16(x.device)):
            output: Tensor = self.network(x, condition)
        return output.float()


class EpsilonPrior(ScorePrior):
    """D(x, sigma) of a variance preserving network that predicts the noise.

    Its score is -eps(x / sqrt(1 + sigma^2), t) / sigma. A second half of its output channels, the learned variance, is
    for samplers and not used.
    """

    def __init__(
        self, network: nn.Module, channels: int, schedule: LinearSchedule, input_range: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        super().__init__(network, channels, schedule.noise_range, input_range)
        self.schedule = schedule

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Minus the predicted noise, divided by sigma."""
        level = sigma[:, None, None, None]
        epsilon = self.evaluate(x / (1 + level**2).sqrt(), self.schedule(sigma))[:, : self.channels]
        return -epsilon / level


def build_adm(description: ADMNetwork) -> nn.Module:
    """The network of a description, its weights drawn at random."""
    d = description
    return ADMUNet(d.channels, d.width, d.multipliers, d.blocks, d.attention, d.learned_variance, d.head_channels)


def build_ncsnpp(description: NCSNppNetwork) -> nn.Module:
    """The network of a description, its weights drawn at random."""
    d = description
    return NCSNppUNet(d.channels, d.width, d.multipliers, d.blocks, d.scales)


def load_adm(description: ADMNetwork, weights: Mapping[str, Tensor]) -> nn.Module:
    """The prior of a description with these weights. Raises RuntimeError when they do not fit."""
    # Hundreds of millions of weights are neither drawn at random nor held twice.
    with torch.device("meta"):
        network = build_adm(description)
    network.load_state_dict(weights, assign=True)
    schedule = LinearSchedule(description.first_beta, description.last_beta, description.steps)
    return EpsilonPrior(network, description.channels, schedule, description.input_range)


def load_ncsnpp(description: NCSNppNetwork, weights: Mapping[str, Tensor]) -> nn.Module:
    """The prior of a description with these weights. Raises RuntimeError when they do not fit."""
    with torch.device("meta"):
        network = build_ncsnpp(description)
    network.load_state_dict(weights, assign=True)
    return ScorePrior(network, description.channels, description.noise_range, description.input_range)
