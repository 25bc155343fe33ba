"""Ids of rows, which sort by when they were made."""

import secrets
import time
import uuid


def new_id() -> uuid.UUID:
    """A time-ordered id: 48 bits of milliseconds, the rest random (RFC 9562, 5.7)."""
    number = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    return uuid.UUID(int=number & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)
