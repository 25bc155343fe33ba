"""A prior knows the images that it was trained on, and finds others strange."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from udig_recon.core.acquisition import Modality
from udig_recon.core.cli import calibrate_ood as familiarise
from udig_recon.core.errors import MissingPrior
from udig_recon.core.priors.card import Card, EDMNetwork, find_card, read_card
from udig_recon.core.priors.load import DiffusionPrior, prior_of, save_prior
from udig_recon.core.priors.ood import features, learn, strangeness_to
from udig_recon.core.training.dataset import find_sources, load_images

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
    prior = DiffusionPrior(2, (8, 16), 1)
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


def judge(card):
    return strangeness_to(prior_of(card, CPU), card)


def image(make, seed=9):
    plane = torch.from_numpy(slices(np.random.default_rng(seed), make, 1))[None]
    return torch.cat([plane, torch.zeros_like(plane)], 1)


def test_another_person_is_familiar_and_another_kind_of_image_is_not(card, images):
    sources = [source for source in find_sources(images, {}) if source.name != "kim"]
    learn(card, load_images(sources, Modality.MRI), sources, CPU)
    strangeness = judge(card)
    assert strangeness(image(smooth)) < 1 < strangeness(image(squares))


def test_neither_brightness_nor_phase_make_an_image_strange(card, images):
    sources = find_sources(images, {})
    learn(card, load_images(sources, Modality.MRI), sources, CPU)
    strangeness, one = judge(card), image(smooth)
    turned = torch.stack([0.6 * one[:, 0], -0.8 * one[:, 0]], 1)
    assert strangeness(1e-3 * one) == pytest.approx(strangeness(one), rel=1e-3)
    assert strangeness(turned) == pytest.approx(strangeness(one), rel=1e-3)


def test_the_command_teaches_a_prior_and_keeps_out_whom_its_card_keeps_out(card, images, capsys):
    run = partial(familiarise.main, ["--prior", str(card.weights.with_suffix(".json")), "--images", str(images)])
    assert run() == 0
    assert "small: images are unlike its own from a distance of" in capsys.readouterr().err
    with_everybody = judge(card)(image(smooth))
    (images / "kim.npy").unlink()
    assert run() == 0
    assert judge(card)(image(smooth)) == with_everybody


def test_what_is_of_other_weights_is_not_believed(card, images):
    sources = find_sources(images, {})
    learn(card, load_images(sources, Modality.MRI), sources, CPU)
    assert judge(card) is not None
    assert strangeness_to(prior_of(card, CPU), card.model_copy(update={"sha256": "0" * 64})) is None


def test_a_broken_file_is_told(card):
    card.weights.with_name("small.familiarity.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(MissingPrior, match="write it anew, or remove it"):
        judge(card)


@pytest.mark.parametrize("modality", list(Modality))
def test_the_bundled_priors_know_their_images(modality):
    card = find_card(None, modality)
    assert strangeness_to(prior_of(card, CPU), card) is not None


def test_the_look_that_finds_an_image_strangest_counts(card, images):
    sources = find_sources(images, {})
    known = learn(card, load_images(sources, Modality.MRI), sources, CPU)
    prior, one = prior_of(card, CPU), image(squares)
    each = [familiarity.strangeness(features(prior, one, look)) for look, familiarity in known.items()]
    assert len(each) > 1
    assert judge(card)(one) == max(each)


def test_a_file_of_before_there_were_several_looks_is_still_read(card, images):
    sources = find_sources(images, {})
    known = learn(card, load_images(sources, Modality.MRI), sources, CPU)
    path = card.weights.with_name("small.familiarity.safetensors")
    save_file({name: part for name, part in load_file(path).items() if "_" not in name}, path, {"prior": card.sha256})
    prior, one = prior_of(card, CPU), image(squares)
    first, *_ = known
    assert judge(card)(one) == known[first].strangeness(features(prior, one, first))
