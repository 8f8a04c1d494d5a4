"""A finished dataset goes to where shards are kept, any URL that fsspec opens; `dataset.json` goes last.

Here remain the small files, by which a later build knows the dataset again; its shards are deleted once every file has
been seen there, of the size that it has here. A killed transfer goes on with the files that are not there yet.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.utils import get_protocol

from bitgen.filesystems import library_errors
from bitgen.progress import progress
from pipeline.files import read_json, write_json
from shards.index import DATASET

log = logging.getLogger(__name__)

_SENT = "sent.json"
"""Beside a dataset's: where it is, what was made when it was sent, and the bytes of each of its files."""
_SENDING = ".sending.json"
"""While it is under way: the files that have been sent."""
_AT_ONCE = 4


class SendError(Exception):
    """A place that takes no files, or did not take them whole."""


def check_output(output: str, shards: Path) -> str:
    """`output` in the one form in which places are compared: no slash at its end, a path of this machine absolute.

    Raises `SendError` where datasets sent there would lie in the folder `shards` that they are built in, or around it.
    An empty `output` stays so.
    """
    output = _normal(output)
    if output and _is_local(output):
        there, here = Path(output).resolve(), shards.resolve()
        if there.is_relative_to(here) or here.is_relative_to(there):
            raise SendError(f"expected a place apart from {here}, found {there}: {output}")
    return output


def send(folder: Path, output: str) -> None:
    """Brings the dataset in `folder` to `output/<phase or eval>/<name>`, unless it is there, and deletes its shards here.

    Raises `SendError`, and then nothing has been deleted here.
    """
    dataset = _dataset(folder)
    output = check_output(output, folder.parent.parent)
    if sent_to(folder) != output or not is_there(folder, output):
        sizes = _send(folder, dataset, output)
        write_json(folder / _SENT, _said(dataset, output) | {"files": sizes})
    for shard in dataset["shards"]:
        (folder / shard["file"]).unlink(missing_ok=True)
    (folder / _SENDING).unlink(missing_ok=True)


def sent_to(folder: Path) -> str | None:
    """Where the dataset in `folder` was sent as it was made last, by the note that is kept here; None: nowhere."""
    note = _note(folder)
    return note["to"] if note else None


def is_there(folder: Path, output: str) -> bool:
    """Whether all files of the dataset in `folder` are at `output`, as they were sent. Raises `SendError`.

    It asks the place itself, and changes nothing there.
    """
    dataset, note = read_json(folder / DATASET), _note(folder)
    if dataset is None or note is None or note["to"] != _normal(output):
        return False
    with _translated(output):
        fs, root = _place(output, dataset)
        if _different(_sizes_there(fs, root), note["files"]):
            return False
        return fs.cat_file(f"{root}/{DATASET}") == (folder / DATASET).read_bytes()


def forget(folder: Path) -> None:
    """A dataset that is built anew has not been sent."""
    for name in (_SENT, _SENDING):
        (folder / name).unlink(missing_ok=True)


def _send(folder: Path, dataset: dict[str, Any], output: str) -> dict[str, int]:
    """Sends what is not there yet; returns the bytes of each file of the dataset, all of which are there then."""
    sizes = _sizes_here(folder, dataset)
    with _translated(output):
        fs, root = _place(output, dataset)
        fs.makedirs(root, exist_ok=True)
        there, last = _sizes_there(fs, root), f"{root}/{DATASET}"
        brought = _already(folder, dataset, output)
        done = [name for name, size in sizes.items() if name in brought and there.get(name) == size]
        todo = [folder / name for name in sorted(sizes) if name != DATASET and name not in done]
        if lost := [path.name for path in todo if not path.is_file()]:
            raise SendError(f"expected {', '.join(lost[:3])} in {folder} or in {output}, found neither")
        if DATASET in there:
            fs.rm_file(last)  # what is there now is being replaced
        log.info("%s: sending %d files to %s", dataset["name"], len(todo), output)
        size = sum(sizes[path.name] for path in todo)
        with progress(f"{dataset['name']}: sending", size, "B") as bar, ThreadPoolExecutor(_AT_ONCE) as pool:
            for path in pool.map(lambda path: _put(fs, path, f"{root}/{path.name}"), todo):
                done.append(path.name)
                write_json(folder / _SENDING, _said(dataset, output) | {"files": sorted(done)})
                bar.update(sizes[path.name])
        _remove_others(fs, root, set(sizes))
        _check_there(fs, root, {name: size for name, size in sizes.items() if name != DATASET})
        _put(fs, folder / DATASET, last)
        _check_there(fs, root, sizes)
    return sizes


