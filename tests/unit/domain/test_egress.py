"""The one way out: what may be named, what is refused, and that what was checked is what is connected to."""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
import trustme

from app.domain import egress
from app.domain.errors import EndpointNotAllowed, InvalidRequest
from tests.fixtures.endpoint import answering


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("https://api.example.com/v1", "https://api.example.com", "/v1"),
        ("HTTPS://API.Example.COM:443/v1/", "https://api.example.com", "/v1"),
        ("http://api.example.com:8080", "http://api.example.com:8080", ""),
        ("http://203.0.114.7:80/", "http://203.0.114.7", ""),
        ("https://[2606:4700:0:0::1111]:8443/a/b", "https://[2606:4700::1111]:8443", "/a/b"),
        ("https://xn--bcher-kva.example/v1", "https://xn--bcher-kva.example", "/v1"),
    ],
)
def test_what_may_be_named(url: str, origin: str, path: str) -> None:
    target = egress.parse(url, "x")
    assert (target.origin, target.path, target.url) == (origin, path, origin + path)
    egress.check(target, (), "x")


@pytest.mark.parametrize(
    "url",
    [
        "", "api.example.com/v1", "//api.example.com", "ftp://api.example.com", "file:///etc/passwd", "javascript:alert(1)", "https://",
        "https:///v1", "https:api.example.com", "https://user:secret@api.example.com", "https://user@api.example.com",
        "https://api.example.com@127.0.0.1/", "https://api.example.com\\@127.0.0.1/", "https://api.example.com/v1?key=1",
        "https://api.example.com/v1#x", "https://api.example.com:0/", "https://api.example.com:65536/", "https://api.example.com:80a/",
        "https://api.example.com:/v1/\nx", "https://api example.com/", "https://api.example.com/a b", "https://bücher.example/v1",
        "https://１２７.0.0.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/", "http://127.0.0.1./",
        "http://0x7f.0.0.1/", "http://256.1.1.1/", "http://[::1", "http://[::1%25eth0]/", "http://[gg::1]/", "http://-a.example/",
        "http://a..example/", "http://.example.com/", "https://exa_mple.com\t/", "https://[api.example.com]/",
    ],
)  # fmt: skip
def test_what_is_not_a_plain_url(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        egress.parse(url, "augmentation[0].base_url")
    assert refused.value.param == "augmentation[0].base_url"
    assert refused.value.hint
    assert "secret" not in f"{refused.value.message} {refused.value.hint}"


PRIVATE = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::127.0.0.1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2002:7f00:1::", "2002:a00:1::", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "100::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "203.0.114.7", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]


@pytest.mark.parametrize("address", [*PRIVATE, *PUBLIC])
def test_which_addresses_are_public(address: str) -> None:
    assert egress.public(ipaddress.ip_address(address)) == (address in PUBLIC)


@pytest.mark.parametrize(
    "host", [*PRIVATE, "localhost", "db.localhost", "redis", "printer.local", "metadata.google.internal", "nas.lan"]
)
def test_private_ones_are_refused_without_a_look_up_unless_allowed(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("looked up"))
    target = egress.parse(f"http://[{host}]:8000/v1" if ":" in host else f"http://{host}:8000/v1", "x")
    with pytest.raises(EndpointNotAllowed) as refused:
        egress.check(target, ["http://other:8000", target.origin.replace("8000", "8001")], "x")
    assert "RETORT_PRIVATE_ENDPOINTS" in str(refused.value.hint)
    egress.check(target, [target.origin], "x")


