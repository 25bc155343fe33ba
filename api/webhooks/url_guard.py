"""SSRF guard: webhooks go to no address of this machine or network unless the settings allow it."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import httpx2

LONGEST_URL = 2048
GLOBAL_UNICAST, NAT64 = ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("64:ff9b::/96")
Resolve = Callable[[str, int], Awaitable[list[str]]]


class ForbiddenURL(Exception):
    """A webhook may not go to this URL; the message says why."""


def check_url(text: str, *, allow_private: bool, allowed: Collection[str] | None = None) -> httpx2.URL:
    """The URL, checked without a DNS lookup; `allowed` hosts only. Raises ForbiddenURL."""
    try:
        url = httpx2.URL(text)
        url.raw_host.decode().encode("idna")  # as the lookup will
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise ForbiddenURL("is no URL") from error
    schemes = ("https", "http") if allow_private else ("https",)
    if len(text) > LONGEST_URL:
        raise ForbiddenURL(f"is longer than {LONGEST_URL} characters")
    if url.scheme not in schemes or not url.host:
        raise ForbiddenURL(f"is no {' or '.join(schemes)} URL with a host")
    if url.port is not None and not 0 < url.port < 1 << 16:
        raise ForbiddenURL("has no port between 1 and 65535")
    if url.userinfo or url.fragment:
        raise ForbiddenURL("has a user name or a fragment")
    if allowed is not None and not is_allowed(url.raw_host.decode(), allowed):
        raise ForbiddenURL("leads to a host that is none of WEBHOOK_ALLOWED_HOSTS")
    if not allow_private and not _may_be_public(url.raw_host.decode()):
        raise ForbiddenURL("is on this machine or in a private network (WEBHOOK_ALLOW_PRIVATE)")
    return url


def is_allowed(host: str, allowed: Collection[str]) -> bool:
    """Whether a host is one of these, or within one that begins with `*.`."""
    name = host.strip("[]").rstrip(".").lower()
    return any(name == each or (each.startswith("*.") and name.endswith(each[1:])) for each in allowed)


async def resolve_url(url: httpx2.URL, *, allow_private: bool, resolve: Resolve) -> list[str]:
    """The addresses of the URL's host, every one of which may be spoken to. Raises ForbiddenURL and OSError."""
    found = await resolve(url.raw_host.decode(), url.port or {"http": 80, "https": 443}[url.scheme])
    if not allow_private and not all(map(is_public, found)):
        raise ForbiddenURL("is on this machine or in a private network (WEBHOOK_ALLOW_PRIVATE)")
    return found


async def resolve_host(host: str, port: int) -> list[str]:
    """The addresses of a host, best first. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return _distinct(found)


def is_public(address: str) -> bool:
    """Whether an address is of the open internet, the IPv4 address within an IPv6 one included."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # an address with a scope is link-local
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
        if ip not in GLOBAL_UNICAST:
            return False
    return ip.is_global and not ip.is_multicast


def _may_be_public(host: str) -> bool:
    """False where a host is a private address in any spelling, such as 0x7f.1, or this machine's name."""
    if host.rstrip(".").lower().endswith("localhost"):
        return False
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return True
    return all(map(is_public, _distinct(found)))


def _distinct(found: list[Any]) -> list[str]:
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