def _dataset(folder: Path) -> dict[str, Any]:
    dataset = read_json(folder / DATASET)
    if dataset is None:
        raise SendError(f"expected a finished dataset, found no {DATASET}: {folder}")
    return dataset


def _sizes_here(folder: Path, dataset: dict[str, Any]) -> dict[str, int]:
    """Bytes of every file of the dataset: as they are here, and as listed of shards that are not."""
    sizes = {shard["file"]: shard["bytes"] for shard in dataset["shards"]}
    files = (p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and p.name != _SENT)
    return sizes | {path.name: path.stat().st_size for path in files}


def _said(dataset: dict[str, Any], output: str) -> dict[str, Any]:
    return {"to": output, "shards": [shard["sha256"] for shard in dataset["shards"]], "inputs": dataset["inputs"]}


def _note(folder: Path) -> dict[str, Any] | None:
    """The note of where the dataset in `folder` is, `to` as `check_output` gives it; None where there is no good one."""
    dataset, note = read_json(folder / DATASET), read_json(folder / _SENT)
    if dataset is None or note is None or not isinstance(note.get("to"), str):
        return None
    files = note.pop("files", None)
    if note != _said(dataset, note["to"]) or not isinstance(files, dict) or DATASET not in files:
        return None
    return note | {"to": _normal(note["to"]), "files": files}


def _already(folder: Path, dataset: dict[str, Any], output: str) -> list[str]:
    """Files that an earlier transfer of the same dataset has brought, if they are still there."""
    known = read_json(folder / _SENDING) or {}
    files = known.pop("files", None)
    return files if known == _said(dataset, output) and isinstance(files, list) else []


def _normal(output: str) -> str:
    bare = output.rstrip("/")
    if bare.endswith(":") and "://" in output:
        return output  # a scheme alone, as memory://
    if not output or not _is_local(output):
        return bare
    return str(Path(url_to_fs(output)[1]).absolute())


def _is_local(output: str) -> bool:
    return get_protocol(output) in ("file", "local")


def _place(output: str, dataset: dict[str, Any]) -> tuple[AbstractFileSystem, str]:
    fs, path = url_to_fs(output)
    return fs, f"{path.rstrip('/')}/{dataset['name']}"


def _put(fs: AbstractFileSystem, path: Path, target: str) -> Path:
    fs.put_file(str(path), target)
    size, found = path.stat().st_size, fs.info(target)["size"]
    if found != size:
        raise SendError(f"expected {size:,} bytes there, found {found:,}: {target}")
    return path


def _sizes_there(fs: AbstractFileSystem, root: str) -> dict[str, int]:
    """Bytes of each file in a folder of the place, by its name, in one question; none where there is no such folder."""
    fs.invalidate_cache()
    with suppress(FileNotFoundError):
        found = [each for each in fs.ls(root, detail=True) if each["type"] == "file"]
        return {str(each["name"]).rsplit("/", 1)[-1]: each["size"] for each in found}
    return {}


def _different(there: dict[str, int], sizes: dict[str, int]) -> list[str]:
    """What is not there, or of another size."""
    return [name for name, size in sizes.items() if there.get(name) != size]


def _check_there(fs: AbstractFileSystem, root: str, sizes: dict[str, int]) -> None:
    there = _sizes_there(fs, root)
    for name in _different(there, sizes):
        found = f"{there[name]:,}" if name in there else "none"
        raise SendError(f"expected {sizes[name]:,} bytes there, found {found}: {root}/{name}")


def _remove_others(fs: AbstractFileSystem, root: str, names: set[str]) -> None:
    """What an earlier, larger dataset left there."""
    for name in _sizes_there(fs, root):
        if name not in names:
            fs.rm_file(f"{root}/{name}")


@contextmanager
def _translated(output: str) -> Iterator[None]:
    try:
        yield
    except SendError:
        raise
    except ImportError as error:
        raise SendError(f"expected a package for {output}, found none: {error}") from error
    except (OSError, ValueError, *library_errors()) as error:
        raise SendError(f"expected to write there, found {error or repr(error)}: {output}") from error
