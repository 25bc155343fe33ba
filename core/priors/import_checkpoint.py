"""Import of published checkpoints: description and tensors of their network, without running their code."""

import pickle
import pkgutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from udig_recon.core.errors import UnreadableCheckpoint
from udig_recon.core.priors.architectures import (
    ARCHITECTURES,
    AUTO,
    LAYOUTS,
    ADMNetwork,
    NCSNppNetwork,
    NetworkDescription,
)
from udig_recon.core.priors.card import first_error
from udig_recon.core.priors.published import build_adm, build_ncsnpp

SHOWN = 3
"""Names shown of each kind of wrong tensor."""
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)
"""What torch.load raises for a file that is none of its own."""


class CheckpointImporter(NamedTuple):
    """How the checkpoints of one architecture are read; `NetworkDescription.importer` names one."""

    tensor: str
    """The name of a tensor that only such checkpoints have, or its first part."""
    describe: Callable[[Mapping[str, Any]], NetworkDescription]
    """The description of the network whose tensors have these names and shapes. Raises UnreadableCheckpoint."""
    build: Callable[[Any], nn.Module]
    """The network of such a description, its weights drawn at random."""


class Checkpoint(NamedTuple):
    """A network, its tensors by name in single precision, and whether they are the running mean of training."""

    network: NetworkDescription
    weights: dict[str, Tensor]
    averaged: bool


def read_checkpoint(path: Path, layout: str = AUTO) -> Checkpoint:
    """Read a file of torch.save: names and tensors, or `model`, `ema` and what training needs.

    Raises UnreadableCheckpoint when the file is broken, asks for code to be run, or has other tensors than its network.
    """
    content = _load(path)
    nested = content.get("model")
    state = _state_dict(nested if isinstance(nested, Mapping) else content)
    try:
        description = describe(state, layout)
        with torch.device("meta"):
            network = build_network(description)
    except ValidationError as error:
        raise _refusal(f"the checkpoint's network cannot be built: {first_error(error)}") from error
    except (RuntimeError, ValueError) as error:
        raise _refusal(f"the checkpoint's network cannot be built: {error}") from error
    _check_names(state, network)
    averaged = "ema" in content
    if averaged:
        state |= _running_mean(content["ema"], network)
    return Checkpoint(description, {name: _single(name, state[name]) for name in network.state_dict()}, averaged)


def build_network(description: NetworkDescription) -> nn.Module:
    """The network of a description, its weights drawn at random, its tensors named as in published checkpoints."""
    return _importer(type(description)).build(description)


def _importer(cls: type[NetworkDescription]) -> CheckpointImporter:
    if cls.importer is None:
        raise ValueError(f"checkpoints of {cls.__name__} cannot be imported")
    importer: CheckpointImporter = pkgutil.resolve_name(cls.importer)
    return importer


def _load(path: Path) -> Mapping[Any, Any]:
    with path.open("rb"):  # an absent file is the caller's OSError
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a broken file makes torch.load say, its error says too
            # Mapped files leave the optimiser's state, twice the network, on the disk.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UNREADABLE as error:
        raise _refusal(
            f"{path.name} is no checkpoint of tensors alone: it is broken, or would run code, which is never done",
            found=" ".join(str(error).split())[:200],
            expected="a whole file of torch.save with tensors, numbers, texts, lists and dicts",
        ) from error
    if not isinstance(content, Mapping):
        raise _refusal(
            f"{path.name} holds a {type(content).__name__}; expected a dict of tensors", found=type(content).__name__
        )
    return content


def _state_dict(content: Mapping[Any, Any]) -> dict[str, Any]:
    """The named entries, without the prefix that training on several devices adds to names."""
    names = [name for name in content if isinstance(name, str)]
    prefix = "module." if names and all(name.startswith("module.") for name in names) else ""
    return {name.removeprefix(prefix): content[name] for name in names}


def describe(state: Mapping[str, Any], layout: str = AUTO) -> NetworkDescription:
    """The network that tensors of these names and shapes belong to. Raises UnreadableCheckpoint."""
    importers = {name: _importer(ARCHITECTURES[name]) for name in LAYOUTS if name != AUTO}
    if layout != AUTO:
        if layout not in importers:
            raise _refusal(f"no layout {layout!r}", found=layout, expected=" | ".join((AUTO, *importers)))
        return importers[layout].describe(state)
    for importer in importers.values():
        if any(name.startswith(importer.tensor) for name in state):
            return importer.describe(state)
    names = ", ".join(sorted(state)[:SHOWN]) or "none"
    expected = " or ".join(f"{importer.tensor} ({name})" for name, importer in importers.items())
    raise _refusal(
        f"the checkpoint is of no known network: expected tensors like {expected}, found {names}",
        found=names,
        expected=" | ".join(importers),
    )


