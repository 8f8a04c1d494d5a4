import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from unittest.mock import Mock

import pytest

from pipeline.crawling.connections import RefusedError
from pipeline.crawling.manners import Manners
from pipeline.crawling.opener import PoliteOpener
from tests.servers import Cut, Drop, Page, Redirect, Server, Slow, Status, Together, serve


def opener(server: Server, **manners: object) -> PoliteOpener:
    allowed = {"private": (f"127.0.0.1:{server.port}",), "back_off_s": 0.0}
    return PoliteOpener(Manners(**(allowed | manners)))  # type: ignore[arg-type] (values of many kinds)


def outcome(asking: PoliteOpener, url: str) -> str:
    with pytest.raises(RefusedError) as caught:
        asking.open(url)
    return caught.value.outcome


def refusal(server: Server, path: str, **manners: object) -> str:
    return outcome(opener(server, **manners), server.url(path))


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


@pytest.mark.parametrize("encoding", ["gzip", "br", "X-GZip"])
def test_an_answer_that_is_encoded_unasked_is_refused(server: Server, encoding: str) -> None:
    server.pages["/a.jpg"] = Page(b"image", headers={"Content-Encoding": encoding})
    with pytest.raises(RefusedError, match=f"^bad_answer: Content-Encoding {encoding.lower()}, unasked$"):
        opener(server).open(server.url("/a.jpg"))


@pytest.mark.parametrize("encoding", ["", "identity", "none", "image/jpeg", "UTF-8"])
def test_an_encoding_that_is_none_is_passed_over(server: Server, encoding: str) -> None:
    server.pages["/a.jpg"] = Page(b"image", headers={"Content-Encoding": encoding})
    assert opener(server).open(server.url("/a.jpg")).read() == b"image"


def test_a_reason_is_no_longer_than_a_line(server: Server) -> None:
    server.pages["/a.jpg"] = Page(b"image", headers={"X-Robots-Tag": "noai, " + "x" * 9000})
    with pytest.raises(RefusedError) as caught:
        opener(server).open(server.url("/a.jpg"))
    assert len(str(caught.value)) == 200


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
        ("http://a b.example/a.jpg", "bad_url"),
        ("http://a.example:99999/a.jpg", "bad_url"),
        ("http://[::1/a.jpg", "bad_url"),
        ("http://[::1]/a.jpg", "private_address"),
        ("http://0x7f.1/a.jpg", "private_address"),
    ],
)
def test_what_cannot_be_asked_is_refused(url: str, outcome: str) -> None:
    with pytest.raises(RefusedError) as caught:
        PoliteOpener(Manners(retries=0)).open(url)
    assert caught.value.outcome == outcome


@pytest.mark.parametrize(("code", "outcome"), [(socket.EAI_NONAME, "dns_error"), (socket.EAI_AGAIN, "dns_timeout")])
def test_a_name_that_nobody_knows_has_its_outcome(monkeypatch: pytest.MonkeyPatch, code: int, outcome: str) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=socket.gaierror(code, "no such name")))
    with pytest.raises(RefusedError, match=outcome):
        PoliteOpener(Manners(retries=0)).open("http://photos.example/a.jpg")


def test_a_name_outside_ascii_is_looked_up_as_browsers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", asked := Mock(side_effect=socket.gaierror(socket.EAI_NONAME, "")))
    with pytest.raises(RefusedError):
        PoliteOpener(Manners(retries=0)).open("http://bücher.example/a.jpg")
    assert asked.call_args.args[0] == "xn--bcher-kva.example"