class Inner(httpx.BaseTransport):
    """Keeps the requests that would have been sent."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response] = lambda request: httpx.Response(200)) -> None:
        self.answer, self.sent = answer, []  # type: ignore[var-annotated]

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        return self.answer(request)


def client(url: str, inner: httpx.BaseTransport, found: list[str], private: tuple[str, ...] = ()) -> httpx.Client:
    target = egress.parse(url, "x")
    return httpx.Client(transport=egress.Pinned(target, private, "x", inner, lambda host, port: found), trust_env=False)


def test_the_request_goes_to_the_address_and_keeps_the_name() -> None:
    inner = Inner()
    with client("https://api.example.com:8443/v1", inner, ["1.1.1.1"]) as asks:
        asks.post("https://api.example.com:8443/v1/x", json={"a": 1})
    (sent,) = inner.sent
    assert str(sent.url) == "https://1.1.1.1:8443/v1/x"
    assert sent.headers["host"] == "api.example.com:8443"
    assert sent.extensions["sni_hostname"] == "api.example.com"


@pytest.mark.parametrize("found", [["10.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["::ffff:169.254.169.254"]])
def test_a_name_of_a_private_address_is_refused_when_it_is_asked(found: list[str]) -> None:
    inner = Inner()
    with client("https://api.example.com", inner, found) as asks, pytest.raises(EndpointNotAllowed):
        asks.get("https://api.example.com/")
    assert inner.sent == []
    with client("https://api.example.com", inner, found, ("https://api.example.com",)) as asks:
        asks.get("https://api.example.com/")
    assert len(inner.sent) == 1


def test_a_name_that_changes_its_mind_is_checked_each_time() -> None:
    inner, found = Inner(), ["1.1.1.1"]
    with client("https://api.example.com", inner, found) as asks:
        asks.get("https://api.example.com/")
        found[:] = ["127.0.0.1"]
        with pytest.raises(EndpointNotAllowed):
            asks.get("https://api.example.com/")
    assert [sent.url.host for sent in inner.sent] == ["1.1.1.1"]


@pytest.mark.parametrize("other", ["http://api.example.com/", "https://api.example.com:444/", "https://example.com/"])
def test_no_other_origin_is_asked(other: str) -> None:
    inner = Inner()
    with client("https://api.example.com", inner, ["1.1.1.1"]) as asks, pytest.raises(EndpointNotAllowed):
        asks.get(other)
    assert inner.sent == []


def test_the_next_address_of_a_name_is_tried() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "1.1.1.1":
            raise httpx.ConnectError("refused")
        return httpx.Response(200, text=request.read().decode())

    inner = Inner(answer)
    with client("https://api.example.com", inner, ["1.1.1.1", "8.8.8.8"]) as asks:
        assert asks.post("https://api.example.com/", content=b"body").text == "body"


def test_redirects_are_not_followed_and_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with answering(lambda n, body: (302, b"", {"location": "http://169.254.169.254/latest"})) as fake:
        target = egress.parse(fake.url, "x")
        with egress.client(target, [fake.origin], "x", timeout=5, connections=1) as asks:
            assert asks.post(fake.url, json={}).status_code == 302


def test_a_private_listener_sees_no_connection() -> None:
    with answering() as fake:
        for host in ("127.0.0.1", "localhost"):
            target = egress.parse(f"http://{host}:{fake.port}", "x")
            with egress.client(target, (), "x", timeout=5, connections=1) as asks, pytest.raises(EndpointNotAllowed):
                asks.post(target.url, json={})
        assert fake.bodies == []


def test_answers_are_bounded_in_size_and_time() -> None:
    with answering(lambda n, body: (200, b"x" * 400, {})) as fake:
        target = egress.parse(fake.url, "x")
        with egress.client(target, [fake.origin], "x", timeout=5, connections=1) as asks:
            with asks.stream("POST", fake.url, json={}) as answer:
                assert egress.read(answer, 400, time.monotonic() + 5) == b"x" * 400
            with asks.stream("POST", fake.url, json={}) as answer, pytest.raises(egress.TooLarge):
                egress.read(answer, 399, time.monotonic() + 5)
            fake.drip = 0.02  # 8 bytes each: a second in all, and every read in time
            began = time.monotonic()
            with asks.stream("POST", fake.url, json={}) as answer, pytest.raises(httpx.ReadTimeout):
                egress.read(answer, 400, began + 0.1)
            assert time.monotonic() - began < 0.6


def test_tls_is_for_the_name() -> None:
    """A server on the loopback with a certificate for a name: the name is asked for, and another one is not accepted."""
    authority = trustme.CA()
    asked: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.example.com").configure_cert(context)
    context.sni_callback = lambda connection, name, _: asked.append(name)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    for host, accepted in (("api.example.com", True), ("other.example.com", False)):
        url = f"https://{host}:{server.server_port}"
        with client(url, httpx.HTTPTransport(verify=trusting), ["127.0.0.1"], (url,)) as asks:
            if accepted:
                assert asks.get(url).status_code == 200
            else:
                with pytest.raises(httpx.ConnectError, match="CERTIFICATE"):
                    asks.get(url)
    assert asked[:2] == ["api.example.com", "other.example.com"]
    server.shutdown()
    server.server_close()
