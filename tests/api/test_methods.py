import json
import shutil
from typing import Any

from fastapi.testclient import TestClient

from udig_recon.core.acquisition import Modality
from udig_recon.core.parameters import METHODS, PRESETS, complete, parse
from udig_recon.core.priors.card import BUNDLED
from udig_recon.worker.settings import Settings


def test_every_knob_of_every_method_is_told(client: TestClient) -> None:
    told = {method["name"]: method for method in client.get("/v1/methods").json()["items"]}
    assert set(told) == set(METHODS)
    for name, cls in METHODS.items():
        knobs = {knob["name"]: knob for knob in told[name]["parameters"]}
        assert set(knobs) == set(cls.model_fields) - {"method"}
        for knob in knobs.values():
            assert knob["description"]
            assert knob["default"] == cls.model_fields[knob["name"]].default
        assert told[name]["description"]
        assert told[name]["modalities"] == [modality.value for modality in cls.modalities]


def test_bounds_types_and_symbols_are_told(client: TestClient) -> None:
    methods = {method["name"]: method for method in client.get("/v1/methods").json()["items"]}
    knobs = {knob["name"]: knob for knob in methods["udig_dip"]["parameters"]}
    assert knobs["outer_iterations"] | {"default": 0, "description": ""} == {
        "name": "outer_iterations",
        "type": "integer",
        "default": 0,
        "minimum": 1,
        "exclusive_minimum": None,
        "maximum": 100_000,
        "exclusive_maximum": None,
        "choices": None,
        "symbol": "K",
        "description": "",
    }
    assert (knobs["learning_rate"]["exclusive_minimum"], knobs["learning_rate"]["minimum"]) == (0, None)
    assert knobs["network"]["choices"] == ["unet", "residual"]
    assert knobs["prior"]["type"] == "string or null"
    assert knobs["symmetries"]["type"] == "boolean"
    assert knobs["coil_energy"]["type"] == "number or null"
    assert knobs["rotation_center"]["type"] == "choice or number"
    assert knobs["rotation_center"]["choices"] == ["file", "auto"]


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


def test_a_prior_in_the_data_folder_is_told_and_taken_by_its_name(
    client: TestClient, settings: Settings, scan: dict[str, Any]
) -> None:
    settings.priors_folder.mkdir(parents=True)
    card = json.loads((BUNDLED / "mri.json").read_text()) | {"name": "knees"}
    (settings.priors_folder / "knees.json").write_text(json.dumps(card))
    shutil.copy(BUNDLED / "mri.safetensors", settings.priors_folder / "knees.safetensors")
    told = {prior["name"]: prior for prior in client.get("/v1/priors").json()["items"]}
    assert told["knees"] == card
    body = {"scan_id": scan["id"], "parameters": {"method": "udig_dip", "prior": "knees"}}
    assert client.post("/v1/jobs", json=body).status_code == 202


def test_a_broken_card_is_told_to_who_asks_for_its_prior_and_to_no_other(
    client: TestClient, settings: Settings, scan: dict[str, Any]
) -> None:
    settings.priors_folder.mkdir(parents=True)
    (settings.priors_folder / "odd.json").write_text('{"name": "odd"}')
    answer = client.get("/v1/priors")
    assert answer.status_code == 200
    assert {prior["name"] for prior in answer.json()["items"]} == {"mri", "ct"}
    body = {"scan_id": scan["id"], "parameters": {"method": "udig_dip", "prior": "odd"}}
    refused = client.post("/v1/jobs", json=body)
    assert refused.status_code == 422
    assert "odd.json is not a prior's card: modality: Field required" in refused.json()["detail"]
    body["parameters"]["prior"] = "mri"
    assert client.post("/v1/jobs", json=body).status_code == 202
