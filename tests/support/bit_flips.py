"""One bit of a stored file, flipped as rot or a careless hand would."""

import os
from pathlib import Path


def flip(path: Path, at: float = 0.5, *, unseen: bool = False) -> None:
    """Flip a bit of a file at a part of its length; `unseen`: with its times of before, as a disk does that rots."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[min(int(at * len(content)), len(content) - 1)] ^= 4
    path.write_bytes(content)
    if unseen:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
