"""Words for what an archive answers: why it refuses an object, by DICOM's numbers."""

from collections.abc import Sequence

_REASONS = {
    0x0110: "processing failure",
    0x0117: "invalid object instance",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0xC122: "transfer syntax not supported",
}
MOST_REASONS = 10  # that an error names
_GROUPS = {0xA700: "out of resources", 0xA900: "data set does not match SOP class"}


class NotStored(Exception):
    """The archive did not store all objects; the message says why, without addresses, secrets and patient data."""


def describe_reason(code: int) -> str:
    """A failure reason or status (DICOM PS3.4 B.2.3, PS3.3 C.14.1.1) in words, with its number."""
    words = _REASONS.get(code) or _GROUPS.get(code & 0xFF00) or ("cannot understand" if code >> 12 == 0xC else "")
    return f"{code:04X}H {words}".strip()


def refused(codes: Sequence[int], count: int) -> NotStored:
    """Some of `count` objects were refused, with these reasons."""
    told = list(dict.fromkeys(map(describe_reason, codes)))
    reasons = ", ".join(told[:MOST_REASONS]) + (", and others" if len(told) > MOST_REASONS else "")
    return NotStored(f"refused {len(codes)} of {count} objects: {reasons}")
