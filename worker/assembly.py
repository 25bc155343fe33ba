"""The slices of a job put together: the result file, and the formats that were asked for."""

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from core.results import OutputFormat, SliceResult, convert, write_hdf5
from worker import leases, tracing
from worker.leases import Claim
from worker.place import Place
from worker.storage import OWNER_ONLY

UNNOTED = {"software": "unknown"}  # slices of a version that did not note what it was


@tracing.span("assemble")
def assemble(place: Place, claim: Claim) -> tuple[str, dict[str, str]]:
    """Write the files of a job whose slices are all done; their folder, relative to DATA, and what made the slices.

    A worker that died over it leaves a folder that no row names; this one has a name of its own.
    """
    with place.sessions() as session:
        finished = leases.slice_results(session, claim.job_id)
    folder = place.storage.results(claim.job_id, claim.attempt)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=OWNER_ONLY)
    whole = folder / f"reconstruction{OutputFormat.H5.suffix}"
    paths = [place.storage.path(finished[number]) for number in claim.slices]
    versions = merged([SliceResult.versions_of(path) for path in paths])
    slices = map(SliceResult.load, paths)
    try:
        write_hdf5(whole, slices, attributes(claim, versions))
        for output in map(OutputFormat, claim.outputs):
            if output is not OutputFormat.H5:
                convert(whole, folder / f"reconstruction{output.suffix}", output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return place.storage.relative(folder), versions


def merged(each: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What made several slices: where workers of different versions or devices did, all of them, divided by commas."""
    known = [versions or UNNOTED for versions in each]
    names = dict.fromkeys(name for versions in known for name in versions)
    return {name: ", ".join(dict.fromkeys(v[name] for v in known if name in v)) for name in names}


def attributes(claim: Claim, versions: dict[str, str]) -> dict[str, Any]:
    """What a result file says of itself."""
    return {
        "job_id": str(claim.job_id),
        "parameters": claim.parameters,
        "seed": claim.seed,
        "seeds": claim.seeds,
        "slices": list(claim.slices),
        "scan_sha256": claim.scan_sha256,
        "modality": claim.scan_header["modality"],
        "pixel_spacing_mm": claim.scan_header["pixel_spacing_mm"],
        **versions,
    }
