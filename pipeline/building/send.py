"""A finished dataset goes to where shards are kept, any URL that fsspec opens; `dataset.json` goes last.

Here remain the small files, by which a later build knows the dataset again; its shards are deleted once all is there.
A killed transfer goes on with the files that are left.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from bitgen.progress import progress
from pipeline.files import read_json, write_json
from shards.index import DATASET

log = logging.getLogger(__name__)

_SENT = "sent.json"
"""Beside a dataset's: where it is, and what was made when it was sent."""
_SENDING = ".sending.json"
"""While it is under way: the files that are there."""
_AT_ONCE = 4


class SendError(Exception):
    """A place that takes no files, or did not take them whole."""


def send(folder: Path, output: str) -> None:
    """Brings the dataset in `folder` to `output/<phase or eval>/<name>`, unless it is there. Raises `SendError`."""
    dataset = _dataset(folder)
    if sent_to(folder) != output:
        _send(folder, dataset, output)
        write_json(folder / _SENT, _said(dataset, output))
    for shard in dataset["shards"]:
        (folder / shard["file"]).unlink(missing_ok=True)
    (folder / _SENDING).unlink(missing_ok=True)


def sent_to(folder: Path) -> str | None:
    """Where the dataset in `folder` was sent as it was made last, and still is; None: nowhere. Raises `SendError`."""
    dataset, sent = read_json(folder / DATASET), read_json(folder / _SENT)
    if dataset is None or sent is None or sent != _said(dataset, sent["to"]):
        return None
    with _translated(sent["to"]):
        fs, root = _place(sent["to"], dataset)
        last = f"{root}/{DATASET}"
        is_there = fs.exists(last) and fs.cat_file(last) == (folder / DATASET).read_bytes()
    return sent["to"] if is_there else None


def _send(folder: Path, dataset: dict[str, Any], output: str) -> None:
    with _translated(output):
        fs, root = _place(output, dataset)
        last = f"{root}/{DATASET}"
        if fs.exists(last):
            fs.rm_file(last)  # what is there now is being replaced
        files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and p.name != _SENT)
        there = _already(folder, dataset, output)
        todo = [p for p in files if p.name != DATASET and p.name not in there]
        log.info("%s: sending %d files to %s", dataset["name"], len(todo), output)
        size = sum(p.stat().st_size for p in todo)
        with progress(f"{dataset['name']}: sending", size, "B") as bar, ThreadPoolExecutor(_AT_ONCE) as pool:
            for path in pool.map(lambda path: _put(fs, path, f"{root}/{path.name}"), todo):
                there.append(path.name)
                write_json(folder / _SENDING, _said(dataset, output) | {"files": sorted(there)})
                bar.update(path.stat().st_size)
        _remove_others(fs, root, {path.name for path in files})
        _put(fs, folder / DATASET, last)


def forget(folder: Path) -> None:
    """A dataset that is built anew has not been sent."""
    for name in (_SENT, _SENDING):
        (folder / name).unlink(missing_ok=True)


def _dataset(folder: Path) -> dict[str, Any]:
    dataset = read_json(folder / DATASET)
    if dataset is None:
        raise SendError(f"expected a finished dataset, found no {DATASET}: {folder}")
    return dataset


def _said(dataset: dict[str, Any], output: str) -> dict[str, Any]:
    return {"to": output, "shards": [shard["sha256"] for shard in dataset["shards"]], "inputs": dataset["inputs"]}


def _already(folder: Path, dataset: dict[str, Any], output: str) -> list[str]:
    """Files that an earlier transfer of the same dataset has brought."""
    known = read_json(folder / _SENDING) or {}
    files = known.pop("files", [])
    return list(files) if known == _said(dataset, output) else []


def _place(output: str, dataset: dict[str, Any]) -> tuple[AbstractFileSystem, str]:
    fs, path = url_to_fs(output)
    root = f"{path.rstrip('/')}/{dataset['name']}"
    fs.makedirs(root, exist_ok=True)
    return fs, root


def _put(fs: AbstractFileSystem, path: Path, target: str) -> Path:
    fs.put_file(str(path), target)
    size, found = path.stat().st_size, fs.info(target)["size"]
    if found != size:
        raise SendError(f"expected {size:,} bytes there, found {found:,}: {target}")
    return path


def _remove_others(fs: AbstractFileSystem, root: str, names: set[str]) -> None:
    """What an earlier, larger dataset left there."""
    for each in fs.ls(root, detail=False, refresh=True):
        if str(each).rsplit("/", 1)[-1] not in names:
            fs.rm_file(each)


@contextmanager
def _translated(output: str) -> Iterator[None]:
    try:
        yield
    except SendError:
        raise
    except ImportError as error:
        raise SendError(f"expected a package for {output}, found none: {error}") from error
    except (OSError, ValueError) as error:
        raise SendError(f"expected to write there, found {error or repr(error)}: {output}") from error
