"""The published networks have the tensors that published checkpoints have, and compute what these were trained for."""

import hashlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from udig_recon.core.networks import adm, blocks, ncsnpp
from udig_recon.core.priors.architectures import ADMNetwork, NCSNppNetwork
from udig_recon.core.priors.import_checkpoint import build_network, describe
from udig_recon.core.priors.published import EpsilonPrior, LinearSchedule, ScorePrior

AAPM = ADMNetwork(channels=1, width=256, multipliers=(1, 1, 2, 2, 4, 4), blocks=1, attention=(16,))
KNEE = ADMNetwork(channels=2, width=256, multipliers=(1, 1, 2, 2, 4, 4), blocks=1)
VE = NCSNppNetwork(channels=1, width=128, multipliers=(1, 2, 2, 2), blocks=4, scales=2000, noise_range=(0.01, 378.0))
# Tensors, weights and trained weights; hash of the sorted lines "name<TAB>shape".
PUBLISHED = {
    "aapm": (AAPM, 362, 374_022_658, 374_022_658, "07be4609be77d300ed88a7a805b0174d9b746e069a61c00ea0acd442525d3887"),
    "knee": (KNEE, 344, 361_428_228, 361_428_228, "778004397ac04ed8fd445d97cd9b43a9dacb7037f2f595b20ed63e804697ad25"),
    "ve": (VE, 522, 61_433_601, 61_433_473, "a5e18768fbd798e5530402e4aa6720cb401198b03c65d793756dd1c15176768a"),
}


def on_meta(described):
    with torch.device("meta"):
        return build_network(described)


@pytest.mark.long
@pytest.mark.parametrize("name", PUBLISHED)
def test_full_size_network_has_the_tensors_of_its_checkpoint(name):
    described, tensors, weights, trained, digest = PUBLISHED[name]
    network = on_meta(described)
    lines = sorted(f"{key}\t{tuple(value.shape)}" for key, value in network.state_dict().items())
    assert len(lines) == tensors
    assert sum(value.numel() for value in network.parameters()) == weights
    assert sum(value.numel() for value in network.parameters() if value.requires_grad) == trained
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest


def test_trained_tensors_of_ncsnpp_are_those_of_the_running_mean():
    named = [name for name, value in on_meta(VE).named_parameters() if value.requires_grad]
    assert len(named) == 520
    assert named[:3] == ["all_modules.1.weight", "all_modules.1.bias", "all_modules.2.weight"]
    assert not {"sigmas", "all_modules.0.W"} & set(named)


@pytest.mark.parametrize("name", ["aapm", "knee"])
def test_attention_and_size_are_read_off_the_tensors(name):
    # 320 / 16 = 20 is no level's factor: the knees' network attends in the middle alone, whatever it was asked for.
    described = PUBLISHED[name][0]
    state = on_meta(described).state_dict()
    assert describe(state) == described
    sites = {key.removesuffix(".qkv.weight") for key in state if key.endswith("qkv.weight")}
    everywhere = {"input_blocks.9.1", "middle_block.1", "output_blocks.2.1", "output_blocks.3.1"}
    assert sites == (everywhere if name == "aapm" else {"middle_block.1"})


def test_factors_that_no_level_has_place_no_attention():
    asked = on_meta(KNEE.model_copy(update={"attention": (20,)})).state_dict()
    assert asked.keys() == on_meta(KNEE).state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_full_size_network_runs(name):
    described = PUBLISHED[name][0]
    network = build_network(described).eval().requires_grad_(False)
    if isinstance(described, ADMNetwork):
        prior = EpsilonPrior(network, described.channels, LinearSchedule(1e-4, 0.02, 1000))
    else:
        prior = ScorePrior(network, 1, described.noise_range)
    x = torch.randn(1, described.channels, 64, 64, generator=torch.Generator().manual_seed(0))
    denoised = prior(x, 0.2)
    assert denoised.shape == x.shape
    assert denoised.isfinite().all()
    assert not torch.equal(denoised, x)


