"""Code in the reader's place tries to get at what a service holds; every part of the sandbox refuses it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.support import scans
from tests.support.reader_processes import end, fork_servers, started_since
from udig_recon.core import errors
from udig_recon.core.formats import Limits, Prober, probe
from udig_recon.core.formats.sandbox import isolation
from udig_recon.core.formats.sandbox.messages import Nonsense, unpack
from udig_recon.core.formats.sandbox.pool import ReaderLost, ReaderPool

pytestmark = pytest.mark.long

# Runs as the fork server does, with `examine` replaced. `without` names functions of the sandbox that do nothing.
HOSTILE = r"""
import ctypes, errno, json, mmap, os, signal, socket, sys, threading
from udig_recon.core.formats.sandbox import isolation, server
told = json.loads(sys.argv[1])
if told["user"]:
    os.setgroups([])
    os.setresgid(told["user"], told["user"], told["user"])
    os.setresuid(told["user"], told["user"], told["user"])
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")

def connect(family, address):
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect(address)

def fork():
    if os.fork() == 0:
        os._exit(0)

def start_thread():
    started = threading.Thread(target=lambda: None)
    started.start()
    started.join()

def write_scan():
    os.write(4, b"x")

def memory():
    return bytearray(server.MEMORY_BYTES)

def fill():
    for _ in range(64):
        os.write(5, bytes(1 << 20))

def executable():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)

def foreign_descriptors():
    found = []
    for each in range(256):
        try:
            os.lseek(each, 0, os.SEEK_CUR)
        except OSError as error:
            if error.errno == errno.EBADF:
                continue
        found.append(each)
    if found == [0, 1, 2, 3, 4, 5]:
        raise OSError(errno.EBADF, "none")

parent, victim, made = told["parent"], told["victim"], told["folder"]
TRIED = {
    "environment": lambda: open(f"/proc/{parent}/environ", "rb").read(1),
    "memory_of_parent": lambda: open(f"/proc/{parent}/mem", "rb").read(1),
    "other_scan": lambda: open(victim, "rb").read(1),
    "password_file": lambda: open("/etc/passwd").read(1),
    "list_folder": lambda: os.listdir(made),
    "overwrite": lambda: open(victim, "r+b"),
    "truncate": lambda: os.truncate(victim, 0),
    "unlink": lambda: os.unlink(victim),
    "rename": lambda: os.rename(victim, victim + ".stolen"),
    "create": lambda: open(made + "/new", "w"),
    "create_here": lambda: open("new", "w"),
    "make_folder": lambda: os.mkdir(made + "/folder"),
    "link": lambda: os.link(victim, made + "/link"),
    "symlink": lambda: os.symlink(victim, made + "/symlink"),
    "chmod": lambda: os.chmod(victim, 0o777),
    "tcp": lambda: connect(socket.AF_INET, ("127.0.0.1", told["port"])),
    "unix": lambda: connect(socket.AF_UNIX, told["socket"]),
    "abstract": lambda: connect(socket.AF_UNIX, "\0" + told["abstract"]),
    "run": lambda: os.execv("/bin/true", ["true"]),
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "fork": fork,
    "ptrace": lambda: call(101, 16, parent, 0, 0),
    "process_vm_readv": lambda: call(310, parent, 0, 0, 0, 0, 0),
    "pidfd_open": lambda: call(434, parent, 0),
    "kill": lambda: os.kill(parent, signal.SIGTERM),
    "kill_all": lambda: os.kill(-1, signal.SIGTERM),
    "become_root": lambda: os.setresuid(0, 0, 0),
    "mount": lambda: call(165, b"proc", b"/", b"proc", 0, 0),
    "bpf": lambda: call(321, 0, 0, 0),
    "perf": lambda: call(298, bytes(128), 0, -1, -1, 0),
    "keyctl": lambda: call(250, 0, -3, 0),
    "io_uring": lambda: call(425, 8, bytes(256)),
    "userfaultfd": lambda: call(323, 0),
    "memfd": lambda: os.memfd_create("code"),
    "unshare": lambda: call(272, 0x10000000),
    "open_by_handle": lambda: call(304, 3, 0, 0),
    "socket": lambda: socket.socket(socket.AF_INET),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "socketpair": lambda: socket.socketpair(),
    "thread": start_thread,
    "prctl": lambda: call(157, 4, 1, 0, 0, 0),
    "executable": executable,
    "write_scan": write_scan,
    "memory": memory,
    "fill": fill,
    "foreign_descriptors": foreign_descriptors,
}

def examine(order, scan, output):
    outcome = {}
    for name in told["tried"]:
        try:
            TRIED[name]()
            outcome[name] = None
        except BaseException as error:
            outcome[name] = errno.errorcode.get(getattr(error, "errno", None), type(error).__name__)
    return json.dumps(outcome)