def describe_adm(state: Mapping[str, Any]) -> ADMNetwork:
    """Read an ADM's description off names and shapes.

    Each level but the finest ends on the way up with a second residual block.
    """
    channels_out, channels = _shape(state, "out.2.weight")[0], _shape(state, "input_blocks.0.0.weight")[1]
    width = _shape(state, "time_embed.0.weight")[1]
    outputs = _count(state, "output_blocks.{}.0.in_layers.2.weight")
    doubling = [
        stage
        for stage in range(outputs)
        if any(f"output_blocks.{stage}.{layer}.in_layers.2.weight" in state for layer in (1, 2))
    ]
    per_level = doubling[0] + 1 if doubling else outputs
    firsts = [1 + level * per_level for level in range(outputs // max(1, per_level))]
    wide = [_shape(state, f"input_blocks.{first}.0.in_layers.2.weight")[0] for first in firsts]
    return ADMNetwork(
        channels=channels,
        width=width,
        multipliers=tuple(each // width for each in wide),
        blocks=per_level - 1,
        attention=tuple(2**n for n, first in enumerate(firsts) if f"input_blocks.{first}.1.qkv.weight" in state),
        learned_variance=channels_out == 2 * channels,
    )


def describe_ncsnpp(state: Mapping[str, Any]) -> NCSNppNetwork:
    """Read an NCSN++'s description off names and shapes.

    Each level but the coarsest ends with the image pyramid's convolution.
    """
    width, channels = _shape(state, "all_modules.3.weight")[:2]
    pyramid = [n for n in range(len(state)) if f"all_modules.{n}.Conv2d_0.weight" in state]
    if not pyramid:
        raise _refusal("the checkpoint has no image pyramid (all_modules.N.Conv2d_0.weight); only that NCSN++ is known")
    firsts = [4, *(n + 1 for n in pyramid)]
    wide = [_shape(state, f"all_modules.{first}.Conv_0.weight")[0] for first in firsts]
    sigmas = _single("sigmas", _tensor(state, "sigmas"))
    return NCSNppNetwork(
        channels=channels,
        width=width,
        multipliers=tuple(each // width for each in wide),
        blocks=pyramid[0] - 5,
        scales=sigmas.numel(),
        noise_range=(float(f"{sigmas.min():.6g}"), float(f"{sigmas.max():.6g}")),
    )


ADM = CheckpointImporter("time_embed.0.weight", describe_adm, build_adm)
NCSNPP = CheckpointImporter("all_modules.", describe_ncsnpp, build_ncsnpp)


def _running_mean(ema: Any, network: nn.Module) -> dict[str, Tensor]:
    """The running mean (EMA) of the trained tensors, a list in the order in which the network has them.

    Tensors that are not trained, the Fourier features' W and the noise levels, are not in it.
    """
    shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    trained = {name: value.shape for name, value in network.named_parameters() if value.requires_grad}
    if not isinstance(shadow, (list, tuple)) or len(shadow) != len(trained):
        found = f"{len(shadow)} tensors" if isinstance(shadow, (list, tuple)) else f"a {type(shadow).__name__}"
        raise _refusal(
            f"ema.shadow_params holds {found}; expected the {len(trained)} trained tensors",
            found=found,
            expected=f"{len(trained)} tensors",
        )
    mean = dict(zip(trained, shadow, strict=True))
    for number, (name, shape) in enumerate(trained.items()):
        if not isinstance(mean[name], Tensor) or mean[name].shape != shape:
            found = str(tuple(getattr(mean[name], "shape", ())))
            raise _refusal(
                f"ema.shadow_params[{number}] is of shape {found}; expected {tuple(shape)} of {name}",
                found=found,
                expected=str(tuple(shape)),
            )
    return mean


def _check_names(state: Mapping[str, Any], network: nn.Module) -> None:
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    differing = [
        f"{name} {tuple(getattr(state[name], 'shape', ()))} instead of {shape}"
        for name, shape in expected.items()
        if name in state and tuple(getattr(state[name], "shape", ())) != shape
    ]
    wrong = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": differing,
    }
    if any(wrong.values()):
        listed = "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
            for kind, names in wrong.items()
            if names
        )
        raise _refusal(
            f"the checkpoint's tensors are not those of its network: {listed}",
            found=listed,
            expected=f"{len(expected)} tensors",
        )


def _single(name: str, value: Any) -> Tensor:
    """The tensor in single precision, a copy of its own, all of it finite."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.layout is not torch.strided:
        raise _refusal(f"{name} is no tensor of floating point numbers", found=type(value).__name__)
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise _refusal(f"{name} has more elements than are stored of it", found=f"shape {tuple(value.shape)}")
    single = value.detach().to("cpu", torch.float32, copy=True).contiguous()
    if not bool(single.isfinite().all()):
        raise _refusal(f"{name} holds NaN or infinity; such a network denoises nothing", found="NaN or infinity")
    return single


def _count(state: Mapping[str, Any], pattern: str) -> int:
    return next(number for number in range(len(state) + 1) if pattern.format(number) not in state)


def _tensor(state: Mapping[str, Any], name: str) -> Tensor:
    value = state.get(name)
    if not isinstance(value, Tensor):
        raise _refusal(f"the checkpoint has no tensor {name}", found="nothing", expected=name)
    return value


def _shape(state: Mapping[str, Any], name: str) -> tuple[int, ...]:
    shape = tuple(_tensor(state, name).shape)
    if len(shape) not in (2, 4) or 0 in shape:
        raise _refusal(f"{name} is of shape {shape}; expected a matrix or a kernel", found=str(shape))
    return shape


def _refusal(message: str, *, found: str = "", expected: str = "") -> UnreadableCheckpoint:
    return UnreadableCheckpoint(message, field="checkpoint", found=found, expected=expected)
