"""A prior is trained from image files, goes on from its checkpoint bit by bit, and comes out as a file that loads."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from udig_recon.core.acquisition import Modality
from udig_recon.core.cli.main import main
from udig_recon.core.cli.train_prior import Options, run
from udig_recon.core.errors import UnreadableScan
from udig_recon.core.priors.architectures import ADMNetwork
from udig_recon.core.priors.card import Card, cards
from udig_recon.core.priors.load import load_prior, save_prior
from udig_recon.core.training.augmentation import batch, patch, with_phase
from udig_recon.core.training.dataset import find_sources, load_images
from udig_recon.core.training.loop import Plan, batches
from udig_recon.core.training.state import Training, step_generator
from udig_recon.core.training.validation import SCORED_SIGMAS, Validation

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
TINY = ["--widths", "8", "8", "--blocks", "1", "--batch", "2", "--patch", "32", "--threads", "1", "--name", "tiny"]


@pytest.fixture
def images(tmp_path):
    """Three slices of a bright disc each, 104 pixels wide, by name of their person."""
    y, x = np.mgrid[-1:1:104j, -1:1:104j]
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(("ada", "ben", "eva")):
        disc = 200.0 * ((x**2 + y**2) < 0.6) * (1 + 0.3 * np.sin((8 + number) * x))
        np.save(folder / f"{name}.npy", np.stack([disc] * 3).astype(np.float32))
    return folder


@pytest.fixture
def command(images):
    """Arguments of a small training into a folder."""

    def arguments(out, *further, modality="mri"):
        required = ["train-prior", "--modality", modality, "--images", str(images), "--output", str(out)]
        return [*required, *TINY, "--hold-out", "ben", *further]

    return arguments


@pytest.fixture
def options(images):
    """Options of a small training into a folder."""

    def make(out, **changed):
        options = Options(
            modality=Modality.MRI,
            images=images,
            output=out,
            name="tiny",
            hold_out=["ben"],
            leave_out=[],
            people=None,
            sources=None,
            start_from=None,
            steps=1,
            batch=2,
            patch=32,
            learning_rate=8e-4,
            decay=0.999,
            widths=[8, 8],
            blocks=1,
            score_every=500,
            keep="last",
            seed=0,
            device="cpu",
            threads=1,
        )
        return replace(options, **changed)

    return make


class Scores:
    """A validator that reconstructs nothing: the scores that it is given, one after the other, then zeros."""

    def __init__(self, *scores, then=lambda: None):
        self.scores, self.then = iter(scores), then

    def __call__(self, images, modality, device):
        return self

    def evaluate(self, prior, name, folder):
        self.then()
        return {"reconstruction_psnr": next(self.scores, 0.0)}, b"png"


one_scan = partial(Validation, reconstructed_slices=1)


def state(out):
    return torch.load(out / "tiny.checkpoint", weights_only=True)


def equal(one, other):
    """Whether two nested states hold the same bits."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def small(steps=6, **options):
    torch.manual_seed(0)
    return Training(2, steps, 1e-3, 0.99, widths=(8, 16), blocks=1, **options)


def walk(training, images, steps):
    for _ in range(steps):
        rng = step_generator(0, training.step)
        training.update(batch(images, Modality.MRI, 32, 2, rng), rng)


def everything(training):
    return [
        training.prior.state_dict(),
        training.averaged.module.state_dict(),
        training.optimiser.state_dict(),
        training.step,
    ]


def test_patches_are_of_one_size_and_phase_keeps_the_magnitude():
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 120, 100)
    for size in (32, 96, 33):
        assert patch(pixels, size, rng).shape == (1, size, size)
    magnitude = torch.rand(3, 1, 16, 16)
    assert torch.allclose(with_phase(magnitude, rng).norm(dim=1, keepdim=True), magnitude, atol=1e-6)


def test_resumed_training_has_the_bits_of_an_unbroken_one(images, tmp_path):
    slices = load_images(find_sources(images, {}), Modality.MRI)
    unbroken, first, second = small(), small(), small()
    walk(unbroken, slices, 6)
    walk(first, slices, 3)
    first.save(tmp_path / "a.checkpoint", {"steps": 6})
    assert not equal(everything(first), everything(unbroken))
    second.load(tmp_path / "a.checkpoint", {"steps": 6})
    assert equal(everything(second), everything(first))
    walk(second, slices, 3)
    assert equal(everything(second), everything(unbroken))


