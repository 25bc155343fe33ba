"""A body in the OpenAPI document: media type, example and schema."""

from typing import Any, NamedTuple


class Content(NamedTuple):
    """An example of a body, with its schema where the operation's own model does not say it."""

    media_type: str
    example: Any
    schema: dict[str, Any] | None = None

    @classmethod
    def binary(cls, media_type: str, example: str) -> "Content":
        """A file."""
        return cls(media_type, example, {"type": "string", "format": "binary"})

    @classmethod
    def text(cls, media_type: str, example: str) -> "Content":
        """Text."""
        return cls(media_type, example, {"type": "string"})

    @classmethod
    def model(cls, name: str, example: Any) -> "Content":
        """JSON of a model that the document holds."""
        return cls("application/json", example, {"$ref": f"#/components/schemas/{name}"})
