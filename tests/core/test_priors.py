"""The bundled priors denoise people they were not trained on, and refuse what they should."""

import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import MissingPrior
from udig_recon.core.metrics import psnr
from udig_recon.core.priors.card import BUNDLED, cards, find_card, sha256_of
from udig_recon.core.priors.load import load_prior

CPU = torch.device("cpu")


def brain():
    """One slice of nibabel's example, in [0, 1], (y, x)."""
    path = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    plane = np.asarray(nibabel.load(path).dataobj[:, :, 12, 0], np.float32)
    return np.clip(plane / np.percentile(plane, 99.5), 0, 1)


def body():
    """pydicom's CT example, attenuation with water at 0.5, (y, x)."""
    image = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    units = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
    return np.clip((units.astype(np.float32) + 1000) / 2000, 0, 1)


@pytest.mark.parametrize("modality", list(Modality))
def test_bundled_prior_gains_eight_decibels_on_a_person_it_never_saw(modality):
    clean = torch.from_numpy(brain() if modality is Modality.MRI else body())[None, None]
    if modality is Modality.MRI:
        clean = torch.cat([clean * np.cos(0.7), clean * np.sin(0.7)], 1)
    noisy = clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    denoised = load_prior(None, modality, None, CPU)(noisy, 0.2)
    truth = clean.norm(dim=1)[0].numpy()

    def score(image):
        return psnr(image.norm(dim=1)[0].numpy() if modality is Modality.MRI else image[0, 0].numpy(), truth, 1.0)

    assert score(denoised) - score(noisy) >= 8


@pytest.mark.parametrize("modality", list(Modality))
def test_less_noise_is_denoised_to_less_error(modality):
    clean = torch.from_numpy(brain() if modality is Modality.MRI else body())[None, None]
    clean = torch.cat([clean, 0 * clean], 1) if modality is Modality.MRI else clean
    prior = load_prior(None, modality, None, CPU)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    errors = [float((prior(clean + sigma * noise, sigma) - clean).norm()) for sigma in (0.4, 0.2, 0.1, 0.05, 0.02)]
    assert errors == sorted(errors, reverse=True)


def test_batch_gives_what_single_images_give():
    prior = load_prior(None, Modality.MRI, None, CPU)
    x = torch.randn(3, 2, 37, 50, generator=torch.Generator().manual_seed(0))
    together = prior(x, torch.tensor([0.1, 0.3, 0.9]))
    apart = torch.cat([prior(x[i : i + 1], sigma) for i, sigma in enumerate((0.1, 0.3, 0.9))])
    assert torch.allclose(together, apart, atol=0.02)


def test_bundled_files_match_their_cards_and_are_small():
    for card in cards():
        assert sha256_of(card.weights) == card.sha256
        assert card.weights.stat().st_size <= 10e6
        assert card.data
        assert card.limits
        assert card.held_out
    assert {card.modality for card in cards()} == set(Modality)


def test_a_prior_in_a_folder_is_found_by_its_name(tmp_path):
    _copy(tmp_path, "mine")
    assert find_card("mine", Modality.MRI, tmp_path).name == "mine"
    assert isinstance(load_prior("mine", Modality.MRI, tmp_path, CPU), torch.nn.Module)


def test_changed_weights_are_refused(tmp_path):
    _copy(tmp_path, "changed")
    with (tmp_path / "changed.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(MissingPrior, match="not those its card names"):
        load_prior("changed", Modality.MRI, tmp_path, CPU)


def test_prior_of_the_other_modality_is_refused():
    with pytest.raises(MissingPrior, match="no ct prior is named 'mri'"):
        load_prior("mri", Modality.CT, None, CPU)


BROKEN_CARDS = {
    "empty": ("{}", "name: Field required"),
    "no_json": ("{", "Invalid JSON"),
    "a_list": ("[]", "Input should be an object"),
    "no_text": (b"\xff\xfe", "Invalid JSON"),
    "other_architecture": ({"network": {"architecture": "vit", "channels": 2}}, "network: Input tag 'vit'"),
    "no_architecture": ({"network": {"channels": 3, "widths": [8], "blocks": 1}}, "Unable to extract tag"),
    "five_channels": (
        {"network": {"architecture": "edm_unet", "channels": 5, "widths": [8], "blocks": 1}},
        "its network has 5 channels; mri images need 2",
    ),
    "ct_for_mri": (
        {"network": {"architecture": "edm_unet", "channels": 1, "widths": [8], "blocks": 1}},
        "its network has 1 channels; mri images need 2",
    ),
    "climbs": ({"name": "../climbs"}, "name: String should match pattern"),
    "mri": ({"name": "mri"}, "names its prior 'mri', as another does"),
}


@pytest.mark.parametrize("name", BROKEN_CARDS)
def test_broken_card_is_told_to_who_asks_for_it_and_hides_no_other(tmp_path, name):
    content, message = BROKEN_CARDS[name]
    _copy(tmp_path, "mine")
    _copy(tmp_path, f"{name}_file")
    path = tmp_path / f"{name}_file.json"
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_text()) | content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert [card.name for card in cards(tmp_path)] == ["ct", "mri", "mine"]
    assert find_card("mine", Modality.MRI, tmp_path).name == "mine"
    with pytest.raises(MissingPrior, match=re.escape(path.name)) as refused:
        find_card(f"{name}_file", Modality.MRI, tmp_path)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(MissingPrior, match=f"there are: mri, mine; not usable: {name}_file"):
        find_card("knees", Modality.MRI, tmp_path)


def test_card_without_weights_is_not_listed(tmp_path):
    _copy(tmp_path, "alone")
    (tmp_path / "alone.safetensors").unlink()
    assert [card.name for card in cards(tmp_path)] == ["ct", "mri"]
    with pytest.raises(MissingPrior, match=r"alone\.json has no weights file alone\.safetensors beside it"):
        find_card("alone", Modality.MRI, tmp_path)


def test_card_of_the_one_architecture_that_there_was_is_still_read(tmp_path):
    _copy(tmp_path, "old")
    path = tmp_path / "old.json"
    card = json.loads(path.read_text())
    network = card.pop("network")
    del network["architecture"]
    path.write_text(json.dumps(card | network))
    assert find_card("old", Modality.MRI, tmp_path).network == find_card("mri", Modality.MRI).network


def test_weights_of_another_network_than_the_card_describes_are_refused(tmp_path):
    _copy(tmp_path, "odd")
    path = tmp_path / "odd.json"
    card = json.loads(path.read_text())
    card["network"]["blocks"] = 3
    path.write_text(json.dumps(card))
    with pytest.raises(MissingPrior, match="prior odd: its weights do not fit the network that its card describes"):
        load_prior("odd", Modality.MRI, tmp_path, CPU)


def _copy(folder, name):
    card = json.loads((BUNDLED / "mri.json").read_text())
    (folder / f"{name}.json").write_text(json.dumps({**card, "name": name}))
    shutil.copy(BUNDLED / "mri.safetensors", folder / f"{name}.safetensors")
