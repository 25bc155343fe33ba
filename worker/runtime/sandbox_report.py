"""Report at start of which parts of the sandbox that reads scans this machine does not give."""

import logging

from udig_recon.core.extensions import BrokenExtension
from udig_recon.core.formats import Prober
from udig_recon.core.formats.sandbox.isolation import PARTS, MissingParts
from udig_recon.core.formats.sandbox.pool import ReaderLost

log = logging.getLogger(__name__)


def check(prober: Prober, *, required: bool) -> None:
    """Log the missing parts; end the process with one line where all parts are required (REQUIRE_SANDBOX).

    The process also ends with one line where an input format of another distribution cannot be loaded.
    """
    try:
        missing = prober.missing_parts()
    except BrokenExtension as error:
        raise SystemExit(f"error: {error}") from None
    except ReaderLost:
        missing = dict.fromkeys(PARTS, "the process that reads scans does not start")
    if required and missing:
        raise SystemExit(f"error: REQUIRE_SANDBOX: the sandbox that reads scans {describe(missing)}")
    if missing:
        log.warning("sandbox.incomplete", extra={"parts": missing})


def describe(missing: MissingParts) -> str:
    """The missing parts in words; empty where there are none."""
    parts = (f"{part}, which keeps {PARTS.get(part, 'it safe')} ({why})" for part, why in missing.items())
    return f"lacks {'; '.join(parts)}" if missing else ""
