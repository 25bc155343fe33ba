"""Which worker process computes on which GPU, by the variable CUDA_VISIBLE_DEVICES of each."""

import os
import re
from collections.abc import Callable, Mapping, Sequence

from udig_recon.worker.gpus import nvml

VISIBLE = "CUDA_VISIBLE_DEVICES"
NAME = re.compile(r"\d+|(GPU|MIG)-[0-9A-Za-z/-]+")


def visible_gpus(
    device: str,
    environment: Mapping[str, str] = os.environ,
    uuids: Callable[[], Sequence[str]] = nvml.device_uuids,
) -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them; none where DEVICE is cpu.

    These are the names in CUDA_VISIBLE_DEVICES, where that is set, up to the first that CUDA would not take; else all
    GPUs of the machine, and the MIG instances of those that are divided. A process sees at most one MIG instance, and
    only by its UUID.
    """
    if device == "cpu":
        return []
    if VISIBLE in environment:
        return _names(environment[VISIBLE])
    try:
        return list(uuids())
    except nvml.NoManagementLibrary:
        return []


def _names(listed: str) -> list[str]:
    found: list[str] = []
    for name in (each.strip() for each in listed.split(",")):
        if not NAME.fullmatch(name) or name in found:
            break
        found.append(name)
    return found


def bindings(processes: int | None, gpus: Sequence[str], slices_per_gpu: int = 1) -> list[dict[str, str]]:
    """What each worker process gets in its environment; their number is that of the list.

    None: `slices_per_gpu` processes for each GPU, or one where there is none. A number of processes is dealt out over
    the GPUs in turn.
    """
    if processes is None:
        processes = max(1, len(gpus) * slices_per_gpu)
    return [{VISIBLE: gpus[number % len(gpus)]} if gpus else {} for number in range(processes)]
