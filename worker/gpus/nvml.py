"""NVIDIA's management library (NVML): the GPUs and MIG instances of this machine, and how busy they are.

The library comes with the driver, its Python names with the extra `gpu`. Without either there is nothing to tell.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class NoManagementLibrary(Exception):
    """NVML, or its Python names, are not on this machine, or the driver does not answer."""


@contextmanager
def _library() -> Iterator[Any]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # NVMLError, whose class cannot be named where the package is missing
        raise NoManagementLibrary from error
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise NoManagementLibrary from error
    finally:
        pynvml.nvmlShutdown()


def device_uuids() -> list[str]:
    """UUIDs of the GPUs, `GPU-...`; of one that is divided those of its MIG instances, `MIG-...`.

    Raises NoManagementLibrary.
    """
    found: list[str] = []
    with _library() as nvml:
        for index in range(nvml.nvmlDeviceGetCount()):
            gpu = nvml.nvmlDeviceGetHandleByIndex(index)
            found += _mig_uuids(nvml, gpu) if _is_divided(nvml, gpu) else [_text(nvml.nvmlDeviceGetUUID(gpu))]
    return found


def utilisation_percent(uuid: str) -> int | None:
    """Share of the last sample period in which a kernel ran on the GPU; None where NVML does not tell.

    It tells nothing of MIG instances.
    """
    try:
        with _library() as nvml:
            return int(nvml.nvmlDeviceGetUtilizationRates(nvml.nvmlDeviceGetHandleByUUID(uuid)).gpu)
    except NoManagementLibrary:
        return None


def _is_divided(nvml: Any, gpu: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(gpu)
    except nvml.NVMLError:  # a GPU that cannot be divided
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _mig_uuids(nvml: Any, gpu: Any) -> list[str]:
    found = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)
        except nvml.NVMLError:  # there are fewer than there could be
            continue
        found.append(_text(nvml.nvmlDeviceGetUUID(instance)))
    return found


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
