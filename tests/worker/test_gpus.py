"""Which worker process gets which GPU, with lists of devices that are made up."""

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from udig_recon.worker.gpus import nvml
from udig_recon.worker.gpus.bindings import VISIBLE, bindings, visible_gpus
from udig_recon.worker.settings import Settings
from udig_recon.worker.standalone import worker_group

MACHINE = ["GPU-a", "GPU-b"]
INSTANCES = ["MIG-a1", "MIG-a2", "GPU-b"]


def nothing() -> list[str]:
    raise nvml.NoManagementLibrary


@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        (None, MACHINE),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", ["1"]),
        (" 0, 1 ", ["0", "1"]),
        ("0,-1,1", ["0"]),  # CUDA takes none after the first that is not there
        ("0,0", ["0"]),
        ("MIG-a1,MIG-a2", ["MIG-a1", "MIG-a2"]),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"]),
        ("MIG-GPU-a1b2/1/0", ["MIG-GPU-a1b2/1/0"]),
    ],
)
def test_what_is_visible_is_what_cuda_would_take(variable: str | None, seen: list[str]) -> None:
    environment = {} if variable is None else {VISIBLE: variable}
    assert visible_gpus("auto", environment, lambda: MACHINE) == seen


def test_without_a_driver_or_for_the_cpu_there_are_no_gpus() -> None:
    assert visible_gpus("auto", {}, nothing) == []
    assert visible_gpus("cpu", {VISIBLE: "0,1"}, lambda: MACHINE) == []


@pytest.mark.parametrize(
    ("processes", "gpus", "slices", "bound"),
    [
        (None, [], 4, [None]),
        (None, ["GPU-a"], 1, ["GPU-a"]),
        (None, INSTANCES, 1, INSTANCES),
        (None, MACHINE, 2, ["GPU-a", "GPU-b", "GPU-a", "GPU-b"]),
        (3, MACHINE, 2, ["GPU-a", "GPU-b", "GPU-a"]),
        (1, MACHINE, 1, ["GPU-a"]),
        (2, [], 1, [None, None]),
    ],
)
def test_each_process_is_bound_to_one_gpu(
    processes: int | None, gpus: list[str], slices: int, bound: list[str | None]
) -> None:
    assert [each.get(VISIBLE) for each in bindings(processes, gpus, slices)] == bound


@pytest.mark.parametrize(
    ("gpus", "wanted", "reason"),
    [([], None, "there is no GPU"), (MACHINE, 3, "the number of processes is set, to 3"), (MACHINE, None, None)],
)
def test_slices_per_gpu_says_when_it_does_nothing(
    gpus: list[str],
    wanted: int | None,
    reason: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(worker_group, "visible_gpus", lambda _: gpus)
    with caplog.at_level(logging.WARNING):
        found = worker_group.environments(Settings(slices_per_gpu=2), wanted)
    assert [each["WORKERS"] for each in found] == [str(len(found))] * len(found)
    assert [getattr(line, "reason", None) for line in caplog.records] == ([] if reason is None else [reason])


class FakeLibrary:
    """NVML of a machine with a GPU that is divided in two, and one that cannot be."""

    NVML_DEVICE_MIG_ENABLE = 1

    class NVMLError(Exception):
        """What it raises."""

    def __init__(self) -> None:
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return "ab"[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid.removeprefix("GPU-")

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:  # noqa: N802
        return f"{'MIG' if len(handle) > 1 else 'GPU'}-{handle}".encode()

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:  # noqa: N802
        if handle == "b":
            raise self.NVMLError
        return 1, 1

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:  # noqa: N802
        if index > 1:
            raise self.NVMLError
        return f"{handle}{index + 1}"

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        if handle.startswith("MIG-"):
            raise self.NVMLError
        return SimpleNamespace(gpu=37, memory=1)


def test_the_management_library_names_instances_in_place_of_their_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary()
    monkeypatch.setitem(sys.modules, "pynvml", library)  # type: ignore[arg-type]
    assert nvml.device_uuids() == INSTANCES
    assert (nvml.utilisation_percent("GPU-b"), nvml.utilisation_percent("MIG-a1")) == (37, None)
    assert library.open == 0


def test_without_the_package_or_the_driver_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]
    assert nvml.utilisation_percent("GPU-a") is None
    with pytest.raises(nvml.NoManagementLibrary):
        nvml.device_uuids()
