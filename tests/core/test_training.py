"""A prior is trained from image files, goes on from its checkpoint, and comes out as a file that loads."""

import json
import sys

import nibabel
import numpy as np
import pytest
import torch

from core.acquisition import Modality
from core.augmentation import patch, with_phase
from core.cards import cards
from core.priors import load_prior
from core.train_prior import main
from core.training_images import load_images, normalised


@pytest.fixture
def images(tmp_path):
    """Two volumes of a bright disc, 104 pixels wide, by name of their person."""
    y, x = np.mgrid[-1:1:104j, -1:1:104j]
    disc = 200.0 * ((x**2 + y**2) < 0.6) * (1 + 0.3 * np.sin(9 * x))
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("ada", "ben"):
        volume = np.repeat(disc[..., None], 3, axis=2).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([1, 1, 4, 1])), folder / f"{name}.nii.gz")
    return folder


def test_people_are_split_by_file(images):
    training, kept_out = load_images(images, Modality.MRI, {"ada": {"weight": 3}}, ["ben"])
    assert {image.source for image in training} == {"ada"}
    assert {image.source for image in kept_out} == {"ben"}
    assert sum(image.weight for image in training) == pytest.approx(3)


def test_a_folder_without_images_says_so(tmp_path):
    with pytest.raises(SystemExit, match="no NIfTI volume"):
        load_images(tmp_path, Modality.CT, {}, [])


def test_hounsfield_units_put_water_at_one_half():
    volume = np.array([-1000.0, 0.0, 1000.0, 5000.0], np.float32)
    assert normalised(volume, Modality.CT).tolist() == [0.0, 0.5, 1.0, 2.0]


def test_brightness_of_mri_does_not_matter():
    volume = np.linspace(0, 1, 1000, dtype=np.float32)
    assert np.allclose(normalised(volume, Modality.MRI), normalised(4000 * volume, Modality.MRI), atol=1e-5)


def test_patches_are_of_one_size_and_phase_keeps_the_magnitude():
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 120, 100)
    for size in (32, 96, 33):
        assert patch(pixels, size, rng).shape == (1, size, size)
    magnitude = torch.rand(3, 1, 16, 16)
    assert torch.allclose(with_phase(magnitude, rng).norm(dim=1, keepdim=True), magnitude, atol=1e-6)


def test_training_resumes_and_writes_a_prior_that_loads(images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = ["train_prior", "--modality", "mri", "--images", str(images), "--hold-out", "ben", "--output", str(out)]
    small = ["--batch", "1", "--patch", "32", "--name", "tiny", "--steps"]
    monkeypatch.setattr(sys, "argv", [*command, *small, "2"])
    main()
    assert json.loads((out / "tiny.json").read_text())["training"]["steps"] == 2
    monkeypatch.setattr(sys, "argv", [*command, *small, "3"])
    main()
    (card,) = (card for card in cards(out) if card.name == "tiny")
    assert card.training["steps"] == 3
    assert card.held_out == ("ben",)
    assert card.data == ("ada: terms not stated",)
    assert set(card.scores) == {f"psnr_at_{sigma}" for sigma in (0.02, 0.05, 0.1, 0.2, 0.5)}
    prior = load_prior("tiny", Modality.MRI, out, torch.device("cpu"))
    assert prior(torch.zeros(1, 2, 16, 16), 0.1).shape == (1, 2, 16, 16)
