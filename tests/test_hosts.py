"""Hosts of the benchmark in network namespaces: a link that is down carries nothing, and says nothing."""

import socket
from collections.abc import Iterator

import pytest

from benchmarks.hosts.network import Network, NoNetwork

PORT = 4711


@pytest.fixture
def network() -> Iterator[Network]:
    try:
        with Network(("here", "there")) as made:
            yield made
    except NoNetwork as error:
        pytest.skip(f"network namespaces are not to be had: {error}")


@pytest.fixture
def ends(network: Network) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection between the hosts."""
    with network.inside("there"):
        listening = socket.create_server((network.address("there"), PORT))
    with network.inside("here"):
        near = socket.create_connection((network.address("there"), PORT), 5)
    far, _ = listening.accept()
    for each in (near, far):
        each.settimeout(0.3)
    with listening, near, far:
        yield near, far


def test_a_cut_host_hears_nothing_is_not_told_and_goes_on_when_its_link_is_back(
    network: Network, ends: tuple[socket.socket, socket.socket]
) -> None:
    near, far = ends
    network.cut("here")
    near.sendall(b"lost")
    with pytest.raises(TimeoutError):
        far.recv(4)
    with pytest.raises(TimeoutError):
        near.recv(1)
    network.join("here")
    far.settimeout(10)
    assert far.recv(4) == b"lost"  # TCP has kept it


def test_a_host_reaches_no_other_network(network: Network) -> None:
    with network.inside("here"), pytest.raises(OSError, match="unreachable"):
        socket.create_connection(("192.0.2.1", 80), 1)


def test_packets_are_lost_for_as_long_as_they_are_to_be(
    network: Network, ends: tuple[socket.socket, socket.socket]
) -> None:
    near, far = ends
    network.lose_packets(1)
    near.sendall(b"late")
    with pytest.raises(TimeoutError):
        far.recv(4)
    network.lose_packets(0)
    network.slow_down(1_000_000)
    far.settimeout(10)
    assert far.recv(4) == b"late"
    network.slow_down(0)
