"""JSON request bodies: a dependency that reads, limits and validates a body, and its entry in the OpenAPI document.

FastAPI's own body parameters are not used: they read and parse a body before the caller is authenticated, and they
validate Python objects rather than JSON, where a strict model refuses every UUID and date.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError

from udig_recon.api.http.problems import TooLarge, UnknownMedia
from udig_recon.api.http.validation_errors import problem_of_validation
from udig_recon.api.openapi.content import component, example_of

Body = TypeVar("Body", bound=BaseModel)
JSON = "application/json"
MAX_BODY_BYTES = 1 << 20


def json_body(model: type[BaseModel], noun: str, *, required: bool = True) -> Any:
    """A dependency that gives the validated body of a request for `noun`; without a body the defaults, if allowed.

    Declare it after the caller, so that nobody without a key sends a body. Raises UnknownMedia, TooLarge and Invalid.
    """

    async def read(request: Request) -> BaseModel:
        if not required and not has_body(request):
            return model()
        check_content_type(request, noun, JSON)
        return parse_json(model, await read_limited(request, noun))

    return Depends(read)


def media_type_of(request: Request) -> str:
    """The media type of a body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_content_type(request: Request, noun: str, *accepted: str) -> None:
    """Raise UnknownMedia unless the body has one of the accepted media types."""
    media_type = media_type_of(request)
    if media_type not in accepted:
        raise UnknownMedia.at(
            "Content-Type",
            f"{noun} is sent as {' or '.join(accepted)}",
            found=media_type or "nothing",
            expected=" | ".join(accepted),
        )


async def read_limited(request: Request, noun: str) -> bytes:
    """The body, of at most `MAX_BODY_BYTES`. Raises TooLarge."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            expected = f"at most {MAX_BODY_BYTES} bytes"
            raise TooLarge.at("body", f"{noun} has at most {MAX_BODY_BYTES} bytes", found="more", expected=expected)
    return bytes(body)


def parse_json(model: type[Body], body: bytes) -> Body:
    """Validate JSON strictly. Raises Invalid with every wrong field."""
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise problem_of_validation(error) from error


def has_body(request: Request) -> bool:
    """Whether a body comes with a request that may have none."""
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def request_body(
    model: type[BaseModel], *, required: bool = True, others: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """`openapi_extra` of an operation whose body is this model in JSON, or one of the `others` by media type."""
    content = {JSON: {"schema": component(model), "example": example_of(model)}, **(others or {})}
    return {"requestBody": {"required": required, "content": content}}
