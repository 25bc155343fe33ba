"""Bodies in the OpenAPI document: media type, schema and example."""

from typing import Any, NamedTuple, get_args

from pydantic import BaseModel

SCAN_ID = "0198c2f4-7a10-7c3e-9d5b-2f6a1e0b4c11"
JOB_ID = "0198c2f5-1b22-7f00-8a41-93c7d5e2a6f0"
UPLOAD_ID = "0198c2f3-5d72-7a10-9c3e-4b1f2a6d8e90"
COMPARISON_ID = "0198c2f6-3c41-7d22-b0a5-6e1f2a3b4c5d"
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
CREATED = "2026-02-03T09:12:41.120000Z"

COMPONENTS: dict[str, type[BaseModel]] = {}
"""Models that operations refer to and FastAPI does not know of: bodies of requests, and problems."""


class Content(NamedTuple):
    """A body of an answer with its example; the schema is that of the operation's response model where it is None."""

    media_type: str
    example: Any
    schema: dict[str, Any] | None = None
    item_schema: dict[str, Any] | None = None  # of each event in a stream

    @classmethod
    def binary(cls, media_type: str, example: str) -> "Content":
        """A file."""
        return cls(media_type, example, {"type": "string", "format": "binary"})

    @classmethod
    def text(cls, media_type: str, example: str) -> "Content":
        """Text."""
        return cls(media_type, example, {"type": "string"})

    @classmethod
    def json(cls, example: Any) -> "Content":
        """JSON of the response model, with an example other than the model's first."""
        return cls("application/json", example)


def component(model: type[BaseModel]) -> dict[str, str]:
    """A reference to the schema of a model, which `complete` adds to the document."""
    COMPONENTS[model.__name__] = model
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the schemas of all `COMPONENTS`."""
    schemas = document["components"]["schemas"]
    for model in COMPONENTS.values():
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
    return document


def example_of(model: type[BaseModel], index: int = 0) -> Any:
    """An example of a model, or a page with one item."""
    examples = model.model_config.get("json_schema_extra")
    if isinstance(examples, dict) and "examples" in examples:
        found: Any = examples["examples"]
        return found[index]
    (item,) = get_args(model.model_fields["items"].annotation)
    return {"items": [example_of(item, index)], "next_cursor": None}
