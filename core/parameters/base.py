"""What the parameters of all methods have in common."""

from typing import Annotated, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from core.acquisition import Modality

BOTH = (Modality.MRI, Modality.CT)

FitMaps = Annotated[
    bool,
    Field(description="fit coil maps together with the image where measurements left out say that it helps (MRI)"),
]


class Parameters(BaseModel):
    """Base of the methods' parameters: frozen, and an unknown knob is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: str

    modalities: ClassVar[tuple[Modality, ...]] = BOTH
    needs_prior: ClassVar[bool] = False

    @property
    def fits_maps(self) -> bool:
        """Whether coil maps are fitted together with the image."""
        return bool(getattr(self, "fit_maps", False))

    @property
    def judged(self) -> bool:
        """Whether measurements left out judge the prior against total variation."""
        return False

    @property
    def is_random(self) -> bool:
        """Whether another seed gives another image."""
        return True

    @property
    def needs(self) -> str | None:
        """Which array beside the measurements the scan must hold, `reference` or `guide`; None: neither."""
        return None


class Levels(Protocol):
    """What walks down noise levels."""

    @property
    def noise_level(self) -> float:
        """The first level."""
        ...

    @property
    def final_noise_level(self) -> float:
        """The last level."""
        ...


Walk = TypeVar("Walk", bound=Levels)


def check_levels(p: Walk) -> Walk:
    """Raise ValueError when noise levels rise."""
    if p.final_noise_level > p.noise_level:
        raise ValueError(
            f"final_noise_level {p.final_noise_level} is above noise_level {p.noise_level}; levels must fall"
        )
    return p
