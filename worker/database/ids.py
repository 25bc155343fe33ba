"""Ids of rows: UUID version 7 (RFC 9562), which sort by the time at which they were made."""

import uuid

import uuid6


def new_id() -> uuid.UUID:
    """A UUIDv7, later than every one that this process made before."""
    return uuid.UUID(int=uuid6.uuid7().int)