def test_a_checkpoint_of_version_0_1_resumes_with_the_same_bits(images, tmp_path):
    slices = load_images(find_sources(images, {}), Modality.MRI)
    unbroken, first, second = small(), small(), small()
    walk(unbroken, slices, 6)
    walk(first, slices, 3)
    path = tmp_path / "a.checkpoint"
    first.save(path, {})
    content = torch.load(path, weights_only=True)
    for group in content["optimiser"]["param_groups"]:
        # That version set the learning rate itself, before each step.
        group["lr"] = 1e-3
        del group["initial_lr"]
    torch.save(content, path)
    second.load(path, {})
    walk(second, slices, 3)
    assert equal(everything(second), everything(unbroken))


def test_the_learning_rate_rises_for_200_steps_and_falls_as_a_cosine():
    training = small(400)
    rates = []
    for parameter in training.prior.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(400):
        rates.append(training.optimiser.param_groups[0]["lr"])
        training.descend()
    expected = [1e-3 * min(1.0, (n + 1) / 200) * (0.5 * (1 + math.cos(math.pi * n / 400))) for n in range(400)]
    assert rates == expected


def test_every_step_process_and_seed_draws_anew_and_the_first_process_as_a_single_one():
    draws = [torch.rand(8, generator=step_generator(*key)) for key in ((1, 7), (1, 7, 0), (1, 7, 1), (1, 8), (2, 7))]
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(
        torch.rand(8, generator=step_generator(0, 7)), torch.rand(8, generator=torch.Generator().manual_seed(7))
    )
    assert len({tuple(draw.tolist()) for draw in draws}) == 4


def test_batches_drawn_ahead_are_those_drawn_in_time(images):
    slices = load_images(find_sources(images, {}), Modality.MRI)
    plan = Plan(modality=Modality.MRI, images=slices, batch=2, patch=32, seed=1, score_every=9, keep_best=False)
    for ahead, in_time in zip(*(islice(batches(plan, 5, 1, ahead=ahead), 4) for ahead in (True, False)), strict=True):
        assert torch.equal(ahead[0], in_time[0])
        assert torch.equal(torch.rand(3, generator=ahead[1]), torch.rand(3, generator=in_time[1]))


def test_a_checkpoint_without_settings_is_trusted_and_a_broken_one_is_not(tmp_path):
    path = tmp_path / "a.checkpoint"
    small().save(path, {})
    small().load(path, {"steps": 6})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UnreadableScan, match=r"a\.checkpoint cannot be read, expected a checkpoint"):
        small().load(path, {})


def test_training_starts_from_the_weights_of_a_prior():
    prior = load_prior(None, Modality.MRI, None, CPU)
    training = Training(2, 10, 1e-3, 0.999)
    training.start_from(prior)
    assert equal(dict(training.averaged.module.state_dict()), dict(prior.state_dict()))


