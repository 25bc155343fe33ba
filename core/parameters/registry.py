"""Registry of methods: the built-in ones, and those of other distributions by entry points `udig_recon.methods`."""

from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from typing import Annotated, Any, Literal, Union, get_origin

from pydantic import Field, TypeAdapter

from udig_recon.core.extensions import load_usable_extensions
from udig_recon.core.parameters import classical, diffusion, networks, udig_dip
from udig_recon.core.parameters.base import Parameters

ENTRY_POINTS = "udig_recon.methods"
"""Group of entry points: name of the method = `package.module:Class`, a subclass of Parameters."""

BUILT_IN: tuple[type[Parameters], ...] = (
    udig_dip.UDiGDIP,
    diffusion.DDS,
    diffusion.DiffPIR,
    diffusion.DAPS,
    diffusion.DPS,
    diffusion.REDDiff,
    diffusion.DCDP,
    diffusion.ScoreMRI,
    diffusion.MCG,
    networks.DIP,
    networks.ESDIP,
    networks.TVDIP,
    networks.ASeqDIP,
    networks.SelfGuidedDIP,
    networks.RefGuidedDIP,
    networks.OES,
    networks.DIPProbe,
    classical.TV,
    classical.L1Wavelet,
    classical.CGSense,
    classical.ZeroFilled,
    classical.SIRT,
    classical.FBP,
)
"""In the order of the documents. A new method is a line here, in addition to its file."""


class Registry(Mapping[str, type[Parameters]]):
    """Parameter classes by method name. Entry points are loaded at the first use: their modules import this one."""

    @cached_property
    def _classes(self) -> dict[str, type[Parameters]]:
        classes = {cls.model_fields["method"].default: cls for cls in BUILT_IN}
        return classes | load_usable_extensions(ENTRY_POINTS, lambda name, found: _refusal(name, found, classes))

    def __getitem__(self, name: str) -> type[Parameters]:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


def _refusal(name: str, found: object, built_in: Mapping[str, type[Parameters]]) -> str | None:
    """The reason why an object cannot be a method of this name; None: it can."""
    if not (isinstance(found, type) and issubclass(found, Parameters)):
        return f"it is {found!r}, expected a subclass of udig_recon.core.parameters.Parameters"
    field = found.model_fields["method"]
    if get_origin(field.annotation) is not Literal or field.default != name:
        return f'its field method is {field.annotation} = {field.default!r}, expected Literal["{name}"] = "{name}"'
    if not isinstance(getattr(found, "implementation", None), str) or ":" not in found.implementation:
        return "its class attribute implementation is missing, expected 'package.module:function'"
    if required := [name for name, each in found.model_fields.items() if each.is_required()]:
        return f"its parameters {', '.join(required)} have no default"
    if not (found.__doc__ or "").strip():
        return "its class has no docstring, which describes the method to clients"
    if name in built_in:
        return f"a built-in method has the name {name}"
    return None


METHODS: Mapping[str, type[Parameters]] = Registry()


@cache
def method_type() -> Any:
    """Type of the parameters of any method, for pydantic: a union that their `method` discriminates."""
    return Annotated[Union[tuple(METHODS.values())], Field(discriminator="method")]  # noqa: UP007


@cache
def _adapter() -> TypeAdapter[Parameters]:
    return TypeAdapter(method_type())


def parse(raw: dict[str, Any]) -> Parameters:
    """Parameters from their JSON form. Raises pydantic.ValidationError where one is unknown or out of bounds."""
    return _adapter().validate_python(raw)