def test_time_is_embedded_as_cosines_then_sines():
    embedded = adm.timestep_embedding(torch.tensor([0.0, 149.0]), 8)
    assert embedded[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    frequencies = 10_000.0 ** (-np.arange(4) / 4)
    expected = np.concatenate([np.cos(149 * frequencies), np.sin(149 * frequencies)])
    assert np.allclose(embedded[1].numpy(), expected, atol=1e-4)


def test_noise_level_is_embedded_as_sines_then_cosines_of_its_logarithm():
    layer = ncsnpp.FourierFeatures(6)
    phase = 2 * math.pi * math.log(0.3) * layer.W
    embedded = layer(torch.tensor([0.3]).log())
    assert torch.allclose(embedded[0], torch.cat([phase.sin(), phase.cos()]), atol=1e-4)


def test_rows_of_qkv_are_ordered_by_head_first():
    torch.manual_seed(0)
    heads, size = 4, 16
    layer = adm.Attention(heads * size, size).double()
    x = torch.randn(2, heads * size, 3, 5, dtype=torch.float64)
    pixels = layer.norm(x.flatten(2))
    weight, bias = layer.qkv.weight[..., 0], layer.qkv.bias
    attended = []
    for head in range(heads):
        rows = [slice((3 * head + part) * size, (3 * head + part + 1) * size) for part in range(3)]
        q, k, v = (torch.einsum("oc,bct->bot", weight[row], pixels) + bias[row, None] for row in rows)
        share = torch.einsum("bct,bcs->bts", q * size**-0.25, k * size**-0.25).softmax(-1)
        attended.append(torch.einsum("bts,bcs->bct", share, v))
    expected = x + layer.proj_out(torch.cat(attended, 1)).unflatten(2, (3, 5))
    assert torch.allclose(layer(x), expected)
    # The order of later networks, (q | k | v, head, channel), gives another image.
    order = torch.arange(3 * heads * size).view(heads, 3, size).transpose(0, 1).flatten()
    with torch.no_grad():
        layer.qkv.weight.copy_(layer.qkv.weight[order])
        layer.qkv.bias.copy_(layer.qkv.bias[order])
    assert not torch.allclose(layer(x), expected, atol=1e-3)


def test_attention_of_ncsnpp_takes_its_matrices_from_the_right():
    torch.manual_seed(0)
    layer = ncsnpp.Attention(8).double()
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    pixels = layer.GroupNorm_0(x)
    q, k, v = (
        torch.einsum("bchw,co->bohw", pixels, nin.W) + nin.b[:, None, None]
        for nin in (layer.NIN_0, layer.NIN_1, layer.NIN_2)
    )
    share = (torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(8)).flatten(3).softmax(-1).unflatten(3, (3, 4))
    attended = torch.einsum("bhwij,bcij->bchw", share, v)
    attended = torch.einsum("bchw,co->bohw", attended, layer.NIN_3.W) + layer.NIN_3.b[:, None, None]
    assert torch.allclose(layer(x), (x + attended) / math.sqrt(2))


def test_doubling_is_four_times_the_adjoint_of_halving():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 8, 12, generator=rng, dtype=torch.float64)
    y = torch.randn(2, 3, 4, 6, generator=rng, dtype=torch.float64)
    assert torch.allclose((blocks.halve_by_filter(x) * y).sum(), (x * blocks.double_by_filter(y)).sum() / 4)


def test_halving_and_doubling_keep_a_constant_away_from_the_edge():
    flat = torch.ones(1, 2, 8, 8)
    assert torch.allclose(blocks.halve_by_filter(flat)[..., 1:-1, 1:-1], torch.ones(1, 2, 2, 2))
    assert torch.allclose(blocks.double_by_filter(flat)[..., 1:-1, 1:-1], torch.ones(1, 2, 14, 14))


def test_halving_weighs_four_pixels_binomially():
    line = torch.arange(8.0)[None, None, None].expand(1, 1, 8, 8)
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    expected = [float((weights * torch.arange(2 * n - 1.0, 2 * n + 3)).sum()) for n in (1, 2)]
    assert blocks.halve_by_filter(line)[0, 0, 1, 1:3].tolist() == pytest.approx(expected)


def test_pyramid_convolution_is_centred_on_what_halving_keeps():
    layer = ncsnpp.PyramidConvolution(2, 2)
    with torch.no_grad():
        nn.init.dirac_(layer.Conv2d_0.weight)
        layer.Conv2d_0.bias.zero_()
    x = torch.randn(1, 2, 8, 10)
    assert torch.allclose(layer(x), blocks.halve_by_filter(x), atol=1e-6)


def tiny_ncsnpp(channels=1):
    torch.manual_seed(0)
    return ncsnpp.NCSNppUNet(channels, 8, (1, 2), 1, 10).eval().requires_grad_(False)


def test_ncsnpp_centres_its_images_itself():
    network, seen = tiny_ncsnpp(), []
    network.all_modules[3].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x = torch.rand(1, 1, 8, 8)
    network(x, torch.tensor([0.5]))
    assert torch.equal(seen[0], 2 * x - 1)


def test_ncsnpp_divides_by_the_noise_level():
    network = tiny_ncsnpp()
    network.all_modules[-1].weight.zero_()
    network.all_modules[-1].bias.fill_(3.0)
    score = network(torch.rand(2, 1, 8, 8), torch.tensor([0.1, 100.0]))
    assert torch.allclose(score[0], torch.tensor(30.0))
    assert torch.allclose(score[1], torch.tensor(0.03))


def test_residual_blocks_of_ncsnpp_are_divided_by_root_two():
    block = ncsnpp.Residual(8, 8, 4)
    nn.init.zeros_(block.Conv_1.weight)
    nn.init.zeros_(block.Conv_1.bias)
    x = torch.randn(1, 8, 4, 4)
    assert torch.allclose(block(x, torch.randn(1, 4)), x / math.sqrt(2))


def test_residual_blocks_of_adm_are_scaled_and_shifted_after_the_norm():
    torch.manual_seed(0)
    block = adm.Residual(32, 64, 16)
    x, embedding = torch.randn(2, 32, 4, 4), torch.randn(2, 16)
    scale, shift = block.emb_layers[1](F.silu(embedding)).split(64, 1)
    hidden = block.in_layers[2](F.silu(block.in_layers[0](x)))
    hidden = block.out_layers[0](hidden) * (1 + scale[..., None, None]) + shift[..., None, None]
    expected = block.skip_connection(x) + block.out_layers[3](F.silu(hidden))
    assert torch.allclose(block(x, embedding), expected, atol=1e-5)
