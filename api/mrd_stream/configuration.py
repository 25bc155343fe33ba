"""What a client asks for: a preset by name (message 1), or options of a job as JSON (message 2), or both."""

import json
from typing import Any

from udig_recon.api.http.json_body import parse_json
from udig_recon.api.jobs.schemas import JobOptions
from udig_recon.api.mrd_stream.messages import ProtocolError
from udig_recon.core.parameters import METHODS

_EXPECTED = "METHOD/PRESET or METHOD, as udig_dip/standard"


class Configuration:
    """The configuration of one connection, as far as it has come."""

    def __init__(self) -> None:
        self.given = False
        self._named: dict[str, Any] = {}
        self._options: dict[str, Any] = {}

    def add_name(self, name: str) -> None:
        """A configuration by name: `method/preset`; an empty one leaves all to the text. Raises ProtocolError."""
        name = name.strip()
        self.given = True
        if not name:
            return
        method, _, preset = name.partition("/")
        if method not in METHODS:
            raise ProtocolError(
                f"the configuration {name[:120]!r} is not known, expected {_EXPECTED}; methods: {', '.join(METHODS)}"
            )
        self._named = {"method": method, **({"preset": preset} if preset else {})}
        self.options()

    def add_text(self, text: bytes) -> None:
        """Options of a job as JSON: `parameters`, `slices`, `tags`, ... Raises ProtocolError and Invalid."""
        self.given = True
        if not text.strip():
            return
        try:
            options = json.loads(text)
        except (ValueError, RecursionError):
            raise ProtocolError("the configuration (message 2) is no JSON, expected an object") from None
        if not isinstance(options, dict) or not isinstance(options.get("parameters", {}), dict):
            raise ProtocolError(
                'the configuration (message 2) is no object, expected {"parameters": {"method": ...}, "slices": ...}'
            )
        self._options = options
        if self._named or "method" in options.get("parameters", {}):
            self.options()

    def options(self) -> JobOptions:
        """The options of the job. Raises ProtocolError where no method was named, and Invalid."""
        parameters = {**self._named, **self._options.get("parameters", {})}
        if "method" not in parameters:
            raise ProtocolError(
                f"no method was named, expected a name (message 1) {_EXPECTED}, or a text (message 2) with "
                '{"parameters": {"method": "udig_dip"}}'
            )
        return parse_json(JobOptions, json.dumps({**self._options, "parameters": parameters}).encode())
