"""Headless Chromium, driven as a person drives it: by clicks and keys at places on the page.

with Browser.open(tmp_path) as browser:
    browser.go("http://127.0.0.1:7860/")
    browser.choose("#picture", path)      # a click, and a file for the dialog that it opens
    browser.write("#phrase textarea", "a dog")
    browser.click("#find")
    browser.wait("document.querySelector('#found textarea').value")
    browser.requested                     # every address that the page asked for

It talks to Chromium by the DevTools protocol over two pipes, for which neither a package nor a port is needed.
https://chromedevtools.github.io/devtools-protocol
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
LIMIT_S = 30.0
"""For an answer, and for what is waited for."""
SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # a request elsewhere is seen, and fails
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Browser:
    """One tab."""

    def __init__(self, writes: int, reads: int) -> None:
        self._writes, self._reads = writes, reads
        self._sent, self._session, self._left = 0, "", b""
        self._events: list[dict[str, Any]] = []

    @classmethod
    @contextmanager
    def open(cls, profile: Path, size: tuple[int, int] = (1280, 1000)) -> Iterator["Browser"]:
        """Args: `profile`: a folder for what the browser keeps; `size`: of the window."""
        assert PROGRAM is not None, "expected Chromium on the PATH, found none"
        (their_reads, writes), (reads, their_writes) = os.pipe(), os.pipe()
        switches = [*SWITCHES, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        # Chromium reads from 3 and writes to 4.
        command = f'exec "$0" "$@" 3<&{their_reads} 4>&{their_writes}'
        started = subprocess.Popen(
            ["bash", "-c", command, PROGRAM, *switches, "about:blank"],
            pass_fds=(their_reads, their_writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_reads)
        os.close(their_writes)
        browser = cls(writes, reads)
        try:
            browser._attach()
            yield browser
        finally:
            os.close(writes)
            os.close(reads)
            started.terminate()
            started.wait(10)

    @property
    def requested(self) -> list[str]:
        """Addresses that the page asked for, loaded or not; none of data: and blob:, which no server sees."""
        self.ask("Runtime.evaluate", expression="0")  # whatever was said before is here once this is answered
        asked = [e["params"]["request"]["url"] for e in self._events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("data:", "blob:"))]

    def ask(self, method: str, **params: Any) -> Any:
        """The result of a command of the protocol. Raises `AssertionError` for an error of it."""
        self._sent += 1
        number, message = self._sent, {"id": self._sent, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def event(self, method: str) -> Any:
        """Waits for the next event of a kind, and takes it."""
        found = [event for event in self._events if event["method"] == method]
        while not found:
            self._events.append(self._read())
            found = [event for event in self._events[-1:] if event["method"] == method]
        self._events.remove(found[0])
        return found[0]["params"]

    def go(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        self.event("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, f"{script}: {done['exceptionDetails']}"
        return done["result"].get("value")

    def wait(self, script: str) -> Any:
        """The value of an expression once it is true."""
        look = f"(() => {{ try {{ return ({script}) }} catch {{ return null }} }})()"
        found = self.run(
            f"new Promise(done => {{ const until = Date.now() + {LIMIT_S * 1000}; const look = () => {{ const found = {look};"
            "if (found || Date.now() > until) done(found instanceof Node || found); else setTimeout(look, 20) }; look() })"
        )
        assert found, f"expected in the page: {script}; it says: {self.run('document.body.innerText')}"
        return found

    def click(self, selector: str) -> None:
        """The middle of an element, which is scrolled to and has to be on top there."""
        place = f"document.querySelector({json.dumps(selector)})"
        x, y = self.wait(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();"
            "const [x, y] = [r.x + r.width / 2, r.y + r.height / 2]; const top = document.elementFromPoint(x, y);"
            f"return !e.disabled && (e.contains(top) || top.contains(e)) && [x, y] }})({place})"
        )
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, selector: str, text: str) -> None:
        """Into a field, in place of what stands there."""
        self.click(selector)
        self.run("document.activeElement.select()")
        self.ask("Input.insertText", text=text)

    def choose(self, selector: str, file: Path) -> None:
        """Clicks what opens a dialog for files, and chooses one."""
        self.click(selector)
        chooser = self.event("Page.fileChooserOpened")
        self.ask("DOM.setFileInputFiles", files=[str(file)], backendNodeId=chooser["backendNodeId"])

    def picture(self, path: Path) -> None:
        """What the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def _attach(self) -> None:
        (target,) = [t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self._session = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "DOM"):
            self.ask(f"{domain}.enable")
        self.ask("Page.setInterceptFileChooserDialog", enabled=True)

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + LIMIT_S
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._reads], [], [], max(0.0, until - time.monotonic()))
            assert ready, "expected an answer of the browser, found none"
            got = os.read(self._reads, 1 << 20)
            assert got, "expected a browser, found it ended"
            self._left += got
        first, _, self._left = self._left.partition(b"\0")
        return json.loads(first)
