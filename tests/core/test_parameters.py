import pytest
from pydantic import ValidationError

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.parameters import METHODS, PRESETS, UDiGDIP, complete, parse, require
from udig_recon.core.parameters.text import describe_error
from udig_recon.core.preprocessing.options import Preprocessing


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


@pytest.mark.parametrize("method", [name for name, cls in METHODS.items() if cls.needs_prior])
def test_levels_fall_in_every_method_that_walks_down(method):
    with pytest.raises(ValidationError, match=r"0\.5 is above noise_level 0\.1; levels must fall"):
        parse({"method": method, "noise_level": 0.1, "final_noise_level": 0.5})


def test_one_chain_a_coil_leaves_no_room_for_more():
    with pytest.raises(ValidationError, match="samples must be 1, found 3"):
        parse({"method": "score_mri", "coils": "separate", "samples": 3})


def test_preprocessing_is_a_parameter_of_every_method_and_by_default_does_nothing():
    for cls in METHODS.values():
        for modality in cls.modalities:
            method = complete(cls(), modality)
            assert method.preprocessing == Preprocessing(coil_energy=None)
            assert complete(parse(method.model_dump(mode="json")), modality) == method
    asked = parse({"method": "tv", "rotation_center": 12, "ring_correction": True})
    assert asked.preprocessing == Preprocessing(coil_energy=None, rotation_center=12.0, ring_correction=True)


@pytest.mark.parametrize(
    ("name", "value", "modality"),
    [
        ("coil_energy", 0.9, Modality.CT),
        ("rotation_center", "auto", Modality.MRI),
        ("rotation_center", 7.5, Modality.MRI),
        ("ring_correction", True, Modality.MRI),
    ],
)
def test_preprocessing_of_the_other_modality_is_refused(name, value, modality):
    with pytest.raises(UnsupportedScan, match=f"{name} is for") as refusal:
        complete(parse({"method": "tv", name: value}), modality)
    assert refusal.value.field == f"parameters.{name}"


@pytest.mark.parametrize("value", ["middle", -1, True, None, float("nan")])
def test_an_axis_of_rotation_that_is_none_is_refused_in_one_sentence(value):
    with pytest.raises(ValidationError) as refusal:
        parse({"method": "sirt", "rotation_center": value})
    assert describe_error(refusal.value).endswith("expected file | auto | a detector index from 0")
    assert describe_error(refusal.value).startswith("rotation_center is ")


def test_an_image_that_a_method_needs_is_missed_at_the_door():
    require(parse({"method": "ref_guided_dip"}), ())
    require(parse({"method": "dip_probe"}), ("reference",))
    require(parse({"method": "ref_guided_dip", "guide": "file"}), ("guide",))
    with pytest.raises(UnsupportedScan, match="the parameter guide may be plain") as refusal:
        require(parse({"method": "ref_guided_dip", "guide": "file"}), ("reference",))
    assert refusal.value.field == "scan.guide"
    with pytest.raises(UnsupportedScan, match="needs an image 'reference' in the scan, found none"):
        require(parse({"method": "dip_probe"}), ())
