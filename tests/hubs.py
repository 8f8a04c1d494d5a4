"""A stand-in for the Hugging Face hub's HTTP API on 127.0.0.1: repositories are made, files uploaded and committed.

What it answers is what the hub's client asks for: /api/repos/create, /api/validate-yaml, preupload, the batch call of Git LFS
with the PUT that it points to, and the commit, lines of JSON.
"""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """What was asked of it, and what it holds."""

    def __init__(self, port: int, token: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.token = token
        self.refuses = ""
        """A part of a path whose requests get 403."""
        self.is_public = False
        """Whether the repositories that are there are public."""
        self.made: list[dict[str, Any]] = []
        """Bodies of the calls that make repositories."""
        self.objects: dict[str, bytes] = {}
        """Large files by their sha256."""
        self.commits: list[dict[str, bytes]] = []
        """Files by their paths."""
        self.paths: list[str] = []

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """What a POST to `path` gives."""
        if path == "/api/repos/create":
            self.made.append(json.loads(body))
            return {"url": f"{self.url}/{self.made[-1]['organization']}/{self.made[-1]['name']}"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            return {"files": [{"path": n, "uploadMode": mode, "shouldIgnore": False} for n, mode in modes.items()]}
        if path.endswith("/objects/batch"):
            wanted = json.loads(body)["objects"]
            return {
                "transfer": "basic",
                "objects": [
                    {**each, "actions": {"upload": {"href": f"{self.url}/put/{each['oid']}"}}} for each in wanted
                ],
            }
        lines = [json.loads(line) for line in body.splitlines()]
        small = {v["path"]: base64.b64decode(v["content"]) for v in _values(lines, "file")}
        large = {v["path"]: self.objects[v["oid"]] for v in _values(lines, "lfsFile")}
        self.commits.append(small | large)
        repository = path.removeprefix("/api/models/").partition("/commit/")[0]
        return {"commitUrl": f"{self.url}/{repository}/commit/1", "commitOid": "1" * 40}


def _values(lines: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return [line["value"] for line in lines if line["key"] == key]


@contextmanager
def serve(token: str) -> Iterator[Hub]:
    """A running hub that takes one token; stopped when the block is left."""
    listener = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    listener.daemon_threads = True
    hub = Hub(listener.server_address[1], token)
    listener.app = hub  # type: ignore[attr-defined] (put there by `serve`)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        hub: Hub = self.server.app  # type: ignore[attr-defined] (put there by `serve`)
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._send(401, {"error": "Invalid username or password."})
        name = self.path.removeprefix("/api/models/").partition("?")[0]
        return self._send(200, {"id": name, "private": not hub.is_public})

    def do_PUT(self) -> None:
        hub: Hub = self.server.app  # type: ignore[attr-defined] (put there by `serve`)
        hub.objects[self.path.rpartition("/")[2]] = self._body()
        self._send(200, {})

    def do_POST(self) -> None:
        hub: Hub = self.server.app  # type: ignore[attr-defined] (put there by `serve`)
        body = self._body()
        hub.paths.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._send(401, {"error": "Invalid username or password."})
        if hub.refuses and hub.refuses in self.path:
            return self._send(403, {"error": "You don't have the rights to do this."})
        return self._send(200, hub.answer(self.path, body))

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