def test_nobody_listening_is_a_connection_error() -> None:
    with serve() as gone:
        address = gone.url("/a.jpg")
    with pytest.raises(RefusedError, match="connection_error"):
        PoliteOpener(Manners(retries=0, private=(f"127.0.0.1:{gone.port}",))).open(address)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Robots-Tag": "noai"},
        {"X-Robots-Tag": "NoIndex, nofollow"},
        {"X-Robots-Tag": "none"},
        {"X-Robots-Tag": "bitgen: noai"},
        {"X-Robots-Tag": "googlebot: nofollow, BitGen: noarchive, noimageai"},
        {"X-Robots-Tag": "unavailable_after: 25 Jun 2030 15:00:00 PST, noindex"},
        {"tdm-reservation": "1"},
    ],
)
def test_what_is_opted_out_is_left_alone(server: Server, headers: dict[str, str]) -> None:
    server.pages["/a.jpg"] = Page(b"image", headers=headers)
    assert refusal(server, "/a.jpg") == "opted_out"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Robots-Tag": "noarchive, nofollow"},
        {"X-Robots-Tag": "otherbot: noai"},
        {"X-Robots-Tag": "otherbot: nofollow, noai"},
        {"X-Robots-Tag": ""},
        {"tdm-reservation": "0"},
    ],
)
def test_what_is_not_opted_out_for_us_comes(server: Server, headers: dict[str, str]) -> None:
    server.pages["/a.jpg"] = Page(b"image", headers=headers)
    assert opener(server).open(server.url("/a.jpg")).read() == b"image"


def test_a_manifest_says_which_opt_outs_count(server: Server) -> None:
    server.pages["/a.jpg"] = Page(b"image", headers={"X-Robots-Tag": "noai", "tdm-reservation": "1"})
    assert opener(server, opt_outs=("noimageai",)).open(server.url("/a.jpg")).read() == b"image"


def test_an_opt_out_is_seen_before_the_image_comes(server: Server) -> None:
    server.pages["/a.jpg"] = Page(b"image", headers={"X-Robots-Tag": "noai"})
    server.faults["/a.jpg"] = [Slow()]
    assert refusal(server, "/a.jpg", timeout_s=5.0) == "opted_out"


@pytest.mark.parametrize("pause", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_host_that_wants_a_long_rest_is_not_asked_again_for_this_image(server: Server, pause: str) -> None:
    server.faults["/a.jpg"] = [Status(429, {"Retry-After": pause})] * 3
    assert (refusal(server, "/a.jpg"), len(server.requests)) == ("http_429", 1)


def test_a_host_that_wants_a_long_rest_gets_it_from_all(server: Server) -> None:
    server.faults["/a.jpg"] = [Status(503, {"Retry-After": "3600"})]
    server.pages["/b.jpg"] = Page(b"image")
    asking = opener(server)
    assert [outcome(asking, server.url(path)) for path in ("/a.jpg", "/b.jpg")] == ["http_503", "left_alone"]
    assert [path for path, _ in server.requests] == ["/a.jpg"]


def test_no_rest_is_longer_than_an_hour(server: Server) -> None:
    server.faults["/a.jpg"] = [Status(429, {"Retry-After": "9" * 400})]
    asking = opener(server)
    outcome(asking, server.url("/a.jpg"))
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    with pytest.raises(RefusedError, match=r"^left_alone: until \S+ for 127.0.0.1$") as caught:
        asking.open(server.url("/b.jpg"))
    assert abs(datetime.fromisoformat(str(caught.value).split()[2]) - in_an_hour) < timedelta(minutes=1)


@pytest.mark.parametrize("status", [404, 403, 301, 500])
def test_a_rest_for_one_page_is_none_for_its_host(server: Server, status: int) -> None:
    server.faults["/a.jpg"] = [Status(status, {"Retry-After": "3600"})] * 3
    server.pages["/b.jpg"] = Page(b"image")
    asking = opener(server)
    outcome(asking, server.url("/a.jpg"))
    assert asking.open(server.url("/b.jpg")).read() == b"image"


def test_a_rest_takes_nothing_of_an_images_time(server: Server) -> None:
    server.pages |= {"/a.jpg": Page(b"image"), "/b.jpg": Page(b"other")}
    server.faults["/a.jpg"] = [Status(429, {"Retry-After": "1"})]
    asking = opener(server, deadline_s=0.9)
    assert [asking.open(server.url(path)).read() for path in ("/a.jpg", "/b.jpg")] == [b"image", b"other"]


def test_a_host_that_never_answers_is_left_alone_for_a_while() -> None:
    with serve() as gone:
        address = gone.url("/a.jpg")
    asking = PoliteOpener(Manners(retries=0, private=(f"127.0.0.1:{gone.port}",)))
    assert [outcome(asking, address) for _ in range(11)] == ["connection_error"] * 10 + ["left_alone"]


def test_a_host_that_has_answered_is_asked_however_long_it_is_silent(server: Server) -> None:
    server.faults["/a.jpg"] = [Status(404), *(Drop() for _ in range(25))]
    server.pages["/a.jpg"] = Page(b"image")
    asking = opener(server, retries=0)
    assert [outcome(asking, server.url("/a.jpg")) for _ in range(26)] == ["http_404", *["connection_error"] * 25]
    assert asking.open(server.url("/a.jpg")).read() == b"image"


def test_an_opener_that_is_stopped_waits_for_nobody(server: Server) -> None:
    server.faults["/a.jpg"] = [Status(429, {"Retry-After": "600"})]
    asking = opener(server)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(asking.open, server.url("/a.jpg"))
        with server.changed:
            assert server.changed.wait_for(lambda: server.requests, 10)
        asking.stop("the disk is full")
        with pytest.raises(RefusedError, match="stopped: the disk is full"):
            waiting.result(10)


def test_a_host_that_answers_now_and_then_is_not_left_alone(server: Server) -> None:
    server.faults["/a.jpg"] = [*[Drop()] * 9, Status(404), *[Drop()] * 9, Status(404)]
    asking = opener(server, retries=0)
    once = ["connection_error"] * 9 + ["http_404"]
    assert [outcome(asking, server.url("/a.jpg")) for _ in range(20)] == once * 2


def test_a_short_rest_is_waited_out(server: Server) -> None:
    server.pages["/a.jpg"], server.faults["/a.jpg"] = Page(b"image"), [Status(429, {"Retry-After": "1"})]
    began = time.monotonic()
    opener(server).open(server.url("/a.jpg"))
    assert time.monotonic() - began >= 1


def test_a_rest_that_is_over_is_no_rest(server: Server) -> None:
    server.pages["/a.jpg"] = Page(b"image")
    server.faults["/a.jpg"] = [Status(503, {"Retry-After": "Sat, 01 Jan 2000 00:00:00 GMT"})]
    assert opener(server).open(server.url("/a.jpg")).read() == b"image"


def test_no_more_images_than_allowed_are_asked_of_a_host_at_a_time(server: Server) -> None:
    paths = [f"/{number}.jpg" for number in range(6)]
    server.pages |= {path: Page(b"image") for path in paths}
    server.faults |= {path: [Together(2)] for path in paths}
    asking = opener(server, per_host=2)
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda path: asking.open(server.url(path)), paths))
    assert server.most_at_once == 2


