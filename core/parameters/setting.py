"""A method with some of its parameters as a command line names it: `[LABEL=]METHOD[:PARAMETER=VALUE,...]`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.parameters import METHODS, Parameters, parse
from udig_recon.core.parameters.text import describe_error, parse_pairs


@dataclass(frozen=True)
class Setting:
    """A method with some of its parameters, under a label of its own."""

    label: str
    parameters: Mapping[str, Any]  # with the name of the method as `method`

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """From `[LABEL=]METHOD[:PARAMETER=VALUE,...]`; the default label is the method's name and the parameters given.

        Raises ReconstructionError when there is no such method or a parameter is unknown or out of bounds.
        """
        head, _, given = text.partition(":")
        label, _, name = head.rpartition("=")
        pairs = given.split(",") if given else []
        if name not in METHODS:
            raise ReconstructionError(f"{text}: no method {name!r}; there are: {', '.join(METHODS)}")
        setting = cls(label or " ".join([name, *pairs]), {"method": name, **parse_pairs(pairs, text)})
        setting.method()
        return setting

    @property
    def modalities(self) -> Sequence[Modality]:
        """The modalities that the method reconstructs."""
        return METHODS[self.parameters["method"]].modalities

    def method(self) -> Parameters:
        """The method's parameters, those that are not given unset. Raises ReconstructionError."""
        try:
            return parse(dict(self.parameters))
        except ValidationError as error:
            raise ReconstructionError(f"{self.label}: {describe_error(error)}") from error


def parse_settings(texts: Sequence[str]) -> list[Setting]:
    """A setting for each text. Raises ReconstructionError as `Setting.parse` does, and where two labels are equal."""
    settings = [Setting.parse(text) for text in texts]
    labels = [setting.label for setting in settings]
    for label in labels:
        if labels.count(label) > 1:
            raise ReconstructionError(f"two methods are called {label!r}; call one otherwise: LABEL=METHOD")
    return settings
