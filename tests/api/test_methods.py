from typing import Any

from fastapi.testclient import TestClient

from core.acquisition import Modality
from core.parameters import METHODS, PRESETS, complete, parse


def test_every_knob_of_every_method_is_told(client: TestClient) -> None:
    told = {method["name"]: method for method in client.get("/v1/methods").json()["items"]}
    assert set(told) == set(METHODS)
    for name, cls in METHODS.items():
        knobs = {knob["name"]: knob for knob in told[name]["parameters"]}
        assert set(knobs) == set(cls.model_fields) - {"method"}
        for knob in knobs.values():
            assert knob["meaning"]
            assert knob["default"] == cls.model_fields[knob["name"]].default
        assert told[name]["meaning"]
        assert told[name]["modalities"] == [modality.value for modality in cls.modalities]


def test_bounds_types_and_symbols_are_told(client: TestClient) -> None:
    methods = {method["name"]: method for method in client.get("/v1/methods").json()["items"]}
    knobs = {knob["name"]: knob for knob in methods["udig_dip"]["parameters"]}
    assert knobs["outer_iterations"] | {"default": 0, "meaning": ""} == {
        "name": "outer_iterations",
        "type": "integer",
        "default": 0,
        "minimum": 1,
        "above": None,
        "maximum": 100_000,
        "below": None,
        "choices": None,
        "symbol": "K",
        "meaning": "",
    }
    assert (knobs["learning_rate"]["above"], knobs["learning_rate"]["minimum"]) == (0, None)
    assert knobs["network"]["choices"] == ["unet", "residual"]
    assert knobs["prior"]["type"] == "string or null"
    assert knobs["symmetries"]["type"] == "boolean"


def test_presets_are_complete(client: TestClient) -> None:
    methods = {method["name"]: method for method in client.get("/v1/methods").json()["items"]}
    presets = methods["udig_dip"]["presets"]
    assert {(preset, modality) for preset in presets for modality in presets[preset]} == set(PRESETS)
    expected = complete(parse({"method": "udig_dip", "preset": "preview"}), Modality.CT)
    assert presets["preview"]["ct"] == expected.model_dump(mode="json")


def test_what_is_told_as_default_is_taken_by_a_job(client: TestClient, scan: dict[str, Any]) -> None:
    for method in client.get("/v1/methods").json()["items"]:
        if "mri" in method["modalities"]:
            knobs = {knob["name"]: knob["default"] for knob in method["parameters"]}
            body = {"scan_id": scan["id"], "parameters": {"method": method["name"], **knobs}}
            assert client.post("/v1/jobs", json=body).status_code == 202, method["name"]


def test_they_carry_an_entity_tag(client: TestClient) -> None:
    for path in ("/v1/methods", "/v1/priors"):
        tag = client.get(path).headers["etag"]
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 304


def test_every_modality_has_a_prior_with_its_card(client: TestClient) -> None:
    priors = client.get("/v1/priors").json()["items"]
    assert {prior["modality"] for prior in priors} == {"mri", "ct"}
    assert all(len(prior["sha256"]) == 64 and prior["data"] and prior["limits"] for prior in priors)
    assert not any("weights" in prior for prior in priors)