@pytest.mark.parametrize("modality", list(Modality))
def test_training_writes_a_prior_that_loads_with_its_card_history_and_picture(options, tmp_path, modality):
    out = tmp_path / "out"
    assert run(options(out, modality=modality, steps=2, score_every=1), one_scan) == 0
    assert {path.name for path in out.iterdir()} == {
        f"tiny{suffix}"
        for suffix in (".checkpoint", ".safetensors", ".ood.safetensors", ".json", ".png", ".history.jsonl")
    }
    (card,) = (card for card in cards(out) if card.name == "tiny")
    assert card.held_out == ("ben",)
    assert card.data == ("ada: terms not stated", "eva: terms not stated")
    assert (card.training["steps"], card.training["people"]) == (2, 2)
    assert card.limits.startswith("Trained on 2 people.")
    scores = {"reconstruction_psnr", "start_psnr", *(f"psnr_at_{sigma}" for sigma in SCORED_SIGMAS)}
    assert set(card.scores) == scores
    assert 10 < card.scores["start_psnr"] < 60
    history = [json.loads(line) for line in (out / "tiny.history.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in history] == [1, 2]
    assert set(history[0]) == {"step", "loss", *scores}
    assert {name: history[1][name] for name in scores} == card.scores
    picture = np.asarray(Image.open(out / "tiny.png"))
    assert picture.shape[0] > 4 * 320
    assert picture.std() > 10
    prior = load_prior("tiny", modality, out, CPU)
    channels = 2 if modality is Modality.MRI else 1
    assert prior(torch.zeros(1, channels, 16, 16), 0.1).shape == (1, channels, 16, 16)


def test_a_prior_begun_with_another_names_what_that_one_saw(options, tmp_path):
    assert run(options(tmp_path), Scores()) == 0
    assert run(options(tmp_path, name="second", start_from="tiny", leave_out=["eva"]), Scores()) == 0
    card = json.loads((tmp_path / "second.json").read_text())
    assert card["data"] == ["ada: terms not stated"] + [
        f"{name}: terms not stated (by the prior tiny, to begin with)" for name in ("ada", "eva")
    ]
    assert card["training"]["started_from"] == "tiny"


def test_the_best_weights_stay_when_they_are_asked_for(options, tmp_path):
    assert run(options(tmp_path, steps=3, score_every=1, keep="best"), Scores(20.0, 30.0, 25.0)) == 0
    card = json.loads((tmp_path / "tiny.json").read_text())
    assert card["training"]["steps"] == 2
    assert card["scores"]["reconstruction_psnr"] == 30.0
    assert len((tmp_path / "tiny.history.jsonl").read_text().splitlines()) == 3


def test_a_lost_score_is_made_up_for(options, tmp_path):
    assert run(options(tmp_path), one_scan) == 0
    written = (tmp_path / "tiny.history.jsonl").read_text()
    (tmp_path / "tiny.history.jsonl").unlink()
    (tmp_path / "tiny.safetensors").unlink()
    assert run(options(tmp_path), one_scan) == 0
    again, before = json.loads((tmp_path / "tiny.history.jsonl").read_text()), json.loads(written)
    assert again == {name: value for name, value in before.items() if name != "loss"}
    assert load_prior("tiny", Modality.MRI, tmp_path, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--steps", "3"], "tiny.checkpoint is of another training: steps 1, now 3; give"),
        (["--seed", "1", "--batch", "3"], "batch 2, now 3, seed 0, now 1"),
        (["--widths", "8"], "widths [8, 8], now [8]"),
        (["--modality", "ct"], "modality mri, now ct; give"),
        (["--learning-rate", "0.1"], "learning_rate 0.0008, now 0.1"),
        (["--patch", "40"], "patch 32, now 40"),
        (["--leave-out", "eva"], "is of another training: other images; give"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(command, options, tmp_path, capsys, change, message):
    assert run(options(tmp_path), Scores()) == 0
    before = (tmp_path / "tiny.checkpoint").read_bytes()
    capsys.readouterr()
    assert main(command(tmp_path, "--steps", "1", *change)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert (tmp_path / "tiny.checkpoint").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--steps", "0"], "--steps: found 0, expected 1 or more"),
        (["--learning-rate", "0"], "--learning-rate: found 0.0, expected a number above 0"),
        (["--decay", "1"], "--decay: found 1.0"),
        (["--widths", "0"], "--widths: found [0]"),
        (["--name", "../up"], "--name: found '../up', expected up to 64 letters"),
        (["--images", "nowhere"], "--images: found nowhere, which is no folder"),
        (["--sources", "nowhere.json"], "nowhere.json: No such file"),
        (["--sources", __file__], "test_training.py, which is no JSON"),
        (["--hold-out", "dan"], "--hold-out: found dan, expected names among ada, ben, eva"),
        (["--start-from", "knees"], "no mri prior is named 'knees'"),
        (["--start-from", "mri"], "found mri of --widths 64 128 224 --blocks 2, expected --widths 8 8 --blocks 1, or"),
        (["--device", "abacus"], "device: found abacus, expected"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(command, tmp_path, capsys, change, message):
    out = tmp_path / "out"
    assert main([*command(out), *change]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not out.exists()


def test_training_does_not_begin_with_a_published_network(command, tmp_path, capsys):
    card = Card(
        name="published",
        modality=Modality.MRI,
        description="",
        network=ADMNetwork(channels=2, width=32, multipliers=(1, 2), blocks=1),
        sha256="",
        data=(),
        held_out=(),
        training={},
        scores={},
        limits="",
    )
    save_prior({"weight": torch.zeros(1)}, card, tmp_path)
    assert main(command(tmp_path, "--start-from", "published")) == 2
    assert (
        capsys.readouterr().err
        == "error: --start-from: found published of architecture adm, expected edm_unet, trained here\n"
    )
    assert not (tmp_path / "tiny.checkpoint").exists()


def test_lists_of_people_must_name_people(command, tmp_path, capsys):
    (tmp_path / "people.json").write_text('{"ada": 1}')
    assert main(command(tmp_path / "out", "--people", str(tmp_path / "people.json"))) == 2
    assert "expected a JSON object from names to people" in capsys.readouterr().err
    (tmp_path / "people.json").write_text('{"ada": "ben"}')
    assert main(command(tmp_path / "out", "--people", str(tmp_path / "people.json"), "--hold-out", "ada", "eva")) == 2
    assert "found all people" not in (error := capsys.readouterr().err)
    assert "found files of ben, while ben of the same person" in error


def test_what_a_user_may_not_expect_is_said_in_a_line(options, tmp_path, capsys):
    assert run(options(tmp_path, name=None, hold_out=[]), Scores()) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "nobody was named by --hold-out; kept out of training, drawn by the seed: " in warnings[0]
    assert "a bundled prior is named mri too" in warnings[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_at_a_step_from_which_it_goes_on(options, tmp_path, capsys, number):
    assert run(options(tmp_path / "unbroken", steps=6, score_every=3), Scores()) == 0
    out = tmp_path / "broken"
    interrupted = Scores(then=partial(signal.raise_signal, number))
    assert run(options(out, steps=6, score_every=3), interrupted) == 128 + number
    assert capsys.readouterr().err.splitlines()[-1] == "stopped after step 4 of 6; the same command goes on from there"
    assert state(out)["step"] == 4
    assert run(options(out, steps=6, score_every=3), Scores()) == 0
    assert equal(state(out), state(tmp_path / "unbroken"))


def test_a_stopped_training_does_not_wait_for_its_scores(options, tmp_path):
    signals = iter([partial(signal.raise_signal, signal.SIGTERM)])
    interrupted = Scores(then=lambda: next(signals, lambda: None)())
    assert run(options(tmp_path, steps=6, score_every=1), interrupted) == 128 + signal.SIGTERM
    assert state(tmp_path)["step"] == 2
    assert len((tmp_path / "tiny.history.jsonl").read_text().splitlines()) == 1


RANKS = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from udig_recon.core.acquisition import Modality
from udig_recon.core.training.augmentation import batch
from udig_recon.core.training.dataset import find_sources, load_images
from udig_recon.core.training.state import Training, step_generator

dist.init_process_group("gloo")
torch.manual_seed(0)
slices = load_images(find_sources(Path(sys.argv[1]), {})[::2], Modality.MRI)
training = Training(2, 3, 8e-4, 0.999, widths=(8, 8), blocks=1)
for step in range(3):
    rng = step_generator(0, step, dist.get_rank())
    _, stopped = training.update(batch(slices, Modality.MRI, 32, 2, rng), rng, stop=dist.get_rank() == 1 and step == 2)
    assert stopped == (step == 2)
torch.save(training.prior.state_dict(), f"{sys.argv[2]}{dist.get_rank()}")
dist.destroy_process_group()
"""


def launch(*arguments):
    """Run a program in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_train_as_one_that_averages_their_gradients(command, images, tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    launch(str(tmp_path / "ranks.py"), str(images), str(tmp_path / "rank"))
    first, second = (torch.load(tmp_path / f"rank{rank}") for rank in range(2))
    assert equal(first, second)

    launch("-m", "udig_recon.core", *command(tmp_path / "out", "--steps", "3", "--device", "cpu"))
    assert state(tmp_path / "out")["settings"]["processes"] == 2
    assert equal(first, state(tmp_path / "out")["prior"])

    torch.manual_seed(0)
    slices = load_images(find_sources(images, {})[::2], Modality.MRI)
    single = Training(2, 3, 8e-4, 0.999, widths=(8, 8), blocks=1)
    before = flat(single.prior.state_dict())
    for step in range(3):
        single.optimiser.zero_grad()
        for rank in range(2):
            rng = step_generator(0, step, rank)
            (single.loss(batch(slices, Modality.MRI, 32, 2, rng), rng) / 2).backward()
        single.descend()
    after = flat(single.prior.state_dict())
    assert (flat(first) - after).norm() < 0.01 * (after - before).norm()


def flat(weights):
    return torch.cat([value.flatten() for value in weights.values()])
