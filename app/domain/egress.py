"""The only way out for addresses that users give: parsed once, resolved, every address checked, connected to that very one.

A private address (this machine, its networks, a cloud's metadata) is refused unless the operator named the origin that it
belongs to. What was checked is what is connected to, so a name that resolves otherwise the next time gains nothing; the name
stays in `Host` and in TLS. No redirects, no proxies or credentials from the environment, answers of a bounded size and time.
"""

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import httpx

from app.domain.errors import EndpointNotAllowed, InvalidRequest

_URL = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::([0-9]{1,5}))?((?:/[a-z0-9._~!$&'()*+,;=:@%-]*)*)", re.I | re.A)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PORTS = {"http": 80, "https": 443}
_INNER = ("localhost", "local", "internal", "lan", "home.arpa", "intranet", "private", "corp")  # names of no public host
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_TRIES = 3  # addresses of a name

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], list[str]]


@dataclass(frozen=True)
class Target:
    """A URL without user, query and fragment; `path` has no slash at its end."""

    scheme: str
    host: str  # lower case; an IPv6 address without brackets
    port: int
    path: str

    @property
    def origin(self) -> str:
        """As an operator writes it: `https://api.example.com`, `http://10.0.0.5:8000`; no port where it is the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    @property
    def url(self) -> str:
        return self.origin + self.path


def parse(url: str, param: str) -> Target:
    """Raises InvalidRequest; nothing is looked up."""

    def refused(what: str, hint: str) -> InvalidRequest:
        return InvalidRequest(f"'{param}' {what}.", param=param, hint=hint)

    example = "Write it as https://api.example.com/v1."
    scheme, found, rest = url.partition("://")
    if not found or scheme.lower() not in _PORTS:
        raise refused("is no http or https URL", example)
    if "@" in re.split(r"[/?#\\]", rest, maxsplit=1)[0]:
        raise refused("holds a user or password", "Leave them out: the operator keeps keys in RETORT_ENDPOINT_KEYS.")
    if "?" in rest or "#" in rest:
        raise refused("has a query or a fragment", example)
    match = _URL.fullmatch(url)
    if match is None:
        raise refused("is not a URL in plain form", f"{example} Names in other scripts in their xn-- form.")
    scheme, host, port = match[1].lower(), match[2].lower(), int(match[3] or _PORTS[match[1].lower()])
    if not 0 < port < 65536:
        raise refused(f"has port {port}", "Ports go from 1 to 65535.")
    return Target(scheme, _host(host, refused), port, match[4].rstrip("/"))


def _host(host: str, refused: Callable[[str, str], InvalidRequest]) -> str:
    """One way to write each host: no 127.1, no 0x7f000001, no 2130706433."""
    labels = host.split(".")
    try:
        if host.startswith("["):
            return str(ipaddress.IPv6Address(host[1:-1]))
        if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
            return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise refused("has an address in an unusual form", "Write IPv4 as 192.0.2.1 and IPv6 as [2001:db8::1].") from None
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise refused("has no valid host name", "Check its spelling.")
    return host


def check(target: Target, private: Collection[str], param: str) -> None:
    """Raises EndpointNotAllowed for what can be told to be private without looking a name up. `private`: origins allowed to be."""
    if target.origin in private:
        return
    address = _literal(target.host)
    inner = "." not in target.host or any(target.host == name or target.host.endswith(f".{name}") for name in _INNER)
    if not public(address) if address is not None else inner:
        raise _private(target, param)


def public(address: Address) -> bool:
    """Whether it is of the public internet, and so is the address that it stands for, if it stands for one."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


class Pinned(httpx.BaseTransport):
    """Requests to one origin: each is sent to an address that was checked a moment before, not to the name."""

    def __init__(
        self, target: Target, private: Collection[str], param: str, inner: httpx.BaseTransport, resolve: Resolve = resolve
    ) -> None:
        self._target, self._private, self._param, self._inner, self._resolve = target, private, param, inner, resolve

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        target, url = self._target, request.url
        if (url.scheme, url.host, url.port or _PORTS.get(url.scheme)) != (target.scheme, target.host, target.port):
            raise EndpointNotAllowed(f"Only {target.origin} may be asked.", param=self._param, hint="Give its own address.")
        failed: httpx.TransportError = httpx.ConnectError("no address")
        for address in self._addresses()[:_TRIES]:
            extensions = dict(request.extensions)
            if address != target.host:
                extensions["sni_hostname"] = target.host  # TLS is for the name: so are the certificate's
            pinned = url.copy_with(host=address)
            try:
                return self._inner.handle_request(
                    httpx.Request(request.method, pinned, headers=request.headers, stream=request.stream, extensions=extensions)
                )
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failed = error
        raise failed

    def _addresses(self) -> list[str]:
        target = self._target
        if _literal(target.host) is not None:
            found = [target.host]
        else:
            try:
                found = self._resolve(target.host, target.port)
            except OSError as error:
                raise httpx.ConnectError(f"{target.host} is not known") from error
        if target.origin not in self._private and not all(public(ipaddress.ip_address(address)) for address in found):
            raise _private(target, self._param)
        return found

    def close(self) -> None:
        self._inner.close()


def client(target: Target, private: Collection[str], param: str, *, timeout: float, connections: int) -> httpx.Client:
    """For one origin; safe to share between threads. EndpointNotAllowed comes from its requests."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    transport = Pinned(target, private, param, httpx.HTTPTransport(trust_env=False, limits=limits))
    headers = {"user-agent": "retort", "accept": "application/json", "accept-encoding": "identity"}
    wait = httpx.Timeout(timeout, connect=min(10.0, timeout))
    return httpx.Client(transport=transport, timeout=wait, headers=headers, follow_redirects=False, trust_env=False)


class TooLarge(Exception):
    """The answer goes on beyond what was allowed."""


def read(answer: httpx.Response, limit: int, deadline: float) -> bytes:
    """The body as it was sent, of at most `limit` bytes, all of it before `deadline` (time.monotonic)."""
    body = bytearray()
    for chunk in answer.iter_raw():
        body += chunk
        if len(body) > limit:
            raise TooLarge
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the answer takes too long")
    return bytes(body)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _private(target: Target, param: str) -> EndpointNotAllowed:
    return EndpointNotAllowed(
        f"{target.origin} is an address of this machine or of a private network.",
        param=param,
        hint=f"Name a public one, or let the operator allow it: RETORT_PRIVATE_ENDPOINTS='[\"{target.origin}\"]'.",
    )
