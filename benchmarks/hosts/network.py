"""Hosts on a bridge: a network namespace and an address each, links that can be cut, lossy or slow."""

import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

NETWORK = "10.209.0"
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class NoNetwork(Exception):
    """This machine gives no network namespaces; the message says why."""


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNetwork(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


class Network:
    """The hosts, and this process as one more of them, at the first address."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self.hosts = list(hosts)
        self._tag = f"u{os.getpid() % 100_000}"
        self._bridge = f"{self._tag}b"

    def address(self, host: str) -> str:
        """Its address."""
        return f"{NETWORK}.{2 + self.hosts.index(host)}"

    def _namespace(self, host: str) -> str:
        return f"{self._tag}-{host}"

    def _link(self, host: str) -> str:
        """The bridge's end of the host's link."""
        return f"{self._tag}v{self.hosts.index(host)}"

    def __enter__(self) -> Self:
        """Make all of it. Raises NoNetwork."""
        if os.geteuid() != 0:
            raise NoNetwork("network namespaces need root")
        try:
            _run("ip", "link", "add", self._bridge, "type", "bridge")
            _run("ip", "address", "add", f"{NETWORK}.1/24", "dev", self._bridge)
            _run("ip", "link", "set", self._bridge, "up")
            for host in self.hosts:
                name, link = self._namespace(host), self._link(host)
                _run("ip", "netns", "add", name)
                _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
                _run("ip", "link", "set", link, "master", self._bridge, "up")
                _run("ip", "-n", name, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
                _run("ip", "-n", name, "link", "set", "lo", "up")
                _run("ip", "-n", name, "link", "set", "eth0", "up")
        except (NoNetwork, FileNotFoundError) as error:
            self._remove()
            raise NoNetwork(str(error)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for command in (
            *(("ip", "netns", "delete", self._namespace(host)) for host in self.hosts),
            ("ip", "link", "delete", self._bridge),
        ):
            with suppress(NoNetwork, FileNotFoundError):
                _run(*command)

    @contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """This thread on the host: processes that it starts have that host's network alone."""
        own, its = Path("/proc/thread-self/ns/net"), Path("/run/netns") / self._namespace(host)
        with own.open("rb") as here, its.open("rb") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())

    def expose(self, host: str, port: int) -> None:
        """Let others reach what listens on the host's loopback address alone, as a proxy on it would."""
        in_host = ("ip", "netns", "exec", self._namespace(host))
        _run(*in_host, "sysctl", "--quiet", "--write", "net.ipv4.conf.all.route_localnet=1")
        which = ("--append", "PREROUTING", "--protocol", "tcp", "--dport", str(port))
        _run(*in_host, "iptables", "--table", "nat", *which, "--jump", "DNAT", "--to-destination", f"127.0.0.1:{port}")

    def cut(self, host: str) -> None:
        """Take the host's link down at the bridge: packets vanish both ways, and nobody is told."""
        _run("ip", "link", "set", self._link(host), "down")

    def join(self, host: str) -> None:
        """Bring the link up again."""
        _run("ip", "link", "set", self._link(host), "up")

    def lose_packets(self, share: float) -> None:
        """Lose this share of the packets that each host receives; 0: none."""
        for host in self.hosts:
            in_host = ("ip", "netns", "exec", self._namespace(host), "iptables")
            _run(*in_host, "--flush", "INPUT")
            if share:
                rule = ("--match", "statistic", "--mode", "random", "--probability", f"{share:g}", "--jump", "DROP")
                _run(*in_host, "--append", "INPUT", *rule)

    def slow_down(self, bits_per_second: int) -> None:
        """Let packets queue for up to a second at each host's link; 0: no more.

        A token bucket stands in for `netem`, which few kernels of virtual machines have: it delays by queueing.
        """
        for host in self.hosts:
            if bits_per_second:
                shape = ("rate", f"{bits_per_second}bit", "burst", "4000", "latency", "1s")
                _run("tc", "qdisc", "replace", "dev", self._link(host), "root", "tbf", *shape)
            else:
                with suppress(NoNetwork):
                    _run("tc", "qdisc", "delete", "dev", self._link(host), "root")


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
