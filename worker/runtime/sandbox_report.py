"""What of the sandbox that reads scans this machine gives, told when a process starts."""

import logging

from udig_recon.core.formats import Prober
from udig_recon.core.formats.sandbox.isolation import PARTS, MissingParts
from udig_recon.core.formats.sandbox.pool import ReaderLost

log = logging.getLogger(__name__)


def check(prober: Prober, *, required: bool) -> None:
    """Tell what is lacking; the process ends with one line where all is required (REQUIRE_SANDBOX)."""
    try:
        lacking = prober.missing_parts()
    except ReaderLost:
        lacking = dict.fromkeys(PARTS, "the process that reads scans does not start")
    if required and lacking:
        raise SystemExit(f"error: REQUIRE_SANDBOX: the sandbox that reads scans {told(lacking)}")
    if lacking:
        log.warning("sandbox.incomplete", extra={"parts": lacking})


def told(lacking: MissingParts) -> str:
    """What is lacking, in words; empty where nothing is."""
    parts = (f"{part}, which keeps {PARTS.get(part, 'it safe')} ({why})" for part, why in lacking.items())
    return f"lacks {'; '.join(parts)}" if lacking else ""
