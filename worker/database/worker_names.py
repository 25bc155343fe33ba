"""How worker processes are called."""

import secrets
import socket


def name_prefix(pid: int) -> str:
    """What the name of the worker with this process id on this machine begins with."""
    return f"{socket.gethostname()}:{pid}:"


def worker_name(pid: int) -> str:
    """A name that no worker had before."""
    return f"{name_prefix(pid)}{secrets.token_hex(4)}"