server.main(examine, told["parts"])
"""

FILES = [
    "environment", "memory_of_parent", "other_scan", "password_file", "list_folder", "overwrite", "truncate", "unlink",
    "rename", "create", "create_here", "make_folder", "link", "symlink",
]  # fmt: skip
OUTSIDE = [*FILES, "tcp", "unix", "abstract", "run", "kill", "ptrace", "become_root", "mount"]
BOUND = ["memory", "fill", "fork", "spawn", "write_scan", "foreign_descriptors"]
CALLS = [
    "chmod", "pidfd_open", "process_vm_readv", "kill_all", "bpf", "perf", "keyctl", "io_uring", "userfaultfd", "memfd",
    "unshare", "open_by_handle", "socket", "netlink", "socketpair", "thread", "prctl", "executable",
]  # fmt: skip
NAMESPACES, ROOT, USER = "namespaces", "root", "user"
LANDLOCK, SECCOMP, LIMITS = "landlock", "seccomp", "limits"


@pytest.fixture
def targets() -> Iterator[dict[str, Any]]:
    """A service: a process with a secret, a file of another tenant, a database's socket and a TCP port."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as port:
        Path(folder).chmod(0o777)
        victim = Path(folder) / "scan-of-another"
        victim.write_bytes(b"secret")
        victim.chmod(0o666)
        named, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        abstract_name = f"udig-{os.getpid()}"
        named.bind(f"{folder}/.s.PGSQL.5432")
        Path(f"{folder}/.s.PGSQL.5432").chmod(0o777)
        abstract.bind(f"\0{abstract_name}")
        service = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"SECRET": "x"})
        with named, abstract, service:
            named.listen()
            abstract.listen()
            yield {
                "parent": service.pid,
                "victim": str(victim),
                "folder": folder,
                "port": port.getsockname()[1],
                "socket": f"{folder}/.s.PGSQL.5432",
                "abstract": abstract_name,
            }
            assert service.poll() is None
            assert service.stdin is not None
            service.stdin.close()
        assert victim.read_bytes() == b"secret"
        assert sorted(path.name for path in Path(folder).iterdir()) == [".s.PGSQL.5432", "scan-of-another"]


def outcomes(
    targets: dict[str, Any], tried: list[str], without: list[str] | None = None, user: int = 0
) -> dict[str, str | None]:
    """What each attempt came to: the name of an error, None where it succeeded."""
    parts = [part for part in isolation.PARTS if part not in (without or [])]
    told = {**targets, "tried": tried, "parts": parts, "user": user}
    pool = ReaderPool([sys.executable, "-s", "-B", "-c", HOSTILE, json.dumps(told)])
    try:
        with tempfile.TemporaryFile() as scan, tempfile.TemporaryFile() as output:
            scan.write(b"scan")
            scan.flush()
            reading = os.open(f"/proc/self/fd/{scan.fileno()}", os.O_RDONLY)
            order = {"limits": asdict(Limits()), "seconds": 30, "most_bytes": 1 << 20}
            said, status = pool.run(order, [reading, output.fileno()])
            os.close(reading)
        assert status == 0
        assert said is not None
        found: dict[str, str | None] = json.loads(said)
        return found
    finally:
        pool.close()


@pytest.mark.parametrize("user", [0, 65533])
def test_code_in_the_readers_place_gets_at_nothing(targets: dict[str, Any], user: int) -> None:
    tried = [*OUTSIDE, *BOUND, *CALLS]
    found = outcomes(targets, tried, user=user if os.geteuid() == 0 else 0)
    assert [name for name in tried if found[name] is None] == []


@pytest.mark.parametrize("alone", [[NAMESPACES, ROOT, USER, LANDLOCK], [NAMESPACES, ROOT, USER, LANDLOCK, LIMITS]])
def test_the_list_of_system_calls_alone_keeps_all_that_is_outside(targets: dict[str, Any], alone: list[str]) -> None:
    tried = [*OUTSIDE, *CALLS, "fork", "spawn", "write_scan", "foreign_descriptors"]
    found = outcomes(targets, tried, alone)
    assert [name for name in tried if found[name] is None] == []


def test_without_the_list_of_system_calls_the_other_parts_keep_what_is_outside(targets: dict[str, Any]) -> None:
    tried = [*OUTSIDE, "chmod", "memory", "fill", "write_scan", "foreign_descriptors"]
    if os.geteuid() == 0:
        tried += ["fork", "spawn"]
    found = outcomes(targets, tried, [SECCOMP])
    assert [name for name in tried if found[name] is None] == []


def test_landlock_alone_keeps_files_ports_signals_and_abstract_sockets(targets: dict[str, Any]) -> None:
    # Names of files that are sockets, and chmod, are not its own.
    tried = [*FILES, "tcp", "abstract", "run", "kill", "ptrace"]
    found = outcomes(targets, tried, [SECCOMP, NAMESPACES, ROOT, USER])
    assert [name for name in tried if found[name] is None] == []


