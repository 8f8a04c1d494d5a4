"""A local web server that is faster than its clients: photographs from memory, over HTTP or TLS, in processes.

    python -m tests.benchmarks.web IMAGES PROCESSES [CERTIFICATE KEY]

Prints its port when it listens; ends when its standard input does. `/000012.jpg` is photograph 12 modulo their number,
made distinct by a comment; whatever else is asked for, is answered with 404. Connections are kept alive on request.
"""

import asyncio
import multiprocessing
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import certifi

from tests.benchmarks.harness import ROOT
from tests.benchmarks.photos import distinct, find

_ASKED = re.compile(rb"GET /(\d+)\.jpg HTTP/1\.[01]\r\n")


class _Connection(asyncio.Protocol):
    def __init__(self, photos: list[bytes]) -> None:
        self._photos = photos
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while (end := self._waiting.find(b"\r\n\r\n")) >= 0:
            asked, self._waiting = self._waiting[:end], self._waiting[end + 4 :]
            self._answer(asked)

    def _answer(self, asked: bytes) -> None:
        match = _ASKED.match(asked)
        if match is None:
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self._transport.close()
            return
        number = int(match[1])
        body = distinct(self._photos[number % len(self._photos)], number)
        closes = b"\nconnection: close" in asked.lower()
        end = b"close" if closes else b"keep-alive"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n"
        self._transport.write(head % (len(body), end) + body)
        if closes:
            self._transport.close()


def _serve(listener: socket.socket, images: Path, certificate: tuple[str, str] | None) -> None:
    photos = [path.read_bytes() for path in find(images)]
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(photos), sock=listener, ssl=context, backlog=1024)
        await server.serve_forever()

    asyncio.run(run())


def main(images: Path, processes: int, certificate: tuple[str, str] | None) -> None:
    """Serves until standard input is closed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    started = [
        multiprocessing.Process(target=_serve, args=(listener, images, certificate), daemon=True)
        for _ in range(processes)
    ]
    for process in started:
        process.start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()


@contextmanager
def running(images: Path, processes: int, certificate: tuple[Path, Path] | None) -> Iterator[str]:
    """A server in processes of its own; its address, `http(s)://127.0.0.1:PORT`."""
    command = [sys.executable, "-m", "tests.benchmarks.web", str(images.absolute()), str(processes)]
    command += [str(path.absolute()) for path in certificate or ()]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def own_certificate(folder: Path) -> tuple[Path, Path, Path]:
    """A certificate for 127.0.0.1 by the `openssl` command, its key, and a list of trusted authorities with it.

    The list is Mozilla's, as certifi ships it, and this one more: what a client loads is as long as it is in earnest.
    """
    certificate, key, bundle = (folder / name for name in ("own.pem", "own.key", "trusted.pem"))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "30", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    bundle.write_bytes(Path(certifi.where()).read_bytes() + certificate.read_bytes())
    return certificate, key, bundle


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), (sys.argv[3], sys.argv[4]) if len(sys.argv) > 4 else None)
