"""Base of the methods' parameters, and field types that several families share."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.preprocessing.options import COIL_ENERGY, FEW_COILS, Preprocessing

BOTH = (Modality.MRI, Modality.CT)

FitMaps = Annotated[
    bool,
    Field(description="fit coil maps together with the image where held-out measurements show that it helps (MRI)"),
]


def _rotation_center(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """One error for a value that is none of the kinds, in place of one for each kind."""
    try:
        return validate(str(value) if isinstance(value, bool) else value)
    except ValidationError as error:
        raise ValueError("file | auto | a detector index from 0") from error


class Parameters(BaseModel):
    """Base of the methods' parameters: frozen; an unknown parameter is an error.

    A method is a subclass with its name as the `method` literal, and the function that `implementation` names. The
    HTTP schema, the stored job, the command line and the tables of docs/methods.md are made of its fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    implementation: ClassVar[str]
    """`package.module:function`, imported when the method runs, since the API validates parameters without PyTorch.

    The function takes `core.inputs.Inputs`, the parameters, a generator and a state to resume from (None:
    from the beginning), and returns `core.iterates.Iterates`."""
    modalities: ClassVar[tuple[Modality, ...]] = BOTH
    needs_prior: ClassVar[bool] = False
    is_direct: ClassVar[bool] = False
    """Whether the image is linear in the measurements, so that it needs no intensity scale and no initial estimate."""

    method: str
    coil_energy: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the signal's energy that compressed coils keep; 1: coils are not compressed; "
        f"none: {COIL_ENERGY:g} of more than {FEW_COILS} coils, else 1 (MRI)",
    )
    rotation_center: Annotated[
        Literal["file", "auto"] | Annotated[float, Field(ge=0)], WrapValidator(_rotation_center)
    ] = Field(
        "file",
        description="detector index that the axis of rotation falls on; file: as the file says, or the middle; "
        "auto: as the sinogram shows (CT)",
    )
    ring_correction: bool = Field(
        False, description="correct detector elements that measure too much or too little, which leave rings (CT)"
    )

    def complete(self, modality: Modality) -> Self:  # noqa: ARG002
        """Fill in parameters that depend on the modality. Raises UnsupportedScan for one that does not fit it."""
        return self

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to the measurements before the method runs, for `core.problem.slice_problem`."""
        return Preprocessing(
            coil_energy=self.coil_energy,
            rotation_center=self.rotation_center,
            ring_correction=self.ring_correction,
        )

    @property
    def fits_maps(self) -> bool:
        """Whether coil maps are fitted together with the image."""
        return bool(getattr(self, "fit_maps", False))

    @property
    def checks_prior(self) -> bool:
        """Whether held-out measurements compare the prior's image with total variation's."""
        return False

    @property
    def accepts_warm_start(self) -> bool:
        """Whether a slice can start from the results of a reference slice in its volume."""
        return False

    @property
    def is_random(self) -> bool:
        """Whether another seed gives another image."""
        return True

    @property
    def needs(self) -> str | None:
        """Array that the scan must hold beside the measurements, `reference` or `guide`; None: neither."""
        return None

    @property
    def needs_cure(self) -> str:
        """How to run the method without that array, as the end of a sentence; empty: it cannot."""
        return ""

    def evaluations(self) -> Mapping[str, Any] | None:
        """Counts of what one run to its end evaluates, by the fields of `core.cost.evaluations.Evaluations`.

        The estimate of time and memory is made of them. None: `core.cost.evaluations` counts, for a method that it
        does not know one A^H A and, with a prior, one prior evaluation in each of its `iterations` or `steps`.
        """
        return None


def check_preprocessing(method: Parameters, modality: Modality) -> None:
    """Raise UnsupportedScan for a shared parameter that the other modality alone has."""
    given = {
        "coil_energy": (Modality.MRI, method.coil_energy is not None),
        "rotation_center": (Modality.CT, method.rotation_center != "file"),
        "ring_correction": (Modality.CT, method.ring_correction),
    }
    for name, (fitting, is_given) in given.items():
        if is_given and modality is not fitting:
            raise UnsupportedScan(
                f"{name} is for {fitting.upper()} scans; leave it out for {modality.upper()}",
                field=f"parameters.{name}",
                found=str(getattr(method, name)).lower(),
                expected=f"a {fitting.upper()} scan, or no {name}",
            )


class NoiseLevels(Protocol):
    """Parameters of a method that walks down noise levels."""

    @property
    def noise_level(self) -> float:
        """The first level."""
        ...

    @property
    def final_noise_level(self) -> float:
        """The last level."""
        ...


Walk = TypeVar("Walk", bound=NoiseLevels)


def check_levels(p: Walk) -> Walk:
    """Raise ValueError when noise levels rise."""
    if p.final_noise_level > p.noise_level:
        raise ValueError(
            f"final_noise_level {p.final_noise_level} is above noise_level {p.noise_level}; levels must fall"
        )
    return p
