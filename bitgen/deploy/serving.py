"""A Gradio page for this machine alone: on 127.0.0.1, never shared, and no request leaves by it.

    with TemporaryDirectory() as uploads:
        close_off(uploads)              # before gradio is imported
        with served(page(desk), 7860) as url: ...

What Gradio would do otherwise, as of 6.31: send statistics and ask for its newest version (`analytics`), take addresses, shared
folders and tunnels from GRADIO_ variables, ask its own server through the proxy of the environment, keep uploads after its end, and
answer forms of any page that the browser has open.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
HOSTS = (HOST, "localhost")
"""What a browser on this machine may call it: another name that leads here is a page elsewhere that plays a trick."""
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; form-action 'self'"
"""The page may ask nothing but its own server, whatever a later Gradio puts into it. Gradio's own scripts stand in the page."""


def close_off(uploads: str) -> None:
    """Sets this process's environment: pictures go to the folder `uploads`, and neither Gradio nor its client asks for more."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": uploads,
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": HOST,
        "no_proxy": HOST,
    }


def check_port(port: int) -> None:
    """Raises `OSError` where no server can have it."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was let go of this minute is free
        try:
            trial.bind((HOST, port))
        except OSError as error:
            raise OSError(
                f"expected a free port of {HOST}, found {port}: {error.strerror}; --port names another"
            ) from error


@contextmanager
def served(
    blocks: "gradio.Blocks", port: int, max_bytes: int, theme: "gradio.Theme | None" = None, css: str = ""
) -> Iterator[str]:
    """The address of a page while it is served, in threads of this process. Raises `OSError` where it cannot be.

    Args:
        max_bytes: of an uploaded file.
    """
    from starlette.middleware import Middleware

    _, url, _ = blocks.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        inbrowser=False,
        inline=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        root_path="",
        allowed_paths=[],
        max_file_size=max_bytes,
        state_session_capacity=8,  # tabs, each with its picture
        app_kwargs={"middleware": [Middleware(OwnPage)], "openapi_url": None},
        theme=theme,
        css=css,
    )
    try:
        yield url
    finally:
        blocks.close(verbose=False)


class OwnPage:
    """ASGI middleware: answers only what was asked for by this machine's names and from its own page, and says `POLICY`."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        async def say_policy(message: "Message") -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["content-security-policy"] = POLICY
            await send(message)

        asked = Headers(scope=scope) if scope["type"] == "http" else None
        if asked is not None and not is_own(asked.get("host", ""), asked.get("origin")):
            answer = PlainTextResponse("expected a request of this page", status_code=403)
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, say_policy)


def is_own(host: str, origin: str | None) -> bool:
    """Whether a request with these headers was made by this page, or by a person who opens it."""
    return host.partition(":")[0] in HOSTS and origin in (None, f"http://{host}")