def test_no_proxy_of_the_environment_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pages["/a.jpg"] = Page(b"image")
    with serve() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(""))
        assert opener(server).open(server.url("/a.jpg")).read() == b"image"
        assert proxy.requests == []


def test_a_name_and_password_in_an_address_are_told_to_nobody(server: Server) -> None:
    server.pages["/a.jpg"] = Page(b"image")
    opener(server).open(server.url("/a.jpg").replace("//", "//me:secret@"))
    assert server.asked("/a.jpg", "Authorization") == [None]


def test_an_opener_that_is_stopped_asks_nobody(server: Server) -> None:
    stopped = opener(server)
    stopped.stop("the disk is full")
    with pytest.raises(RefusedError, match="stopped: the disk is full"):
        stopped.open(server.url("/a.jpg"))
    assert server.requests == []


@contextmanager
def dripping(beginning: bytes) -> Iterator[int]:
    """A server that says a beginning, and then a byte every 20 ms for ever; its port."""
    over = threading.Event()

    class Drip(StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(beginning)
            with suppress(ConnectionError):
                while not over.wait(0.02):
                    self.wfile.write(b"x")

    with ThreadingTCPServer(("127.0.0.1", 0), Drip) as listener:
        listener.daemon_threads = True
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield listener.server_address[1]
        over.set()
        listener.shutdown()


@pytest.mark.parametrize(
    "beginning", [b"", b"HTTP/1.1 200 OK\r\nServer: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"]
)
def test_a_server_that_says_a_byte_now_and_then_is_left_at_the_deadline(beginning: bytes) -> None:
    with dripping(beginning) as port:
        asking = PoliteOpener(Manners(private=(f"127.0.0.1:{port}",), deadline_s=0.3, retries=0))
        began = time.monotonic()
        with pytest.raises(RefusedError, match="timeout"):
            asking.open(f"http://127.0.0.1:{port}/a.jpg")
        assert time.monotonic() - began < 5


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
