"""Write `client.py`, the sync client, from `async_client.py`: the same code without `async` and `await`."""

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "src" / "udig_client"
HEAD = '"""`Client`, without asyncio. Written from `async_client.py` by `python client/generate_sync.py`."""'
REPLACED = {
    r'\A""".*?"""': HEAD,
    r"from asyncio import sleep\n": "",
    r"from time import monotonic": "from time import monotonic, sleep",
    r"Async client of": "Client of",
    r"\bAsyncBaseTransport\b": "BaseTransport",
    r"\bAsync(Client|Reconstruction|Outcome|Iterator)\b": r"\1",
    r"\basync (def|with|for)\b": r"\1",
    r"\bawait ": "",
    r"\b__a(enter|exit)__": r"__\1__",
    r"\.a(read|close|iter_bytes|iter_raw)\(": r".\1(",
    r"\bin_thread\b": "in_place",
    r"\bas_tasks\b": "as_threads",
}
"""What differs, in this order."""


def sync_source() -> str:
    """The source of the sync client."""
    source = (PACKAGE / "async_client.py").read_text()
    for pattern, replacement in REPLACED.items():
        source = re.sub(pattern, replacement, source, flags=re.DOTALL)
    command = [sys.executable, "-m", "ruff"]
    name = ["--stdin-filename", str(PACKAGE / "client.py"), "-"]
    for arguments in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        done = subprocess.run([*command, *arguments, *name], input=source, capture_output=True, text=True, check=True)
        source = done.stdout
    return source


if __name__ == "__main__":
    (PACKAGE / "client.py").write_text(sync_source())
