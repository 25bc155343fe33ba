"""The out-of-distribution score tells images like those that a prior was trained on from others."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from udig_recon.core.acquisition import Modality
from udig_recon.core.cli.main import main
from udig_recon.core.errors import MissingPrior
from udig_recon.core.priors.architectures import EDMNetwork
from udig_recon.core.priors.card import Card, find_card, read_card
from udig_recon.core.priors.edm import EDMPrior
from udig_recon.core.priors.load import load_card, save_prior
from udig_recon.core.priors.ood import extract_features, load_ood_scorer, statistics_path
from udig_recon.core.training.dataset import find_sources, load_images
from udig_recon.core.training.ood import calibrate_ood

CPU = torch.device("cpu")
PEOPLE = ("ada", "ben", "eva", "kim")


def slices(rng, make, count=6):
    """Slices (count, 112, 112) of round objects that are filled by `make(x, y, rng)`."""
    y, x = np.mgrid[-1:1:112j, -1:1:112j]
    found = []
    for _ in range(count):
        radius = rng.uniform(0.5, 0.8)
        found.append(200 * (x**2 + y**2 < radius) * make(x, y, rng))
    return np.stack(found).astype(np.float32)


def smooth(x, y, rng):
    return 1 + 0.3 * np.sin(rng.uniform(2, 4) * x + rng.uniform(0, 6)) * np.cos(rng.uniform(2, 4) * y)


def squares(x, y, rng):
    return 0.2 + 1.5 * ((np.floor(rng.uniform(12, 16) * x) + np.floor(14 * y)) % 2)


@pytest.fixture
def card(tmp_path):
    torch.manual_seed(0)
    prior = EDMPrior(2, (8, 16), 1)
    # A network at random sees different things in different images, which is all that is asked of it.
    torch.nn.init.normal_(prior.network.leave.weight, std=0.1)
    described = Card(
        name="small",
        modality=Modality.MRI,
        description="",
        network=EDMNetwork(channels=2, widths=(8, 16), blocks=1),
        sha256="",
        data=(),
        held_out=("kim",),
        training={},
        scores={},
        limits="",
    )
    save_prior(prior.state_dict(), described, tmp_path / "priors")
    return read_card(tmp_path / "priors" / "small.json")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, person in enumerate(PEOPLE):
        np.save(folder / f"{person}.npy", slices(np.random.default_rng(number), smooth))
    return folder


def scorer(card):
    return load_ood_scorer(load_card(card, CPU), card)


def image(make, seed=9):
    plane = torch.from_numpy(slices(np.random.default_rng(seed), make, 1))[None]
    return torch.cat([plane, torch.zeros_like(plane)], 1)


def test_another_person_scores_below_one_and_another_kind_of_image_above(card, images):
    sources = [source for source in find_sources(images, {}) if source.name != "kim"]
    calibrate_ood(card, load_images(sources, Modality.MRI), sources, CPU)
    ood_score = scorer(card)
    assert ood_score(image(smooth)) < 1 < ood_score(image(squares))


def test_neither_brightness_nor_phase_change_the_score(card, images):
    sources = find_sources(images, {})
    calibrate_ood(card, load_images(sources, Modality.MRI), sources, CPU)
    ood_score, one = scorer(card), image(smooth)
    turned = torch.stack([0.6 * one[:, 0], -0.8 * one[:, 0]], 1)
    assert ood_score(1e-3 * one) == pytest.approx(ood_score(one), rel=1e-3)
    assert ood_score(turned) == pytest.approx(ood_score(one), rel=1e-3)


def test_the_command_calibrates_a_prior_without_the_people_its_card_holds_out(card, images, capsys):
    run = partial(main, ["calibrate-ood", "--prior", str(card.weights.with_suffix(".json")), "--images", str(images)])
    assert run() == 0
    assert "small: images are unlike its own from a distance of" in capsys.readouterr().err
    with_everybody = scorer(card)(image(smooth))
    (images / "kim.npy").unlink()
    assert run() == 0
    assert scorer(card)(image(smooth)) == with_everybody


def test_statistics_of_other_weights_are_ignored(card, images):
    sources = find_sources(images, {})
    calibrate_ood(card, load_images(sources, Modality.MRI), sources, CPU)
    assert scorer(card) is not None
    assert load_ood_scorer(load_card(card, CPU), card.model_copy(update={"sha256": "0" * 64})) is None


def test_a_broken_file_is_refused(card):
    card.weights.with_name("small.ood.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(MissingPrior, match="write it again with `udig calibrate-ood`, or remove it"):
        scorer(card)


@pytest.mark.parametrize("modality", list(Modality))
def test_the_bundled_priors_have_statistics(modality):
    card = find_card(None, modality)
    assert load_ood_scorer(load_card(card, CPU), card) is not None


def test_the_look_that_finds_an_image_strangest_counts(card, images):
    sources = find_sources(images, {})
    known = calibrate_ood(card, load_images(sources, Modality.MRI), sources, CPU)
    prior, one = load_card(card, CPU), image(squares)
    each = [statistics.score(extract_features(prior, one, probe)) for probe, statistics in known.items()]
    assert len(each) > 1
    assert scorer(card)(one) == max(each)


def test_a_file_with_the_first_probe_only_is_read(card, images):
    sources = find_sources(images, {})
    known = calibrate_ood(card, load_images(sources, Modality.MRI), sources, CPU)
    path = card.weights.with_name("small.ood.safetensors")
    save_file({name: part for name, part in load_file(path).items() if "_" not in name}, path, {"prior": card.sha256})
    prior, one = load_card(card, CPU), image(squares)
    first, *_ = known
    assert scorer(card)(one) == known[first].score(extract_features(prior, one, first))


def test_a_file_under_the_name_of_version_0_1_is_read(card, images):
    sources = find_sources(images, {})
    calibrate_ood(card, load_images(sources, Modality.MRI), sources, CPU)
    expected = scorer(card)(image(smooth))
    statistics_path(card).rename(card.weights.with_name("small.familiarity.safetensors"))
    assert scorer(card)(image(smooth)) == expected


@pytest.mark.long
def test_reconstruction_does_not_import_the_training_code():
    script = """
import sys
from udig_recon.core import reconstruct, formats, results
from udig_recon.core import algorithms
from udig_recon.core.priors import load, ood
foreign = ("udig_recon.core.training", "udig_recon.core.comparison", "nibabel", "pydicom", "matplotlib")
print([name for name in sys.modules if name.startswith(foreign)])
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
