"""bitgen-app: its page in a browser, by clicks, from the first picture to the last name; and what it answers to others."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from PIL import Image

from bitgen.deploy.desk import MAX_BYTES, Desk
from bitgen.deploy.export import export_graphs
from bitgen.deploy.serving import close_off, served
from cli.app import main
from tests import packing
from tests.browser import PROGRAM, Browser
from tests.runs import photo

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None  # to import them is an error
from cli.app import main
sys.exit(main(sys.argv[1:]))
"""
ROOT = Path(__file__).parents[2]
LOOK = 0
"""Which of the page's functions looks at a picture: they are numbered as they are wired."""


@dataclass(frozen=True)
class App:
    url: str
    names: Path
    functions: list[Any]
    """What its clicks call, as Gradio holds them."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("app") / "model"
    packing.packed(folder, packing.model())
    export_graphs(folder)
    return folder


@pytest.fixture(scope="module")
def app(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The page, served by this process, though its environment asks for the contrary of all that is promised."""
    folder = tmp_path_factory.mktemp("served")
    contrary = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/"}
    contrary |= {"GRADIO_ANALYTICS_ENABLED": "True", "GRADIO_ROOT_PATH": "/x", "HTTP_PROXY": "http://127.0.0.1:9"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", {**os.environ, **contrary})
        desk = Desk.open(model, folder / "names.json", threads=1)
        close_off(str(folder / "uploads"))
        from bitgen.deploy.page import CSS, THEME, page

        blocks = page(desk)
        with served(blocks, free_port(), MAX_BYTES, THEME, CSS) as url:
            yield App(url, folder / "names.json", list(blocks.fns.values()))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def says(element: str) -> str:
    """What stands in a field, in the page's language."""
    return f"document.querySelector('#{element} :is(input, textarea)').value"


def shows(element: str) -> str:
    return f"document.querySelector('#{element} img[src]')?.complete && document.querySelector('#{element} img').src"


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on the PATH")
def test_a_picture_is_captioned_searched_named_recalled_and_forgotten_by_clicks(app: App, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(1, (480, 320)))
    (tmp_path / "b.png").write_bytes(photo(1, (300, 210)))  # another view of the same
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    with Browser.open(tmp_path / "profile", (1280, 1150)) as browser:
        browser.go(app.url)
        browser.choose("#picture button", tmp_path / "a.jpg")
        browser.wait(f"{says('caption')} && {says('said')} === 'no names so far'")

        browser.write("#phrase input", "the red thing")
        browser.click("#phrase .submit-button")
        assert "the likeliest part shows it with probability 0." in browser.wait(says("found"))
        box, heat = browser.wait(shows("boxed")), browser.wait(shows("heated"))
        assert box != heat

        browser.write("#text input", "two rectangles")
        browser.click("#text .submit-button")
        assert "the matching head with probability 0." in browser.wait(says("fit"))

        browser.write("#name input", "Rex <b>")
        browser.click("#name .submit-button")
        browser.wait(f"{says('said')}.startsWith('this is Rex <b>: confidence 0.')")

        browser.click("#picture [aria-label='Remove Image']")
        browser.choose("#picture button", tmp_path / "b.png")  # at once, while the other is being removed
        browser.wait(f"{says('caption')} && !{says('found')} && {says('said')}.startsWith('this is Rex <b>: ')")
        assert "Rex <b> (1 picture)" in browser.run("document.querySelector('#known').innerText")
        assert "Rex <b>" in browser.run("document.querySelector('#recalled').innerText")
        assert browser.wait(shows("picture")).endswith("/b.png")
        browser.picture(tmp_path / "page.png")

        browser.click("#known input")
        browser.click("#forget")
        browser.wait(f"{says('said')} === 'no names so far'")
        assert json.loads(app.names.read_text())["names"] == {}

        browser.click("#picture [aria-label='Remove Image']")
        browser.choose("#picture button", tmp_path / "c.jpg")
        warned = browser.wait("document.querySelector('.toast-body')?.innerText")
        assert "expected a JPEG, PNG or WebP picture, found none: c.jpg" in warned
        assert browser.wait(f"!{says('caption')} && !{says('said')} && 'empty'") == "empty"

        hosts = {urlsplit(url).netloc for url in browser.requested}
    assert hosts == {urlsplit(app.url).netloc}
    assert Image.open(tmp_path / "page.png").width == 1280


def test_the_page_names_no_script_style_or_font_of_another_server(app: App) -> None:
    page = requests.get(app.url, timeout=30)
    assert re.findall(r"""<(?:script|link|iframe|img)[^>]+(?:src|href)=["']?(?:https?:)?//[^>]*>""", page.text) == []
    theme = requests.get(f"{app.url}theme.css", timeout=30).text
    assert re.findall(r"""url\(["']?(?:https?:)?//|@import""", theme) == []
    assert page.headers["content-security-policy"].startswith("default-src 'self' ")


def test_other_pages_of_the_browser_and_other_names_are_refused(app: App) -> None:
    for headers in ({"Origin": "http://elsewhere.example"}, {"Origin": "null"}, {"Host": "elsewhere.example"}):
        assert requests.get(app.url, headers=headers, timeout=30).status_code == 403
        assert requests.post(f"{app.url}gradio_api/queue/join", headers=headers, json={}, timeout=30).status_code == 403


def test_what_was_not_uploaded_is_neither_looked_at_nor_given_out(app: App, tmp_path: Path) -> None:
    path = tmp_path / "private.jpg"
    path.write_bytes(photo(1))
    with path.open("rb") as file:
        (uploaded,) = requests.post(f"{app.url}gradio_api/upload", files={"files": file}, timeout=30).json()
    assert looked_at(app, uploaded)
    assert not looked_at(app, str(path))
    assert requests.get(f"{app.url}gradio_api/file={uploaded}", timeout=30).status_code == 200
    assert requests.get(f"{app.url}gradio_api/file={path}", timeout=30).status_code == 403


def test_no_function_is_offered_to_other_programs(app: App) -> None:
    config = requests.get(f"{app.url}config", timeout=30).json()
    assert {each["api_visibility"] for each in config["dependencies"]} == {"private"}
    assert requests.get(f"{app.url}gradio_api/info", timeout=30).json()["named_endpoints"] == {}
    assert (config["analytics_enabled"], config["run_history"], config["footer_links"]) == (False, False, [])


def test_it_listens_on_one_address_alone(app: App) -> None:
    port = urlsplit(app.url).port
    with pytest.raises(OSError, match=r"refused|assign"):  # where it listened on all addresses, it would answer here
        socket.create_connection(("127.0.0.2", port), timeout=30)


def test_all_clicks_wait_in_one_queue(app: App) -> None:
    found = {(each.concurrency_id, each.concurrency_limit, each.queue) for each in app.functions}
    assert found == {("desk", 1, True)}


def test_ctrl_c_ends_it_and_nothing_is_left_behind(model: Path, tmp_path: Path) -> None:
    names, port = tmp_path / "names.json", free_port()
    temporary = tmp_path / "temporary"  # as any that uploads, or reports of what was done, may be left in
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", WITHOUT_TORCH, str(model), f"--port={port}", f"--memory={names}", "--threads=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{port}/"
        assert process.stdout.readline() == f"{model} is at {url}, for this machine alone; Ctrl-C ends it\n"
        sent = requests.post(f"{url}gradio_api/upload", files={"files": ("a.jpg", photo(1))}, timeout=30)
        sent.raise_for_status()
        assert len(list(temporary.rglob("a.jpg"))) == 1
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, said) == (0, "bitgen-app: ended\n")
    assert list(temporary.iterdir()) == []


