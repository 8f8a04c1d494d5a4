"""Trust on first use: what the first complete download was, where a manifest states no checksum."""

import json
import threading
import tomllib
from pathlib import Path

from pipeline.fetch import Expected
from pipeline.files import write_text

LOCK = "downloads.lock.toml"
_HEADER = "# Written by bitgen-download: sha256 of files whose manifest states none. Delete a table to trust anew.\n"
_writing = threading.Lock()


class TrustError(Exception):
    """The lock file is damaged."""


def read_lock(data: Path) -> dict[str, Expected]:
    """`coco/annotations.zip` -> its bytes. Raises `TrustError`."""
    path = data / LOCK
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: Expected(int(each["bytes"]), str(each["sha256"])) for name, each in table.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrustError(f"expected a lock file, found {error!r}: {path}") from error


def record(data: Path, name: str, found: Expected) -> None:
    """Later downloads of `name` are held to `found`. Safe for the threads of one process."""
    with _writing:
        lock = read_lock(data) | {name: found}
        tables = (
            f'[{json.dumps(n)}]\nbytes = {e.size_bytes}\nsha256 = "{e.sha256}"\n' for n, e in sorted(lock.items())
        )
        write_text(data / LOCK, "\n".join((_HEADER, *tables)))
