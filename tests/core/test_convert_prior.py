"""Published checkpoints become priors, strictly and without running their code."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import scans
from udig_recon.core.acquisition import Modality
from udig_recon.core.cli.main import main
from udig_recon.core.networks.adm import ADMUNet
from udig_recon.core.networks.ncsnpp import NCSNppUNet
from udig_recon.core.priors.architectures import ADMNetwork, NCSNppNetwork
from udig_recon.core.priors.card import cards
from udig_recon.core.priors.load import load_prior
from udig_recon.core.priors.published import EpsilonPrior, LinearSchedule, ScorePrior

CPU = torch.device("cpu")
SIGMAS = torch.logspace(2.5, -2, 10, dtype=torch.float64)
"""Noise levels of a checkpoint: doubles, falling, as NumPy made them."""


def adm(channels=2, attention=(2,)):
    torch.manual_seed(0)
    return ADMUNet(channels, 32, (1, 2, 2), 1, attention).eval().requires_grad_(False)


def ncsnpp(seed=0):
    torch.manual_seed(seed)
    network = NCSNppUNet(1, 8, (1, 2, 2), 2, 10).eval()
    network.sigmas = SIGMAS
    return network


def shadows(network):
    return [value.detach().clone() for value in network.parameters() if value.requires_grad]


def training_file(network, mean):
    """What the training of a score network leaves: optimiser, network of several devices, running mean, step."""
    return {
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 2e-4, "betas": (0.9, 0.999)}]},
        "model": {f"module.{name}": value.detach() for name, value in network.state_dict().items()},
        "ema": {"decay": 0.999, "num_updates": 7, "shadow_params": mean},
        "step": 95,
    }


def convert(path, *more, modality="mri"):
    options = ["--modality", modality, "--name", "mine", "--output", str(path.parent / "priors"), *more]
    return main(["convert-prior", str(path), *options])


def saved(path, content, **how):
    torch.save(content, path, **how)
    return path


@pytest.mark.parametrize("name", ["fastmri_knee.pt", "brain.pth", "checkpoint without suffix"])
@pytest.mark.parametrize("zipped", [True, False])
def test_adm_checkpoint_becomes_a_prior(tmp_path, name, zipped, capsys):
    network = adm()
    path = saved(tmp_path / name, network.state_dict(), _use_new_zipfile_serialization=zipped)
    assert convert(path, "--terms", "CC BY 4.0") == 0
    assert "jobs can name it" in capsys.readouterr().out
    (card,) = (card for card in cards(tmp_path / "priors") if card.name == "mine")
    assert card.network == ADMNetwork(channels=2, width=32, multipliers=(1, 2, 2), blocks=1, attention=(2,))
    assert card.data == ("not stated by the checkpoint; terms: CC BY 4.0",)
    assert card.training["checkpoint"] == name
    assert len(card.training["checkpoint_sha256"]) == 64
    x = torch.randn(1, 2, 19, 24)
    expected = EpsilonPrior(network, 2, LinearSchedule(1e-4, 0.02, 1000))(x, 0.3)
    prior = load_prior("mine", Modality.MRI, tmp_path / "priors", CPU)
    assert torch.allclose(prior(x, 0.3), expected, atol=0.02)
    loaded = prior.network.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items())


def test_terms_are_not_stated_unless_given(tmp_path):
    assert convert(saved(tmp_path / "a.pt", adm().state_dict())) == 0
    assert json.loads((tmp_path / "priors" / "mine.json").read_text())["data"][0].endswith("terms: not stated")


def test_attention_and_learned_variance_are_read_off_the_file(tmp_path):
    network = adm(channels=1, attention=())
    network.out[2] = torch.nn.Conv2d(32, 1, 3, padding=1)
    assert convert(saved(tmp_path / "a.pt", network.state_dict()), modality="ct") == 0
    card = next(card for card in cards(tmp_path / "priors") if card.name == "mine")
    assert card.network.attention == ()
    assert not card.network.learned_variance


def test_running_mean_replaces_what_was_trained_and_the_file_gives_the_rest(tmp_path):
    network, mean = ncsnpp(0), ncsnpp(1)
    path = saved(tmp_path / "checkpoint_95.pth", training_file(network, shadows(mean)))
    assert convert(path) == 0
    card = next(card for card in cards(tmp_path / "priors") if card.name == "mine")
    assert card.network == NCSNppNetwork(
        channels=1, width=8, multipliers=(1, 2, 2), blocks=2, scales=10, noise_range=(0.01, 316.228)
    )
    assert card.training["weights"] == "running mean of training (EMA)"
    prior = load_prior("mine", Modality.MRI, tmp_path / "priors", CPU)
    loaded = prior.network.state_dict()
    assert torch.equal(loaded["all_modules.0.W"], network.all_modules[0].W)
    assert not torch.equal(loaded["all_modules.0.W"], mean.all_modules[0].W)
    assert torch.equal(loaded["sigmas"], SIGMAS.float())
    named = [name for name, value in network.named_parameters() if value.requires_grad]
    assert all(torch.equal(loaded[name], dict(mean.named_parameters())[name]) for name in named)
    with torch.no_grad():
        mean.all_modules[0].W.copy_(network.all_modules[0].W)
        x = torch.randn(1, 2, 16, 20)
        assert torch.allclose(prior(x, 0.3), ScorePrior(mean, 1, (0.01, 316.0))(x, 0.3), atol=0.02)


def test_running_mean_in_another_order_is_refused(tmp_path, capsys):
    network = ncsnpp()
    path = saved(tmp_path / "a.pth", training_file(network, shadows(network)[::-1]))
    assert convert(path) == 2
    told = capsys.readouterr().err
    assert "ema.shadow_params[0] is of shape (1,); expected (32, 16) of all_modules.1.weight" in told


def test_running_mean_with_what_was_never_trained_is_refused(tmp_path, capsys):
    network = ncsnpp()
    everything = [value.detach() for value in network.parameters()]
    assert convert(saved(tmp_path / "a.pth", training_file(network, everything))) == 2
    assert f"{len(everything)} tensors; expected the {len(everything) - 1} trained tensors" in capsys.readouterr().err


@pytest.mark.parametrize("content", [lambda f: f["model"], lambda f: {"model": f["model"]}])
def test_network_without_a_running_mean_is_taken_as_it_is(tmp_path, content):
    network = ncsnpp()
    assert convert(saved(tmp_path / "a.pth", content(training_file(network, [])))) == 0
    card = next(card for card in cards(tmp_path / "priors") if card.name == "mine")
    assert card.training["weights"] == "as the file names them"


def test_half_precision_halves_the_file_and_keeps_the_fourier_features(tmp_path):
    network = ncsnpp()
    path = saved(tmp_path / "a.pth", training_file(network, shadows(network)))
    sizes = []
    for more in ([], ["--half"]):
        assert convert(path, *more) == 0
        sizes.append((tmp_path / "priors" / "mine.safetensors").stat().st_size)
    assert sizes[1] < 0.65 * sizes[0]
    loaded = load_prior("mine", Modality.MRI, tmp_path / "priors", CPU).network
    assert torch.equal(loaded.all_modules[0].W, network.all_modules[0].W)
    assert loaded.all_modules[1].weight.dtype is torch.float32


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


def replaced(name, value):
    return lambda state: {**state, name: value(state[name]) if callable(value) else value}


def infinite(value):
    value = value.clone()
    value.view(-1)[-1] = float("inf")
    return value


REFUSED = {
    "missing": (without("middle_block.1.qkv.bias"), "1 missing: middle_block.1.qkv.bias"),
    "missing size": (without("time_embed.0.weight"), "found input_blocks.0.0.bias"),
    "missing end": (without("out.2.weight"), "the checkpoint has no tensor out.2.weight"),
    "unexpected": (lambda state: state | {"label_emb.weight": torch.zeros(10, 128)}, "1 unexpected: label_emb.weight"),
    "misshapen": (
        replaced("input_blocks.1.0.in_layers.2.weight", lambda w: w[:, :16]),
        "input_blocks.1.0.in_layers.2.weight (32, 16, 3, 3) instead of (32, 32, 3, 3)",
    ),
    "partly prefixed": (
        lambda state: {"module." * (key.startswith("out")) + key: value for key, value in state.items()},
        "the checkpoint has no tensor out.2.weight",
    ),
    "not a tensor": (replaced("out.2.bias", 5.0), "out.2.bias () instead of (4,)"),
    "integers": (replaced("out.2.bias", lambda b: b.to(torch.int32)), "out.2.bias is no tensor of floating"),
    "infinite": (replaced("out.0.weight", infinite), "out.0.weight holds NaN or infinity"),
    "nan": (replaced("out.0.weight", lambda w: w * float("nan")), "out.0.weight holds NaN or infinity"),
    "larger than stored": (
        replaced("out.2.weight", lambda w: torch.zeros(1).expand(w.shape)),
        "out.2.weight has more elements than are stored",
    ),
    "empty": (lambda _: {}, "no known network"),
    "another network": (lambda _: {"conv1.weight": torch.zeros(3)}, "found conv1.weight"),
    "a tensor": (lambda _: torch.zeros(3), "holds a Tensor; expected a dict of tensors"),
    "a list": (lambda state: list(state.values()), "holds a list; expected a dict of tensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tensors_that_are_not_those_of_the_network_are_refused(tmp_path, capsys, case):
    change, message = REFUSED[case]
    assert convert(saved(tmp_path / "a.pt", change(adm().state_dict()))) == 2
    _refused(tmp_path, capsys, message)


def test_random_features_are_never_made_up(tmp_path, capsys):
    network = ncsnpp()
    content = training_file(network, shadows(network))
    del content["model"]["module.all_modules.0.W"]
    assert convert(saved(tmp_path / "a.pth", content)) == 2
    _refused(tmp_path, capsys, "1 missing: all_modules.0.W")


def test_running_mean_with_nan_is_refused(tmp_path, capsys):
    network = ncsnpp()
    mean = shadows(network)
    mean[3][0] = float("nan")
    assert convert(saved(tmp_path / "a.pth", training_file(network, mean))) == 2
    _refused(tmp_path, capsys, "all_modules.2.bias holds NaN or infinity")


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path, capsys):
    state = adm().state_dict()
    state["out.2.weight"][0, 0, 0, 0] = 1e6
    assert convert(saved(tmp_path / "a.pt", state), "--half") == 2
    _refused(tmp_path, capsys, "out.2.weight does not fit into half precision")


class Intruder:
    """An object whose unpickling would leave a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (Path(self.trace),)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys, write):
    path, trace = tmp_path / "a.pt", tmp_path / "trace"
    write({**adm().state_dict(), "extra": Intruder(str(trace))}, path)
    assert convert(path) == 2
    assert not trace.exists()
    _refused(tmp_path, capsys, "it is broken, or would run code, which is never done")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_checkpoint_is_refused(tmp_path, capsys, zipped):
    path = saved(tmp_path / "a.pt", adm().state_dict(), _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for share in (0, 0.001, 0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        assert convert(path) == 2
        _refused(tmp_path, capsys, "a.pt is no checkpoint of tensors alone")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--name", "mri"], "a bundled prior has this name"),
        (["--name", "../mine"], "name: String should match pattern"),
        (["--modality", "ct"], "its network has 2 channels; ct images need 1"),
        (["--input-range", "1", "0"], "input_range (1.0, 0.0) does not rise"),
        (["--layout", "ncsnpp"], "the checkpoint has no tensor all_modules.3.weight"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(tmp_path, capsys, more, message):
    assert convert(saved(tmp_path / "a.pt", adm().state_dict()), *more) == 2
    _refused(tmp_path, capsys, message)


def test_absent_checkpoint_is_named(tmp_path, capsys):
    assert convert(tmp_path / "absent.pt") == 2
    _refused(tmp_path, capsys, "absent.pt: No such file or directory")


def test_help_names_the_further_commands(capsys):
    for command in (["--help"], ["convert-prior", "--help"]):
        assert main(command) == 0
        assert "convert-prior" in capsys.readouterr().out


def test_a_scan_is_reconstructed_with_a_converted_prior(tmp_path):
    assert convert(saved(tmp_path / "a.pt", adm().state_dict())) == 0
    scan = scans.write_npz(tmp_path / "scan", **scans.mri(slices=1))
    knobs = ["prior=mine", "outer_iterations=2", "inner_iterations=0"]
    command = [
        "recon",
        str(scan),
        "-o",
        str(tmp_path / "out.npy"),
        "--priors",
        str(tmp_path / "priors"),
        "--set",
        *knobs,
    ]
    assert main(command) == 0
    assert np.isfinite(np.load(tmp_path / "out.npy")).all()


def _refused(folder, capsys, message):
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
    assert told.count("\n") == 1
    assert not (folder / "priors").exists()
