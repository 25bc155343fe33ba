"""Every knob of every method, written once: HTTP schema, stored job, function argument and README table alike."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from core.acquisition import Modality
from core.errors import UnsupportedScan

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


class ZeroFilled(Parameters):
    """Coil-combined inverse Fourier transform of the measured k-space, zeros elsewhere: A^H y."""

    modalities = (Modality.MRI,)
    method: Literal["zero_filled"] = "zero_filled"


class CGSense(Parameters):
    """Least squares by conjugate gradients on A^H A x = A^H y, stopped early (Pruessmann et al. 2001)."""

    modalities = (Modality.MRI,)
    method: Literal["cg_sense"] = "cg_sense"
    iterations: int = Field(12, ge=1, le=1000, description="conjugate gradient iterations")
    ridge: float = Field(0.0, ge=0, description="weight of |x|^2, with |A| = 1")


class FBP(Parameters):
    """Filtered back-projection."""

    modalities = (Modality.CT,)
    method: Literal["fbp"] = "fbp"
    filter: Literal["ramp", "hann"] = Field("ramp", description="window on the ramp filter")


class SIRT(Parameters):
    """Simultaneous iterative reconstruction, non-negative: x <- max(x + C A^T R (y - A x), 0)."""

    modalities = (Modality.CT,)
    method: Literal["sirt"] = "sirt"
    iterations: int = Field(200, ge=1, le=20000, description="iterations")


class TV(Parameters):
    """Total variation: min |A x - y|^2 / 2 + weight TV(x), non-negative in CT (Rudin, Osher, Fatemi 1992)."""

    method: Literal["tv"] = "tv"
    weight: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="weight of TV, with |A| = 1 and an object of about 1; none: by measurements held out",
    )
    fit_maps: FitMaps = True
    iterations: int = Field(100, ge=1, le=100_000, description="iterations with the final weight")


class L1Wavelet(Parameters):
    """Sparse wavelets with cycle spinning: min |A x - y|^2 / 2 + weight |W x|_1 (Lustig et al. 2007)."""

    modalities = (Modality.MRI,)
    method: Literal["l1_wavelet"] = "l1_wavelet"
    weight: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="weight of |W x|_1, with |A| = 1 and an object of about 1; none: by measurements held out",
    )
    fit_maps: FitMaps = True
    iterations: int = Field(150, ge=1, le=100_000, description="iterations with the final weight")
    vanishing_moments: int = Field(
        1, ge=1, le=8, description="of Daubechies' wavelet, half its filter's length; 1: Haar"
    )
    levels: int = Field(4, ge=1, le=8, description="levels of the decomposition")


class DIP(Parameters):
    """Deep image prior: a network with a fixed random input is fitted to the scan (Ulyanov et al. 2018)."""

    method: Literal["dip"] = "dip"
    iterations: int = Field(2000, ge=1, le=100_000, description="network updates")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's step size", json_schema_extra={"symbol": "beta"})
    input_channels: int = Field(16, ge=1, le=128, description="channels of the random input")
    averaging: float = Field(0.99, ge=0, lt=1, description="decay of the running mean of outputs; 0 gives the last")


class UDiGDIP(Parameters):
    """Sequential diffusion-guided deep image prior, Algorithm 1 of Liang et al. (ICASSP 2025)."""

    needs_prior = True
    method: Literal["udig_dip"] = "udig_dip"
    preset: Literal["paper", "standard", "preview"] = Field(
        "standard", description="where knobs that are not given take their values from"
    )
    prior: str | None = Field(None, description="name of the diffusion prior; none: the modality's bundled one")
    start: Literal["adjoint", "cg_sense", "fbp", "sirt", "tv"] = Field(
        "tv", description="first network input", json_schema_extra={"symbol": "z_0"}
    )
    outer_iterations: int = Field(
        100, ge=1, le=100_000, description="outer iterations", json_schema_extra={"symbol": "K"}
    )
    inner_iterations: int = Field(
        0,
        ge=0,
        le=1000,
        description="network updates per outer iteration; 0: purification alone",
        json_schema_extra={"symbol": "N"},
    )
    autoencoding_weight: float = Field(
        0.1, ge=0, description="weight of |f(z) - z|^2, with |A| = 1", json_schema_extra={"symbol": "lambda"}
    )
    learning_rate: float = Field(1e-4, gt=0, le=1, description="Adam's step size", json_schema_extra={"symbol": "beta"})
    network: Literal["unet", "residual"] = Field(
        "residual",
        description="f: the paper's U-Net, or z + g(z) with a small U-Net g that starts at zero",
        json_schema_extra={"symbol": "f_theta"},
    )
    noise_level: float = Field(
        0.08,
        gt=0,
        le=10,
        description="first noise level of purification, in units of the normalised image",
        json_schema_extra={"symbol": "sigma(M)"},
    )
    final_noise_level: float = Field(
        0.005, gt=0, le=10, description="last noise level; levels fall geometrically over the outer iterations"
    )
    noise_scale: float = Field(
        0.0, ge=0, le=1, description="share of the noise that purification really adds; 1 is diffuse-denoise"
    )
    last_noisy_level: float = Field(
        0.0,
        ge=0,
        le=10,
        description="noise level below which purification adds no noise, whatever its scale; 0: always",
    )
    samples: int = Field(
        1, ge=1, le=64, description="network inputs led side by side, each with its own noise; the image is their mean"
    )
    prior_calls: int = Field(
        1, ge=1, le=1000, description="prior evaluations per purification", json_schema_extra={"symbol": "S"}
    )
    sampler: Literal["ddim", "ancestral"] = Field(
        "ddim", description="walk of several prior evaluations: deterministic, or with fresh noise after each (eq. 3)"
    )
    purification_period: int = Field(
        1, ge=1, description="outer iterations from one purification to the next", json_schema_extra={"symbol": "P"}
    )
    consistency_iterations: int = Field(
        8, ge=0, le=100, description="conjugate gradient iterations that pull the purified input to the data; 0: none"
    )
    consistency_weight: float = Field(
        0.1,
        ge=0,
        description="weight of the purified input against the data, times the data's noise variance / sigma^2",
    )
    symmetries: bool = Field(True, description="purify on a random rotation, flip and (MRI) global phase")
    fit_maps: FitMaps = True
    output: Literal["last", "mean", "consistent"] = Field(
        "last", description="what is shown: the last f(z), the running mean of them, or the last pulled to the data"
    )
    averaging: float = Field(0.9, ge=0, lt=1, description="decay of the running mean, where that is the output")
    held_out_share: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="share of lines, points or views that a trial leaves out, to judge the prior against total "
        "variation by them, before all data are used; 0: the prior is trusted",
    )

    @model_validator(mode="after")
    def _levels_fall(self) -> "UDiGDIP":
        if self.final_noise_level > self.noise_level:
            raise ValueError(
                f"final_noise_level {self.final_noise_level} is above noise_level {self.noise_level}; levels must fall"
            )
        return self


Method = Annotated[UDiGDIP | DIP | TV | L1Wavelet | CGSense | ZeroFilled | SIRT | FBP, Field(discriminator="method")]
METHODS: dict[str, type[Parameters]] = {
    "udig_dip": UDiGDIP,
    "dip": DIP,
    "tv": TV,
    "l1_wavelet": L1Wavelet,
    "cg_sense": CGSense,
    "zero_filled": ZeroFilled,
    "sirt": SIRT,
    "fbp": FBP,
}
_METHOD: TypeAdapter[Parameters] = TypeAdapter(Method)

# Table 1 of the paper, literally: M = 150 steps of the linear VP schedule are the noise level 0.518 (hours per slice).
PAPER: dict[str, Any] = {
    "start": "adjoint",
    "outer_iterations": 2000,
    "inner_iterations": 2,
    "autoencoding_weight": 1.0,
    "learning_rate": 1e-4,
    "network": "unet",
    "noise_level": 0.518,
    "final_noise_level": 0.518,
    "noise_scale": 1.0,
    "last_noisy_level": 0.0,
    "prior_calls": 150,
    "sampler": "ancestral",
    "consistency_iterations": 0,
    "symmetries": False,
    "fit_maps": False,
    "held_out_share": 0.0,
}

# Views leave out what no sample can know: there the mean of several samples, noise and all, errs least.
CT: dict[str, Any] = {
    "noise_level": 0.1,
    "final_noise_level": 0.01,
    "noise_scale": 1.0,
    "last_noisy_level": 0.0,
    "samples": 4,
    "outer_iterations": 50,
}
# No trial and no total variation, so the start is far off, and noise helps to leave it.
PREVIEW: dict[str, Any] = {"start": "cg_sense", "outer_iterations": 30, "fit_maps": False, "held_out_share": 0.0}
PREVIEW_MRI: dict[str, Any] = {**PREVIEW, "noise_level": 0.5, "noise_scale": 0.6, "last_noisy_level": 0.1}
PREVIEW_CT: dict[str, Any] = {**CT, **PREVIEW, "start": "sirt", "noise_level": 0.2, "samples": 2}

# What a preset sets for a modality, beside the defaults above.
PRESETS: dict[tuple[str, Modality], dict[str, Any]] = {
    ("paper", Modality.MRI): PAPER,
    ("paper", Modality.CT): PAPER,
    ("standard", Modality.MRI): {},
    ("standard", Modality.CT): CT,
    ("preview", Modality.MRI): PREVIEW_MRI,
    ("preview", Modality.CT): PREVIEW_CT,
}
CT_STARTS = ("fbp", "sirt")


def parse(raw: dict[str, Any]) -> Parameters:
    """Parameters from their JSON form. Raises pydantic.ValidationError where a knob is unknown or out of bounds."""
    return _METHOD.validate_python(raw)


def complete(method: Parameters, modality: Modality) -> Parameters:
    """Fill the knobs that were not given from the preset for this modality.

    Raises UnsupportedScan when the method does not apply to the modality.
    """
    if modality not in method.modalities:
        name = method.method
        fitting = [key for key, cls in METHODS.items() if modality in cls.modalities]
        raise UnsupportedScan(
            f"method {name} does not reconstruct {modality}; these do: {', '.join(fitting)}",
            field="parameters.method",
            found=name,
            expected=" | ".join(fitting),
        )
    if not isinstance(method, UDiGDIP):
        return method
    filled = UDiGDIP(**{**PRESETS[method.preset, modality], **method.model_dump(exclude_unset=True)})
    if modality is Modality.MRI and filled.start in CT_STARTS:
        raise UnsupportedScan(
            f"start {filled.start} needs a CT scan; an MRI scan starts from cg_sense, tv or adjoint",
            field="parameters.start",
            found=filled.start,
            expected="cg_sense | tv | adjoint",
        )
    return filled
