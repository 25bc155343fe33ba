"""Cursor pagination: `limit` and `cursor` of a request, one page of rows, and the Link header (RFC 8288)."""

import base64
import binascii
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, Select

from udig_recon.api.http.conditional import json_with_etag
from udig_recon.api.http.problems import Invalid

Item = TypeVar("Item")
Row = TypeVar("Row")
Query_ = TypeVar("Query_", bound=Select[Any])


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(None, description="give it as `cursor` for the next page; null on the last")


class PageRequest(NamedTuple):
    """Which page of a list is asked for."""

    limit: int
    after: uuid.UUID | None  # id of the last row of the page before; None: the first page

    def newest_first(self, query: Query_, id_column: ColumnElement[uuid.UUID]) -> Query_:
        """The query with one row more than the page holds, newest first. Ids grow with time (UUIDv7)."""
        query = query.order_by(id_column.desc()).limit(self.limit + 1)
        return query if self.after is None else query.where(id_column < self.after)

    def split(self, rows: Sequence[Row]) -> tuple[Sequence[Row], str | None]:
        """The rows of this page, and the cursor of the next one where there are more rows; they have an `id`."""
        if len(rows) <= self.limit:
            return rows, None
        last: Any = rows[self.limit - 1]
        return rows[: self.limit], encode_cursor(last.id)


def _page_request(
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
) -> PageRequest:
    return PageRequest(limit, None if cursor is None else decode_cursor(cursor))


PageDep = Annotated[PageRequest, Depends(_page_request)]


def encode_cursor(row_id: uuid.UUID) -> str:
    """An opaque cursor that names a row."""
    return base64.urlsafe_b64encode(row_id.bytes).decode().rstrip("=")


def decode_cursor(cursor: str) -> uuid.UUID:
    """The id of the row that a cursor names. Raises Invalid."""
    try:
        return uuid.UUID(bytes=base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error) as error:
        raise Invalid.at(
            "cursor", "no list has this cursor", found=cursor, expected="next_cursor of the page before"
        ) from error


def page_response(request: Request, page: Page[Any], name: str = "cursor") -> Response:
    """A page with its entity tag and a Link header to the next one, whose query parameter is `name`."""
    headers = {}
    if page.next_cursor is not None:
        url = request.url.include_query_params(**{name: page.next_cursor})
        headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return json_with_etag(request, page, headers)
