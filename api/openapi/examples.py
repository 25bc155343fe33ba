"""The examples of the OpenAPI document, for every request and every answer."""

from http import HTTPStatus
from typing import Any

from udig_recon.api.http import problems
from udig_recon.api.openapi.content import Content
from udig_recon.core.acquisition import Modality
from udig_recon.core.prior_check import PriorCheck, ood_warning
from udig_recon.core.quality.rating import Signals, rate, worst
from udig_recon.core.results.outputs import OUTPUTS

SCAN_ID = "0198c2f4-7a10-7c3e-9d5b-2f6a1e0b4c11"
JOB_ID = "0198c2f5-1b22-7f00-8a41-93c7d5e2a6f0"
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
CREATED = "2026-02-03T09:12:41.120000Z"

SCAN: dict[str, Any] = {
    "id": SCAN_ID,
    "filename": "brain.h5",
    "size_bytes": 7864320,
    "sha256": SHA256,
    "format": "fastmri_hdf5",
    "modality": "mri",
    "slices": 1,
    "coils": 8,
    "views": None,
    "detectors": None,
    "matrix": [320, 320],
    "kspace_matrix": [320, 320],
    "pixel_spacing_mm": [0.7, 0.7],
    "acceleration": 4.0,
    "has_maps": False,
    "has_reference": True,
    "has_guide": False,
    "warnings": [],
    "created_at": CREATED,
    "expires_at": None,
}
PARAMETERS = {"method": "udig_dip", "preset": "standard"}
JOB_REQUEST: dict[str, Any] = {
    "scan_id": SCAN_ID,
    "parameters": PARAMETERS,
    "outputs": ["h5", "png"],
    "slices": None,
    "seed": 0,
    "seeds": 1,
    "priority": "routine",
    "max_seconds": None,
    "webhook_url": None,
    "tags": {"study": "knee-7"},
}
PROGRESS = {
    "fraction": 0.42,
    "slices_done": 0,
    "slices": 1,
    "iteration": 42,
    "iterations": 100,
    "eta_seconds": 31.5,
}
JOB_ITEM: dict[str, Any] = {
    "id": JOB_ID,
    "scan_id": SCAN_ID,
    "status": "running",
    "progress": PROGRESS,
    "metrics": None,
    "parameters": {**PARAMETERS, "outer_iterations": 100, "inner_iterations": 2},
    "outputs": ["h5", "png"],
    "slice_numbers": [0],
    "seed": 0,
    "seeds": 1,
    "priority": "routine",
    "max_seconds": 259200.0,
    "compute_seconds": 0.0,
    "estimate": {"seconds": 14.2, "memory_bytes": 536870912, "result_bytes": 4653056},
    "tags": {"study": "knee-7"},
    "cancel_requested": False,
    "warnings": [],
    "error": None,
    "attempt": 1,
    "worker": "gpu-1:4711:1770109901",
    "comparison_id": None,
    "versions": None,
    "created_at": CREATED,
    "started_at": "2026-02-03T09:12:42.300000Z",
    "finished_at": None,
    "expires_at": None,
    "links": {"self": f"/v1/jobs/{JOB_ID}", "result": f"/v1/jobs/{JOB_ID}/result"},
}
_CHECK = PriorCheck(
    prior_weight=0.31,
    best_at=0.6,
    residuals={"start": 0.094, "tv": 0.066, "udig_dip": 0.063},
    tv_weight=0.0013,
)
_RATING = rate(Signals(misfit=0.9, prior_excess=_CHECK.excess, hallucination=0.04), Modality.MRI)
PRIOR_CHECK = {name: value for name, value in _CHECK.as_json().items() if name != "reference_slice"}
SLICE: dict[str, Any] = {"slice": 0, "status": "running", "quality": None, "prior_check": None, "reference_slice": None}
JOB = {**JOB_ITEM, "webhook": None, "quality": None, "slices": [SLICE]}
FINISHED_JOB: dict[str, Any] = {
    **JOB_ITEM,
    "status": "succeeded",
    "progress": {**PROGRESS, "fraction": 1.0, "slices_done": 1, "slices": 1, "iteration": 180, "iterations": 180}
    | {"eta_seconds": None},
    "metrics": {
        "psnr": 33.2,
        "ssim": 0.91,
        "nmse": 0.008,
        "data_residual": 0.041,
        "validation_residual": _CHECK.validation_residual,
        "prior_evaluations": 240.0,
        "optimizer_steps": 0.0,
        "noise_discrepancy": 1.08,
        "iterate_variance": 2.1e-7,
        "hallucination_share": 0.04,
        "seed_std": None,
    },
    "parameters": {**JOB_ITEM["parameters"], "holdout_share": 0.1},
    "warnings": [ood_warning([0])],
    "versions": {"software": "udig-recon 0.1.0", "prior": "mri", "prior_sha256": SHA256},
    "finished_at": "2026-02-03T09:14:40.900000Z",
    "webhook": {
        "state": "delivered",
        "event": "job.succeeded",
        "attempts": 1,
        "error": None,
        "due_at": "2026-02-03T09:15:11.200000Z",
        "delivered_at": "2026-02-03T09:14:41.400000Z",
    },
    "quality": worst({0: _RATING}).as_json(),
    "slices": [{**SLICE, "status": "succeeded", "quality": _RATING.as_json(), "prior_check": PRIOR_CHECK}],
}
SNAPSHOT = {
    "seq": 7,
    "slice": 0,
    "iteration": 42,
    "iterations": 100,
    "loss": 0.0021,
    "data_residual": 0.043,
    "psnr": 34.1,
    "ssim": 0.93,
    "seconds": 22.8,
    "created_at": "2026-02-03T09:13:05.100000Z",
}
PARAMETER = {
    "name": "outer_iterations",
    "type": "integer",
    "default": 100,
    "minimum": 1,
    "maximum": 100000,
    "symbol": "K",
    "description": "outer iterations",
}
METHOD = {
    "name": "udig_dip",
    "description": "Sequential diffusion-guided deep image prior, Algorithm 1 of Liang et al. (ICASSP 2025).",
    "modalities": ["mri", "ct"],
    "needs_prior": True,
    "parameters": [PARAMETER],
    "presets": {"standard": {"mri": {**PARAMETERS, "outer_iterations": 100}}},
}
PRIOR = {
    "name": "mri",
    "modality": "mri",
    "description": "Denoiser of brain slices",
    "network": {"channels": 2, "architecture": "edm_unet", "widths": [32, 64, 128], "blocks": 2},
    "sha256": SHA256,
    "data": ["open brain volumes, CC0"],
    "held_out": ["subject 4"],
    "training": {"steps": 20000},
    "scores": {"gain_db_at_sigma_0.2": 9.1},
    "limits": "Not for diagnosis.",
}
READY: dict[str, Any] = {
    "status": "ok",
    "checks": dict.fromkeys(("database", "queue", "disk", "workers", "sandbox"), "ok"),
}


