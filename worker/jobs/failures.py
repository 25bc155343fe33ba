"""Problem documents (RFC 9457) that jobs fail with."""

from typing import Any

from udig_recon.core.errors import ReconstructionError

Problem = dict[str, Any]
KINDS = ("invalid", "out-of-memory", "disk-full", "worker-lost", "time-limit", "scan-missing", "damaged", "problem")


def problem(kind: str, title: str, status: int, detail: str, **more: Any) -> Problem:
    """A problem document."""
    return {"type": f"urn:udig-recon:problem:{kind}", "title": title, "status": status, "detail": detail, **more}


def unusable(error: ReconstructionError) -> Problem:
    """Problem of a job whose scan, prior or parameters the engine refuses."""
    fields = [{"field": error.field, "found": error.found, "expected": error.expected}] if error.field else []
    return problem("invalid", "Unprocessable Content", 422, str(error), errors=fields)


def out_of_memory(slice_: int, device: str, wanted: str) -> Problem:
    """Problem of a job of which a slice did not fit into memory, twice."""
    detail = f"slice {slice_} does not fit into the memory of {device}, tried twice: {wanted}"
    return problem("out-of-memory", "Out of memory", 507, detail)


def disk_full(slice_: int) -> Problem:
    """Problem of a job of which a checkpoint or result could not be written."""
    detail = f"the disk was full when slice {slice_} was to be written; free some space and retry the job"
    return problem("disk-full", "Insufficient Storage", 507, detail)


def worker_lost(slice_: int, crashes: int) -> Problem:
    """Problem of a job of which a slice lost too many workers."""
    detail = (
        f"slice {slice_} lost its worker {crashes} times: it was killed, ran out of memory or hung; "
        "retry the job when the cause is mended"
    )
    return problem("worker-lost", "Worker lost", 500, detail)


def time_limit(most: float) -> Problem:
    """Problem of a job that has used up its max_seconds."""
    detail = (
        f"the job has computed for its max_seconds, {most:g}; finished slices and checkpoints are kept: "
        "retry it with more to go on from them"
    )
    errors = [{"field": "max_seconds", "found": f"{most:g}", "expected": "more"}]
    return problem("time-limit", "Time limit reached", 422, detail, errors=errors)


def scan_missing(slice_: int, seconds: float) -> Problem:
    """Problem of a job whose scan file was not found for long."""
    detail = (
        f"the file of the scan was not found for {seconds:g} s when slice {slice_} was to begin; is DATA the service's "
        "folder on that worker? Post the scan again, or mend that, and retry the job"
    )
    return problem("scan-missing", "Scan file missing", 500, detail)


def damaged_file(what: str, cure: str) -> Problem:
    """Problem of a job with a stored file whose bytes are not those that were written."""
    return problem("damaged", "Stored file damaged", 500, f"{what} is damaged on the disk; {cure}")


def internal(slice_: int, error: Exception) -> Problem:
    """Problem of a job that met an unforeseen error; the worker's log has its traceback."""
    detail = f"slice {slice_} met an error of the service's own ({type(error).__name__}); its log says more"
    return problem("problem", "Internal Server Error", 500, detail)
