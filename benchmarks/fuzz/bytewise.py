"""Mutators that know nothing of formats: bits, runs, blocks and lengths."""

from collections.abc import Callable

import numpy as np

from benchmarks.fuzz.mutators import Draft, registered

Change = Callable[[bytearray, np.random.Generator], bytes | bytearray]
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
SIGNATURES = (b"\x89HDF\r\n\x1a\n", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"%PDF-1.7")


def bytewise(change: Change) -> Change:
    """Register a change of the bytes of any file."""

    def mutate(draft: Draft) -> None:
        draft.path.write_bytes(change(bytearray(draft.path.read_bytes()), draft.rng))

    registered("any", False, change.__name__, mutate)
    return change


def place(content: bytearray, rng: np.random.Generator) -> int:
    """Somewhere, as often as not where formats keep what they say of themselves: near the start or the end."""
    near = min(len(content), int(rng.choice([256, 4096])))
    return int(rng.choice([rng.integers(len(content)), rng.integers(near), len(content) - 1 - rng.integers(near)]))


@bytewise
def flipped_bits(content: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(rng.integers(1, 9)):
        content[place(content, rng)] ^= 1 << int(rng.integers(8))
    return content


@bytewise
def flipped_bits_of_the_header(content: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(rng.integers(1, 4)):
        content[int(rng.integers(min(len(content), 2048)))] ^= 1 << int(rng.integers(8))
    return content


@bytewise
def random_bytes(content: bytearray, rng: np.random.Generator) -> bytearray:
    start, length = place(content, rng), int(rng.integers(1, 65))
    content[start : start + length] = rng.bytes(min(length, len(content) - start))
    return content


@bytewise
def zeroed_run(content: bytearray, rng: np.random.Generator) -> bytearray:
    start, length = place(content, rng), int(2 ** rng.uniform(0, 13))
    content[start : start + length] = bytes(min(length, len(content) - start))
    return content


@bytewise
def extreme_integers(content: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(rng.integers(1, 4)):
        size = int(rng.choice([1, 2, 4, 8]))
        start = place(content, rng) // size * size
        value = int(EXTREMES[rng.integers(len(EXTREMES))]) & (256**size - 1)
        content[start : start + size] = value.to_bytes(size, "little")
    return content


@bytewise
def changed_integers(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Off by little, where 8 bytes are likely to be an offset or a size."""
    start = place(content, rng) // 8 * 8
    value = int.from_bytes(content[start : start + 8], "little") + int(rng.choice([-512, -8, -1, 1, 8, 512]))
    content[start : start + 8] = (value % 256**8).to_bytes(8, "little")
    return content


@bytewise
def truncated(content: bytearray, rng: np.random.Generator) -> bytearray:
    return content[
        : int(rng.choice([rng.integers(len(content)), rng.integers(512), len(content) - rng.integers(1, 64)]))
    ]


@bytewise
def trailing_bytes(content: bytearray, rng: np.random.Generator) -> bytearray:
    return content + rng.bytes(int(2 ** rng.uniform(0, 14)))


@bytewise
def leading_bytes(content: bytearray, rng: np.random.Generator) -> bytes:
    """512 zeros in front are an HDF5 user block, any bytes in front a zip that unpacks itself."""
    length = int(rng.choice([1, 8, 512, 1024]))
    return (bytes(length) if rng.random() < 0.5 else rng.bytes(length)) + bytes(content)


@bytewise
def inserted_bytes(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = place(content, rng)
    content[start:start] = rng.bytes(int(rng.choice([1, 2, 8, 64])))
    return content


@bytewise
def lost_bytes(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = place(content, rng)
    del content[start : start + int(rng.choice([1, 2, 8, 64, 512]))]
    return content


@bytewise
def swapped_blocks(content: bytearray, rng: np.random.Generator) -> bytearray:
    size = int(rng.choice([8, 64, 512, 4096]))
    first, second = sorted(place(content, rng) // size * size for _ in range(2))
    one, other = bytes(content[first : first + size]), bytes(content[second : second + size])
    content[first : first + len(one)], content[second : second + len(other)] = other[: len(one)], one[: len(other)]
    return content


@bytewise
def repeated_block(content: bytearray, rng: np.random.Generator) -> bytearray:
    start, size = place(content, rng), int(rng.choice([8, 64, 512, 4096]))
    content[start:start] = content[start : start + size] * int(rng.integers(1, 5))
    return content


@bytewise
def foreign_signature(content: bytearray, rng: np.random.Generator) -> bytearray:
    signature = SIGNATURES[rng.integers(len(SIGNATURES))]
    content[: len(signature)] = signature
    content[place(content, rng)] ^= 1 + int(rng.integers(255))
    return content


@bytewise
def signature_and_noise(content: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(content[: int(rng.integers(4, 65))]) + rng.bytes(int(2 ** rng.uniform(0, 12)))
