"""What the parameters of all methods have in common."""

from typing import Annotated, ClassVar, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from udig_recon.core.acquisition import Modality

BOTH = (Modality.MRI, Modality.CT)

FitMaps = Annotated[
    bool,
    Field(description="fit coil maps together with the image where measurements left out say that it helps (MRI)"),
]


MinProgress = Annotated[
    float, Field(ge=0, le=1, description="share of the run before which no iterate is taken and none is waited for")
]

Discrepancy = Annotated[
    float,
    Field(
        ge=0,
        le=100,
        description="the run ends once |A x - y| is at most so many times what its noise explains; 0: whatever it is",
    ),
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


class HoldoutParameters(Parameters):
    """Base of the methods that leave out measurements, to judge by them what the others made."""

    holdout_share: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the measurements outside the calibration centre that is left out to judge images by; "
        "none: 0.3, or nothing where there is nothing to spare; 0: nothing",
    )
    holdout: Literal["samples", "lines"] = Field(
        "samples", description="what is left out: samples of every line or view, or whole lines or views"
    )


class EarlyStoppingParameters(HoldoutParameters):
    """Base of the methods whose iterates are judged as they come: the best one is taken, and the run ends after it."""

    min_progress: MinProgress = 0.0
    patience: float = Field(
        0.25, gt=0, le=1, description="share of the run without a clearly better iterate that ends it; 1: it does not"
    )
    discrepancy: Discrepancy = 0.0
    refit: bool = Field(
        True, description="run again, on all measurements, up to the iterate that was best; else that one is taken"
    )


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
