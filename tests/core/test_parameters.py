import pytest
from pydantic import ValidationError

from core.acquisition import Modality
from core.errors import UnsupportedScan
from core.parameters import METHODS, PRESETS, UDiGDIP, complete, parse


def test_every_method_is_parsed_by_its_name_and_keeps_its_defaults():
    for name, cls in METHODS.items():
        assert parse({"method": name}) == cls()


def test_unknown_knob_is_refused():
    with pytest.raises(ValidationError, match="extra_forbidden"):
        parse({"method": "sirt", "learning_rate": 0.1})


def test_preset_fills_only_what_was_not_given():
    given = parse({"method": "udig_dip", "preset": "paper", "outer_iterations": 7})
    filled = complete(given, Modality.MRI)
    assert isinstance(filled, UDiGDIP)
    assert filled.outer_iterations == 7
    assert filled.autoencoding_weight == 1.0
    assert filled.learning_rate == 1e-4
    assert filled.inner_iterations == 2
    assert filled.noise_scale == 1.0


def test_completing_twice_changes_nothing():
    for preset, modality in PRESETS:
        once = complete(parse({"method": "udig_dip", "preset": preset}), modality)
        assert complete(once, modality) == once
        assert complete(parse(once.model_dump(mode="json")), modality) == once


def test_method_of_the_other_modality_is_refused_with_those_that_fit():
    with pytest.raises(UnsupportedScan, match="cg_sense does not reconstruct ct") as refusal:
        complete(parse({"method": "cg_sense"}), Modality.CT)
    assert "sirt" in refusal.value.expected


def test_noise_levels_must_fall():
    with pytest.raises(ValidationError, match="levels must fall"):
        parse({"method": "udig_dip", "noise_level": 0.1, "final_noise_level": 0.2})


def test_mri_start_for_a_ct_only_start_is_refused():
    with pytest.raises(UnsupportedScan, match="needs a CT scan"):
        complete(parse({"method": "udig_dip", "start": "fbp"}), Modality.MRI)
