"""Random numbers that the host needs, from the generator of a device, without waiting for the device."""

import hashlib

import torch
from torch import Generator, Tensor


def on_host(rng: Generator) -> Generator:
    """A generator on the CPU whose numbers follow from the state of `rng`, which moves on; of the CPU: itself.

    The state of a GPU's generator is on the host, its numbers are not. Same state, same numbers, so a resumed run draws
    what the unbroken one would have.
    """
    if rng.device.type == "cpu":
        return rng
    state = rng.get_state()
    torch.rand(1, generator=rng, device=rng.device)
    return derived(state)


def derived(state: Tensor) -> Generator:
    """A generator on the CPU whose seed is a hash of another one's state (bytes)."""
    digest = hashlib.sha256(state.numpy().tobytes()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little"))
