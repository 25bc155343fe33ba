"""The device that computes, set up so that the same run gives the same bits."""

from functools import lru_cache

import torch

from udig_recon.core.allocator import keep_freed_memory
from udig_recon.core.errors import ReconstructionError


def select_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one. Freed memory stays with this process from now on.

    On CUDA, PyTorch is told to take deterministic kernels; for cuBLAS the environment must say
    CUBLAS_WORKSPACE_CONFIG=:4096:8 as well, before it is first used. Raises ReconstructionError for an unknown or
    absent device.
    """
    keep_freed_memory()
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if has_gpu else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ReconstructionError.at("device", name, "auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        if not has_gpu or (device.index or 0) >= torch.cuda.device_count():
            raise ReconstructionError.at(
                "device", name, f"one of the {torch.cuda.device_count()} GPUs of this machine, or cpu"
            )
        # A kernel without a deterministic form warns and runs rather than ending the job.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return device


@lru_cache(maxsize=1)
def _cpu_has_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported())


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions beat float32 here: on a CPU 1.8 times with AVX512-BF16, 3 to 8 times with AMX."""
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bfloat16()
