"""The process behind `probe_in_child`: looks at one file and answers in JSON on standard output."""

import json
import resource
import sys
from pathlib import Path

from core.errors import ReconstructionError
from core.formats import Limits, probe
from core.formats.child import pack

_MEMORY_BYTES = 2 << 30
_OPEN_FILES = 32


def main(path: str, order: str) -> None:
    """Bound this process, then probe: little memory, some CPU time, few files, none written."""
    told = json.loads(order)
    bounds = {
        resource.RLIMIT_AS: _MEMORY_BYTES,
        resource.RLIMIT_CPU: int(told["seconds"]) + 1,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in bounds.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    try:
        outcome = pack(probe(Path(path), Limits(**told["limits"])))
    except ReconstructionError as error:
        outcome = pack(error)
    sys.stdout.write(outcome)


if __name__ == "__main__":
    main(*sys.argv[1:])