EVENTS = Content.text(
    "text/event-stream",
    'event: status\ndata: {"status":"running","progress":{"fraction":0.42},"warnings":[]}\n\n'
    'event: snapshot\ndata: {"seq":7,"slice":0,"iteration":42,"iterations":100,"psnr":34.1}\nid: 7\n\n'
    'event: done\ndata: {"status":"succeeded","progress":{"fraction":1.0},"warnings":[]}\nid: 9.done\n\n',
)
METRICS = Content.text("text/plain", '# TYPE udig_jobs gauge\nudig_jobs{status="queued"} 2.0\n')
PREVIEW = Content.binary("image/png", "(bytes of the picture)")
RESULT = [Content.binary(each.media_type, "(bytes of the file)") for each in OUTPUTS.values()]


def page(item: dict[str, Any], cursor: str | None = None) -> dict[str, Any]:
    """A page with one item."""
    return {"items": [item], "next_cursor": cursor}


SNAPSHOTS = page(SNAPSHOT)
METHODS_EXAMPLE, PRIORS = page(METHOD), page(PRIOR)

_PROBLEMS: dict[int, tuple[type[problems.Problem], str, list[dict[str, str]] | None]] = {
    400: (problems.BadRequest, "Content-Length says 7864320 bytes, 5000 came", None),
    401: (problems.Unauthenticated, "send an API key as `Authorization: Bearer udig_...`", None),
    403: (problems.Forbidden, "this key lacks the scope write", None),
    404: (problems.NotFound, f"there is no job {JOB_ID}; GET /v1/jobs lists those there are", None),
    406: (
        problems.NotAcceptable,
        "a result cannot be made as text/html",
        [{"field": "Accept", "found": "text/html", "expected": "application/x-hdf5 | image/png"}],
    ),
    409: (problems.Conflict, "the job is running; its result is there when it has succeeded", None),
    410: (problems.Gone, "the result's files are kept no longer; post the job again", None),
    412: (
        problems.PreconditionFailed,
        'this is "5d41402a"',
        [{"field": "If-Match", "found": '"0cc175b9"', "expected": '"5d41402a"'}],
    ),
    413: (
        problems.TooLarge,
        "the body has more than 8589934592 bytes, the limit of this service (MAX_UPLOAD_BYTES)",
        [{"field": "body", "found": "9000000000 bytes", "expected": "at most 8589934592 bytes"}],
    ),
    415: (
        problems.UnknownMedia,
        "the file is of no known format",
        [{"field": "file", "found": "text", "expected": "HDF5 | npy | npz"}],
    ),
    416: (
        problems.RangeOutside,
        "the file has 5000 bytes",
        [{"field": "Range", "found": "bytes=9000-", "expected": "a start below 5000"}],
    ),
    422: (
        problems.Invalid,
        "parameters.outer_iterations is 0, expected >= 1",
        [{"field": "parameters.outer_iterations", "found": "0", "expected": ">= 1"}],
    ),
    429: (problems.QuotaExceeded, "this key may have 20 jobs queued or running (max_open_jobs)", None),
    500: (problems.Damaged, f"reconstruction.h5 of job {JOB_ID} is damaged on the disk and is not sent", None),
    503: (problems.Unavailable, "the database does not answer; the same request may be sent again", None),
    507: (problems.DiskFull, "less than the reserve of 1073741824 bytes would stay free (DISK_RESERVE_BYTES)", None),
}
_HEADERS: dict[int, tuple[str, ...]] = {
    201: ("Location",),
    202: ("Location", "Retry-After"),
    304: ("ETag",),
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}


