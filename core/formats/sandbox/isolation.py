"""Sandbox of a process that reads files from outside: it gives up privileges part by part (Linux).

`leave` is for the fork server, which never reads such files itself; its children have nothing that it gave up. `bind`
is for the child that reads. Each returns the missing parts with the reason, so that a service can report them, or
refuse to start.
Plain system calls by ctypes: no wheel of libseccomp's or Landlock's bindings exists.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
import tempfile
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

with suppress(ModuleNotFoundError):  # only Unix has it
    import resource  # now: nothing can be imported once the sandbox is closed

MissingParts = dict[str, str]
"""Parts of the sandbox that are not there, each with the reason."""

# What each part keeps from the reader.
PARTS = {
    "namespaces": "network, message queues and mounts of this machine",
    "root": "names of files",
    "user": "files, processes and capabilities of the service's user",
    "no_new_privs": "programs that would give back privileges",
    "landlock": "files, TCP ports, signals and sockets outside",
    "seccomp": "system calls beyond reading and writing what is open",
    "hdf5": "holes of the library that reads HDF5",
    "limits": "memory, time, further processes, files, core dumps",
}

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_LANDLOCK_VERSION_FLAG = 1
_LANDLOCK_TRUNCATE_ABI = 3  # without it a file can still be emptied
_CAPABILITY_VERSION = 0x20080522
_NOBODY = 65534
_FIRST_UID, _UIDS = 0x6F000000, 0x10000  # a range that no account has

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Numbers (x86_64, aarch64) of all that Python, numpy and zlib do with memory and with what is open already.
_ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "getpid": (39, 172),
    "exit": (60, 93),
    "getrusage": (98, 165),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "exit_group": (231, 94),
    "preadv": (295, 69),
    "getrandom": (318, 278),
    "preadv2": (327, 286),
}
_NOT_EXECUTABLE = {"mmap": (9, 222), "mprotect": (10, 226)}  # allowed for memory that holds no code
_PROT_EXEC = 4
_X32 = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def undumpable() -> None:
    """Keep this process's memory and environment from others of the same user (Linux; elsewhere nothing)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def leave(parts: Collection[str] = tuple(PARTS)) -> MissingParts:
    """Give up, for good and for all children: other namespaces, names of files, the user, privileges, Landlock's.

    Open descriptors go on working, and nothing can be opened any more: import all modules before. Tests give fewer
    `parts`, to see what each of them keeps.
    """
    if _libc is None:
        there = ("namespaces", "root", "user", "no_new_privs", "landlock")
        return dict.fromkeys(there, f"{platform.system()} has none")
    undumpable()
    missing: MissingParts = {}
    is_root = os.geteuid() == 0
    _attempt(missing, parts, "namespaces", lambda: _leave_namespaces(is_root))
    _attempt(missing, parts, "root", _leave_root)
    _attempt(missing, parts, "user", lambda: _leave_user(is_root, "namespaces" in missing))
    _attempt(missing, parts, "no_new_privs", lambda: _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _attempt(missing, parts, "landlock", _leave_files)
    return missing


def bind(
    memory_bytes: int, seconds: float, written_bytes: int, open_files: int, parts: Collection[str] = tuple(PARTS)
) -> MissingParts:
    """Bound this process for good, and allow it no system call beyond reading and writing what is open.

    `memory_bytes` of address space, `seconds` of CPU time, files of at most `written_bytes`, `open_files` descriptors.
    """
    missing: MissingParts = {}
    _attempt(missing, parts, "limits", lambda: bound(memory_bytes, seconds, written_bytes, open_files))
    if _libc is None:
        missing["seccomp"] = f"{platform.system()} has none"
    else:
        _attempt(missing, parts, "seccomp", _allow_little)
    return missing


def bound(memory_bytes: int, seconds: float, written_bytes: int, open_files: int) -> None:
    """Bound this process by its limits alone."""
    bounds = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_NOFILE: open_files,
        resource.RLIMIT_FSIZE: written_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, most in bounds.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _attempt(missing: MissingParts, parts: Collection[str], part: str, give_up: Callable[[], object]) -> None:
    if part not in parts:
        missing[part] = "left out"
        return
    try:
        give_up()
    except (OSError, ValueError, _Missing) as error:
        missing[part] = getattr(error, "strerror", None) or str(error)


class _Missing(Exception):
    """The kernel or this architecture has no such part."""


def _call(name: str, *arguments: object) -> int:
    answer = int(getattr(_libc, name)(*(ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments)))
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer


def _leave_namespaces(is_root: bool) -> None:
    """Network, IPC, mounts and host name of its own. Whoever is not root gets them in a user namespace of its own."""
    _call("unshare", _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWNS | _CLONE_NEWUTS | (0 if is_root else _CLONE_NEWUSER))


def _leave_root() -> None:
    """Go down into a folder that is there no more: nothing can be found or made in it."""
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    Path(folder).rmdir()
    os.chroot(".")


def _leave_user(is_root: bool, in_first_namespace: bool) -> None:
    """Become a user that nobody is, without capabilities. A user namespace alone leaves only the capabilities there."""
    if is_root:
        os.setgroups([])
        for user in (_FIRST_UID + os.getpid() % _UIDS, _NOBODY):
            # A container may have fewer numbers of users.
            with suppress(OSError):
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
                break
        if os.geteuid() == 0 or os.getegid() == 0:
            raise _Missing("there is no other user")
    _drop_capabilities()
    undumpable()
    if not is_root and in_first_namespace:
        raise _Missing("neither root nor in a user namespace: the reader is the service's user")


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    _call("capset", ctypes.create_string_buffer(header), ctypes.create_string_buffer(24))


def _leave_files() -> None:
    """Landlock without a single rule: nothing can be opened, made, removed or connected to."""
    version = _call("syscall", _LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION_FLAG)
    if version < _LANDLOCK_TRUNCATE_ABI:
        raise _Missing(f"version {version} of it; from {_LANDLOCK_TRUNCATE_ABI} on it keeps files from being emptied")
    files = (1 << (16 if version >= 5 else 15)) - 1
    network = 0b11 if version >= 4 else 0  # TCP: bind and connect
    scoped = 0b11 if version >= 6 else 0  # abstract sockets and signals
    rules = struct.pack("=QQQ", files, network, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _call("syscall", _LANDLOCK_CREATE, ctypes.create_string_buffer(rules), size, 0)
    try:
        _call("syscall", _LANDLOCK_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _allow_little() -> None:
    code = _filter(platform.machine())
    instructions = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(instructions))
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def _filter(machine: str) -> bytes:
    """The list of allowed calls as a program of the kernel's packet filter; any other call answers EPERM."""
    if machine not in _ARCHITECTURES:
        raise _Missing(f"no list of system calls for {machine}")
    column = list(_ARCHITECTURES).index(machine)
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
    number, architecture, third_argument = 0, 4, 32  # where they lie in struct seccomp_data

    def load(place: int) -> bytes:
        return struct.pack("=HBBI", 0x20, 0, 0, place)

    def answer(action: int) -> bytes:
        return struct.pack("=HBBI", 0x06, 0, 0, action)

    def unless_equal(value: int, skipped: int) -> bytes:
        return struct.pack("=HBBI", 0x15, 0, skipped, value)

    program = load(architecture) + unless_equal(_ARCHITECTURES[machine], 1)
    program += struct.pack("=HBBI", 0x05, 0, 0, 1) + answer(kill)  # jump over the answer to a foreign architecture
    program += load(number)
    program += struct.pack("=HBBI", 0x35, 0, 1, _X32) + answer(kill)  # x86_64's second list of calls
    for numbers in _ALLOWED.values():
        program += unless_equal(numbers[column], 1) + answer(allow)
    for numbers in _NOT_EXECUTABLE.values():
        program += unless_equal(numbers[column], 4) + load(third_argument)
        program += struct.pack("=HBBI", 0x45, 0, 1, _PROT_EXEC) + answer(refuse) + answer(allow)
    return program + answer(refuse)