def test_a_port_that_is_taken_is_named(model: Path, capsys: pytest.CaptureFixture[str], own_switches: None) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main([str(model), "--port", str(port)]) == 1
    assert capsys.readouterr().err.startswith(f"bitgen-app: expected a free port of 127.0.0.1, found {port}: ")


def test_without_gradio_it_says_what_to_install(model: Path) -> None:
    code = "import sys; sys.modules['gradio'] = None; from cli.app import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(model), "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("; pip install 'bitgen[app]'\n")


def test_a_folder_without_a_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], own_switches: None
) -> None:
    assert main([str(tmp_path), f"--port={free_port()}"]) == 1
    assert capsys.readouterr().err.startswith("bitgen-app: expected ")


@pytest.mark.parametrize("flag", ["--share", "--host", "--server-name"])
def test_no_flag_opens_it_to_others(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["model", flag])
    assert stopped.value.code == 2
    assert f"expected a flag of bitgen-app, found {flag}" in capsys.readouterr().err


def looked_at(app: App, path: str) -> bool:
    """Whether the page's function looks at a file, asked as the page asks."""
    given = {"path": path, "orig_name": "a.jpg", "meta": {"_type": "gradio.FileData"}}
    asked: dict[str, Any] = {"data": [given], "fn_index": LOOK, "session_hash": "test"}
    requests.post(f"{app.url}gradio_api/queue/join", json=asked, timeout=30).raise_for_status()
    events = requests.get(f"{app.url}gradio_api/queue/data?session_hash=test", stream=True, timeout=30)
    for line in events.iter_lines():
        event = json.loads(line.removeprefix(b"data: ")) if line else {}
        if event.get("msg") == "process_completed":
            return event["success"]
    raise AssertionError("expected an answer, found none")