OF_ACCESS = (401, 403, 429)
"""What every operation that needs a key may answer."""


def responses(good: dict[int, Any], *others: int, open_to_all: bool = False) -> dict[int | str, dict[str, Any]]:
    """`responses` of an operation: examples and schemas of successful answers, and of the problems by their status."""
    others = others if open_to_all else (*others, *OF_ACCESS)
    documented: dict[int | str, dict[str, Any]] = {}
    for status, example in good.items():
        contents = example if isinstance(example, list) else [example]
        contents = [each if isinstance(each, Content) else Content("application/json", each) for each in contents]
        shown = {
            each.media_type: {"example": each.example} | ({"schema": each.schema} if each.schema else {})
            for each in contents
        }
        documented[status] = {**_described(status), "content": shown}
    # Whatever has an entity tag heeds If-Match too; whatever takes input is refused when there is too much of it.
    for status in sorted({*others, *([412] if 304 in others else []), *([429, 503] if {304, 422} & {*others} else [])}):
        documented[status] = _described(status)
        if status in _PROBLEMS:
            shape = {"schema": {"$ref": "#/components/schemas/ProblemOut"}, "example": _problem(status)}
            documented[status]["content"] = {problems.MEDIA_TYPE: shape}
    return documented


def _described(status: int) -> dict[str, Any]:
    headers = {name: {"schema": {"type": "string"}} for name in _HEADERS.get(status, ())}
    return {"description": HTTPStatus(status).phrase} | ({"headers": headers} if headers else {})


def _problem(status: int) -> dict[str, Any]:
    kind, detail, errors = _PROBLEMS[status]
    document = {
        "type": kind.uri(),
        "title": kind.title,
        "status": status,
        "detail": detail,
        "instance": f"/v1/jobs/{JOB_ID}",
    }
    return document | ({"errors": errors} if errors else {})
