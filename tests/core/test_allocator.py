"""Freed memory stays with a process that computes, and goes back when it is told to."""

import ctypes
import subprocess
import sys

import pytest

from udig_recon.core import allocator

MEASURED = """
import resource
import torch
from udig_recon.core.allocator import release_freed_memory
from udig_recon.core.device import select_device

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.zeros(2**20), torch.zeros(12 * 2**20)  # 4 and 48 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

torch.set_num_threads(1)
select_device("cpu")
faults(10)
kept, most = faults(10), resident()
release_freed_memory()
print(kept, most - resident())
"""


def test_buffers_of_a_process_with_a_device_are_not_given_back_and_cleared_anew():
    """Ten rounds of 52 MiB have 133 000 pages of 4 KiB."""
    if allocator._glibc() is None:
        return
    ran = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    faults, released = map(int, ran.stdout.split())
    assert faults < 1000
    assert released > 40


def test_a_c_library_with_small_limits_is_told_the_largest_that_it_takes(monkeypatch):
    told = []

    class Old:
        def mallopt(self, parameter, value):
            told.append((parameter, value))
            return int(parameter != allocator.M_MMAP_THRESHOLD or value <= 2**25)

    monkeypatch.setattr(allocator, "_glibc", Old)
    assert allocator.keep_freed_memory()
    assert told[-2:] == [(allocator.M_MMAP_THRESHOLD, 2**25), (allocator.M_TRIM_THRESHOLD, allocator.LARGEST)]


@pytest.mark.parametrize("platform", ["darwin", "win32", "linux"])
def test_another_c_library_is_left_alone(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not allocator.keep_freed_memory()
    assert not allocator.release_freed_memory()
