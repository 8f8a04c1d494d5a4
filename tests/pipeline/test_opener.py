import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipeline.connections import RefusedError, is_public
from pipeline.manners import Manners
from pipeline.opener import PoliteOpener
from tests.servers import Cut, Page, Redirect, Server, Slow, Status, serve


def opener(server: Server, **manners: object) -> PoliteOpener:
    allowed = {"private": (f"127.0.0.1:{server.port}",), "back_off_s": 0.0}
    return PoliteOpener(Manners(**(allowed | manners)))  # type: ignore[arg-type]


def refusal(server: Server, path: str, **manners: object) -> str:
    with pytest.raises(RefusedError) as caught:
        opener(server, **manners).open(server.url(path))
    return caught.value.outcome


def test_an_image_comes_whole(server: Server) -> None:
    server.pages["/a.jpg"] = Page(b"image")
    assert opener(server).open(server.url("/a.jpg")).read() == b"image"


def test_the_server_learns_who_is_asking(server: Server) -> None:
    server.pages["/a.jpg"] = Page(b"image")
    browser = urllib.request.Request(server.url("/a.jpg"), headers={"User-Agent": "Mozilla/5.0"})
    opener(server).open(browser)
    assert server.asked("/a.jpg", "User-Agent") == ["bitgen/0.1 (image-text dataset research crawler; python)"]


def test_an_address_with_a_space_is_asked_for_as_a_browser_would(server: Server) -> None:
    server.pages["/a%20%C3%A4.jpg"] = Page(b"image")
    assert opener(server).open(server.url("/a ä.jpg")).read() == b"image"


def test_a_missing_page_is_not_asked_for_again(server: Server) -> None:
    assert (refusal(server, "/a.jpg"), len(server.requests)) == ("http_404", 1)


def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.pages["/a.jpg"], server.faults["/a.jpg"] = Page(b"image"), [Status(503), Status(429)]
    assert opener(server).open(server.url("/a.jpg")).read() == b"image"


def test_a_server_that_stays_busy_is_given_up(server: Server) -> None:
    server.faults["/a.jpg"] = [Status(503)] * 9
    assert (refusal(server, "/a.jpg", retries=2), len(server.requests)) == ("http_503", 3)


def test_an_image_cut_short_is_refused(server: Server) -> None:
    server.pages["/a.jpg"], server.faults["/a.jpg"] = Page(b"image"), [Cut(3)]
    assert refusal(server, "/a.jpg", retries=0) == "cut_short"


def test_a_server_that_stops_talking_is_left(server: Server) -> None:
    server.pages["/a.jpg"], server.faults["/a.jpg"] = Page(b"image"), [Slow()]
    assert refusal(server, "/a.jpg", retries=0, timeout_s=0.1) == "timeout"


def test_more_bytes_than_allowed_are_refused_before_they_come(server: Server) -> None:
    server.pages["/a.jpg"] = Page(bytes(101))
    assert refusal(server, "/a.jpg", max_bytes=100) == "too_large"


def test_more_bytes_than_stated_are_refused_as_they_come(server: Server) -> None:
    server.pages["/a.jpg"] = Page(bytes(101), has_length=False)
    assert refusal(server, "/a.jpg", max_bytes=100) == "too_large"


def test_an_empty_answer_is_refused(server: Server) -> None:
    server.pages["/a.jpg"] = Page(b"")
    assert refusal(server, "/a.jpg") == "no_bytes"


def test_a_redirect_is_followed(server: Server) -> None:
    server.pages["/b.jpg"], server.faults["/a.jpg"] = Page(b"image"), [Redirect("/b.jpg")]
    assert opener(server).open(server.url("/a.jpg")).read() == b"image"


def test_a_private_address_is_refused(server: Server) -> None:
    server.pages["/a.jpg"] = Page(b"image")
    assert (refusal(server, "/a.jpg", private=()), server.requests) == ("private_address", [])


def test_a_redirect_to_a_private_address_is_refused(server: Server) -> None:
    with serve() as inside:
        inside.pages["/secret"] = Page(b"secret")
        server.faults["/a.jpg"] = [Redirect(inside.url("/secret"))]
        assert (refusal(server, "/a.jpg"), inside.requests) == ("private_address", [])


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://example.org/a.jpg", "gopher://example.org/"])
def test_a_redirect_out_of_the_web_is_refused(server: Server, location: str) -> None:
    server.faults["/a.jpg"] = [Redirect(location)]
    assert refusal(server, "/a.jpg") in ("http_302", "bad_url")


def test_a_redirect_in_a_circle_is_refused(server: Server) -> None:
    server.faults["/a.jpg"] = [Redirect("/a.jpg")] * 30
    assert refusal(server, "/a.jpg") == "redirects"


@pytest.mark.parametrize(
    ("url", "outcome"),
    [
        ("file:///etc/passwd", "bad_url"),
        ("http://", "bad_url"),
        ("no address", "bad_url"),
        ("http://name.invalid/a.jpg", "dns_error"),
    ],
)
def test_what_cannot_be_asked_is_refused(url: str, outcome: str) -> None:
    with pytest.raises(RefusedError) as caught:
        PoliteOpener(Manners(retries=0)).open(url)
    assert caught.value.outcome == outcome


def test_nobody_listening_is_a_connection_error() -> None:
    with serve() as gone:
        address = gone.url("/a.jpg")
    with pytest.raises(RefusedError, match="connection_error"):
        PoliteOpener(Manners(retries=0, private=(f"127.0.0.1:{gone.port}",))).open(address)


@pytest.mark.parametrize("ip", ["8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808"])
def test_an_address_of_the_internet_is_public(ip: str) -> None:
    assert is_public(ip)


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::a00:1",
    ],
)
def test_any_other_address_is_not(ip: str) -> None:
    assert not is_public(ip)


class _Image(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"image")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A TLS server with a certificate of its own: (port, certificate)."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([*make, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = ThreadingHTTPServer(("localhost", 0), _Image)
    listener.socket = context.wrap_socket(listener.socket, server_side=True)
    thread = Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield listener.server_address[1], certificate
    listener.shutdown()
    listener.server_close()
    thread.join()


def test_a_certificate_that_is_trusted_is_accepted(secure: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    port, certificate = secure
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    trusting = PoliteOpener(Manners(private=(f"localhost:{port}",)))
    assert trusting.open(f"https://localhost:{port}/a.jpg").read() == b"image"


def test_a_certificate_that_nobody_vouches_for_is_refused(secure: tuple[int, Path]) -> None:
    port, _ = secure
    with pytest.raises(RefusedError, match="tls_error"):
        PoliteOpener(Manners(private=(f"localhost:{port}",))).open(f"https://localhost:{port}/a.jpg")
