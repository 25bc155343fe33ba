"""Dashboard and alert rules name metrics that are told, and every alert is explained."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from udig_recon.api.app import create_app
from udig_recon.worker.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DOCS / "monitoring" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((DOCS / "monitoring" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [rule["expr"] for rule in RULES] + [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.fixture
def told(settings: Settings) -> dict[str, set[str]]:
    """Sample name -> its labels; those that come with a GPU or a histogram are filled in."""
    with TestClient(create_app(settings)) as client:
        client.get("/healthz")
        exposed = client.get("/metrics").text
    families = list(text_string_to_metric_families(exposed))
    names = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    return {family.name: {"gpu"} for family in families if not family.samples} | names


def test_every_metric_that_is_asked_for_is_told_with_the_labels_that_are_asked_for(told: dict[str, set[str]]) -> None:
    for query in QUERIES:
        names = set(re.findall(r"\budig_\w+", query))
        assert names <= set(told), query
        labels = {label for each in re.findall(r"by \(([^)]*)\)", query) for label in each.replace(" ", "").split(",")}
        labels |= set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", query)) - {"job"}
        assert labels <= {label for name in names for label in told[name]}, query


def test_every_metric_is_shown_or_watched(told: dict[str, set[str]]) -> None:
    asked = {name for query in QUERIES for name in re.findall(r"\budig_\w+", query)}
    parts = re.compile(r"_(created|sum|count)$")
    assert {name for name in told if not parts.search(name)} <= asked


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    pages = re.findall(r"^### (\w+)$", (DOCS / "operations.md").read_text(), re.MULTILINE)
    assert pages == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "warn")


def test_panels_have_a_place_each_and_a_name() -> None:
    places = [tuple(panel["gridPos"][side] for side in "xywh") for panel in DASHBOARD["panels"]]
    cells = [(x + i, y + j) for x, y, w, h in places for i in range(w) for j in range(h)]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["title"] for panel in PANELS)