def test_namespaces_an_empty_root_and_a_user_of_its_own_keep_the_rest_without_landlock(targets: dict[str, Any]) -> None:
    found = outcomes(targets, OUTSIDE, [SECCOMP, LANDLOCK])
    assert [name for name in OUTSIDE if found[name] is None] == []


def test_the_bounds_alone_keep_memory_disk_and_processes(targets: dict[str, Any]) -> None:
    found = outcomes(targets, ["memory", "fill"], [SECCOMP, LANDLOCK, NAMESPACES, ROOT, USER])
    assert found == {"memory": "MemoryError", "fill": "EFBIG"}


def test_what_is_lacking_is_told(targets: dict[str, Any]) -> None:
    whole = Prober()
    try:
        assert set(whole.missing_parts()) <= set(isolation.PARTS)
        assert "hdf5" not in whole.missing_parts()
    finally:
        whole.close()
    broken = HOSTILE.replace(
        "told = json",
        'def gone(*_): raise OSError(1, "not here")\n'
        "isolation._leave_files = isolation._allow_little = gone\ntold = json",
    )
    told = {**targets, "tried": [], "parts": list(isolation.PARTS), "user": 0}
    prober = ReaderPool([sys.executable, "-s", "-B", "-c", broken, json.dumps(told)])
    try:
        assert prober.missing_parts().items() >= {"landlock": "not here", "seccomp": "not here"}.items()
    finally:
        prober.close()


def test_a_container_that_refuses_unshare_and_chroot_lacks_three_parts_and_keeps_the_others(
    targets: dict[str, Any],
) -> None:
    contained = HOSTILE.replace(
        "told = json",
        "def refused(*_): raise PermissionError(errno.EPERM, 'refused')\n"
        "os.chroot = isolation._leave_namespaces = refused\ntold = json",
    )
    told = {**targets, "tried": [], "parts": list(isolation.PARTS), "user": 10001 if os.geteuid() == 0 else 0}
    prober = ReaderPool([sys.executable, "-s", "-B", "-c", contained, json.dumps(told)])
    whole = Prober()
    try:
        assert set(prober.missing_parts()) == {"namespaces", "root", "user", *whole.missing_parts()}
    finally:
        prober.close()
        whole.close()


@pytest.mark.parametrize("name", scans.HOSTILE)
def test_the_sandbox_tells_of_every_wrong_file_what_is_told_without_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "scan"
    scans.HOSTILE[name].write(path)
    with pytest.raises(errors.ReconstructionError) as here:
        probe(path)
    with pytest.raises(type(here.value)) as there:
        PROBER.probe(path)
    assert vars(there.value) == vars(here.value)
    assert str(there.value) == str(here.value)


PROBER = Prober()


@pytest.fixture(scope="module", autouse=True)
def _closing() -> Iterator[None]:
    yield
    PROBER.close()


def test_readers_that_are_all_killed_are_lost_and_the_file_is_not_called_damaged(tmp_path: Path) -> None:
    path = scans.GOOD["fastmri"](tmp_path / "scan.h5")
    prober = Prober()
    try:
        others = fork_servers()
        prober.prepare(2)
        first = prober.probe(path)
        end(started_since(others, 2))
        assert prober.probe(path) == first
    finally:
        prober.close()
    gone = Prober(ReaderPool([sys.executable, "-c", ""]))
    with pytest.raises(ReaderLost):
        gone.probe(path)


@pytest.mark.parametrize(
    "said",
    [
        "", "[]", "{}", '{"header": {}}', '{"header": null}', '{"error": "SystemExit", "message": ""}', "[" * 100000,
        '{"error": "UnreadableScan", "message": ""}',
    ],
)  # fmt: skip
def test_what_no_reader_says_is_nonsense(said: str) -> None:
    with pytest.raises(Nonsense):
        unpack(said)


@pytest.mark.parametrize(
    "change",
    [
        {"slices": "1"}, {"slices": 10**15}, {"slices": True}, {"matrix": [1]}, {"warnings": ["x" * 5000]},
        {"pixel_spacing_mm": [1.0, float("nan")]}, {"format": "a\0b"}, {"modality": "pet"},
        {"warnings": ["x"] * 5000},
    ],
)  # fmt: skip
def test_a_header_beyond_all_measure_is_nonsense(change: dict[str, Any], tmp_path: Path) -> None:
    header = asdict(probe(scans.GOOD["fastmri"](tmp_path / "scan.h5")))
    assert asdict(unpack(json.dumps({"header": header}))) == header
    with pytest.raises(Nonsense):
        unpack(json.dumps({"header": {**header, **change}}))
