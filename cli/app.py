"""bitgen-app MODEL: a page on this machine to try an exported model with, without torch."""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bitgen.deploy.desk import MAX_BYTES, REFUSED, Desk
from bitgen.deploy.serving import HOST, check_port, close_off, served
from cli.arguments import parse, positive

DESCRIPTION = """A page on 127.0.0.1 for a model that bitgen-export --format onnx wrote: drop an image, read its caption, see where
a phrase is, and teach the model a name. No other machine can reach it, and it asks none. Ctrl-C ends it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 ended by Ctrl-C or SIGTERM, 1 failed, 2 wrong use."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks its own server whether it is there
    options = parse(_parser(), sys.argv[1:] if arguments is None else arguments)
    try:
        run(options)
    except REFUSED as error:
        print(f"bitgen-app: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"bitgen-app: {error}; pip install 'bitgen[app]'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bitgen-app: ended", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bitgen-app", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("model", type=Path, metavar="MODEL", help="the folder that bitgen-export --format onnx wrote")
    parser.add_argument("--port", type=_port, default=7860, metavar="N", help=f"of {HOST} (default: 7860)")
    parser.add_argument(
        "--memory", type=Path, metavar="FILE", help="where names are kept (default: memory.json in MODEL)"
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="default: one a core")
    return parser


def _port(value: str) -> int:
    if (port := positive(value)) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port of 1 to 65535, found {value!r}")
    return port


def run(options: argparse.Namespace) -> None:
    """Serves the page until an interrupt. What was uploaded is gone afterwards; names stay."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    check_port(options.port)
    desk = Desk.open(options.model, options.memory, options.threads or 0)
    with TemporaryDirectory(prefix="bitgen-app-") as uploads:
        close_off(uploads)
        from bitgen.deploy.page import CSS, THEME, page  # after that: it imports gradio

        with served(page(desk), options.port, MAX_BYTES, THEME, CSS) as url:
            print(f"{options.model} is at {url}, for this machine alone; Ctrl-C ends it", flush=True)
            threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
