"""The examples of comparisons in the OpenAPI document."""

from typing import Any

from udig_recon.api.comparisons.schemas import RankingOut
from udig_recon.api.openapi.content import Content
from udig_recon.api.openapi.examples import CREATED, JOB_ID, PARAMETERS, SCAN_ID, page
from udig_recon.core.acquisition import Modality
from udig_recon.core.comparison.entries import Entry
from udig_recon.core.comparison.ranking import RankedMethod, Ranking
from udig_recon.core.comparison.tables import TableForm, render

COMPARISON_ID = "0198c2f6-3c41-7d22-b0a5-6e1f2a3b4c5d"
COMPARISON_REQUEST: dict[str, Any] = {
    "scan_ids": [SCAN_ID],
    "methods": [
        {"parameters": PARAMETERS},
        {"label": "weight 0.01", "parameters": {"method": "tv", "weight": 0.01}},
    ],
    "seeds": [0, 1, 2],
    "slices": None,
    "tags": {"study": "knee-7"},
}
_ROOT = f"/v1/comparisons/{COMPARISON_ID}"
COMPARISON_ITEM: dict[str, Any] = {
    **COMPARISON_REQUEST,
    "id": COMPARISON_ID,
    "status": "running",
    "progress": {
        "fraction": 0.35,
        "jobs_done": 2,
        "jobs": 6,
        "slices_done": 2,
        "slices": 6,
        "eta_seconds": 140.0,
    },
    "methods": [
        {"label": "udig_dip", "parameters": PARAMETERS},
        {"label": "tv weight 0.01", "parameters": {"method": "tv", "weight": 0.01}},
    ],
    "created_at": CREATED,
    "expires_at": None,
    "links": {"self": _ROOT, "table": f"{_ROOT}/table"},
}
_RUN = {"job_id": JOB_ID, "label": "udig_dip", "scan_id": SCAN_ID, "seed": 0}
_FOUND: dict[str, Any] = {
    "sampling": "4x",
    "psnr": 33.2,
    "ssim": 0.91,
    "nmse": 0.008,
    "data_residual": 0.041,
    "seconds": 118.6,
    "prior_evaluations": 240,
    "optimizer_steps": 0,
}
COMPARISON: dict[str, Any] = {
    **COMPARISON_ITEM,
    "entries": [{**_RUN, **_FOUND, "slices": 1}],
    "errors": [
        {
            **_RUN,
            "seed": 1,
            "error": {
                "type": "urn:udig-recon:problem:disk-full",
                "title": "Insufficient Storage",
                "status": 507,
                "detail": "the disk was full when slice 0 was to be written; free some space and retry the job",
            },
        }
    ],
}
_ENTRY = Entry(method="udig_dip", scan=SCAN_ID, slice=0, seed=0, **_FOUND)
TABLES = [Content.text(form.media_type, render([_ENTRY], form)) for form in TableForm]
_RANKED = (RankedMethod("udig_dip", 1, 33.2, 8), RankedMethod("tv weight 0.01", 2, 32.1, 8, -1.1, 0.0078, 0.0078))
RANKINGS = page(RankingOut.model_validate(Ranking(Modality.MRI, _RANKED)).model_dump(mode="json"))
PANEL = Content.binary("image/png", "(bytes of the picture)")
