"""Reverse proxies: the client of a proxied request (X-Forwarded-For); without authentication none is admitted."""

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from udig_recon.api.http.problems import Proxied

MARKS = frozenset({"forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip"})
MARK_PREFIXES = ("x-forwarded-", "cf-connecting-")
EVERYONE = "*"


class ProxyRefusalMiddleware:
    """Refuses requests with headers of a proxy while authentication is off: a proxy would admit the whole network."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        mark = next(filter(_is_mark, Headers(scope=scope)), None) if scope["type"] == "http" else None
        if mark is None:
            await self.app(scope, receive, send)
            return
        detail = (
            f"the request came through a proxy ({mark}), and authentication is off: every client of the proxy "
            "would be admitted; set AUTHENTICATION=on"
        )
        problem = Proxied.at(mark, detail, found="a proxy's header", expected="none, or AUTHENTICATION=on")
        await problem.response(scope["path"])(scope, receive, send)


def _is_mark(name: str) -> bool:
    return name in MARKS or name.startswith(MARK_PREFIXES)


class ProxyHeadersMiddleware:
    """Takes a trusted proxy's word for whose request it is: the last address that no trusted proxy has.

    Each proxy appends the address that it was asked from, so that all further left is what a client may have made up.
    """

    def __init__(self, app: ASGIApp, trusted: str) -> None:
        self.app = app
        self._everyone = trusted == EVERYONE
        self._networks = [] if self._everyone else [ipaddress.ip_network(each) for each in trusted.split()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        peer = scope["client"] if scope["type"] == "http" else None
        if peer is not None and self._trusts(_address(peer[0])):
            headers = Headers(scope=scope)
            scope["client"] = (self.client_of(peer[0], headers.getlist("x-forwarded-for")), 0)
            scheme = headers.get("x-forwarded-proto", "").strip()
            scope["scheme"] = scheme if scheme in ("http", "https") else scope["scheme"]
        await self.app(scope, receive, send)

    def client_of(self, peer: str, forwarded: list[str]) -> str:
        """The client of a request that the trusted `peer` brought with these values of X-Forwarded-For."""
        known = peer
        for hop in reversed(",".join(forwarded).split(",")):
            if (address := _address(hop)) is None:
                break  # what no proxy writes: nothing further left is worth more
            known = str(address)
            if self._everyone or not self._trusts(address):
                break
        return known

    def _trusts(self, address: IPv4Address | IPv6Address | None) -> bool:
        if address is None:
            return False
        return self._everyone or any(_within(address, network) for network in self._networks)


def _within(address: IPv4Address | IPv6Address, network: IPv4Network | IPv6Network) -> bool:
    return address.version == network.version and address in network


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address in any spelling that proxies use, with or without a port."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found
