"""The night of `make download-coarse download-fine shards` in miniature: from the manifests that ship to shards.

The official files (`tests/official.py`) and the crawled images come from a server on 127.0.0.1. The manifests are
copies of those that ship: their URLs lead to that server (`https://host/path` is its `/host/path`), and sizes, digests,
published counts and refusal ceilings are those of the tiny files; all else is as it ships. Fixture: `night`, for
modules that say `pytest_plugins = ["tests.night"]`; one for all tests, so no test changes it. They import this before
pytest does, and nothing is asserted here: PYTEST_DONT_REWRITE.
"""

import hashlib
import io
import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import cli.build_shards
import cli.building
import cli.download
import pipeline.holdout
from bitgen.record import Sample
from pipeline.ledger import Line, read_ledger
from pipeline.manifest import Source, read_manifest
from shards.index import DATASET, ShardIndex
from tests import official
from tests.official_rows import Rows, rows_of
from tests.servers import Page, Server, serve

SHIPPED = Path(__file__).parents[1] / "manifests"
COARSE = ("coco", "sbu", "visual_genome", "cc3m", "flickr30k")
FINE = ("refcoco", "mixed")
"""As the Makefile's `download-coarse` and `download-fine` have them."""


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str


@dataclass
class Night:
    """A data folder, the manifests that fill it, and the server that they name."""

    server: Server
    folder: Path
    ran: dict[str, Ran] = field(default_factory=dict)
    """How the commands of the night ended, by what the Makefile calls them."""

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def address(self) -> str:
        """Of the server, as `http://127.0.0.1:PORT`."""
        return self.server.url("")

    @property
    def sources(self) -> dict[str, Source]:
        """By dataset."""
        manifests = [read_manifest(self._manifest(name)) for name in (*COARSE, *FINE)]
        return {source.dataset: source for manifest in manifests for source in manifest.sources}

    def prepare(self, *crawled: str) -> None:
        """Puts the official files on the server, writes the manifests, and leaves what a crawl that was stopped has of
        servers that no test may ask, for the sources `crawled`."""
        files, documents = official.files(self.address), official.documents(self.address)
        shutil.copytree(SHIPPED / "holdout", self._manifest("").parent / "holdout")
        for name in (*COARSE, *FINE):
            text, pages = _local(name, files, documents, self.address)
            self._manifest(name).write_text(text, encoding="utf-8")
            self.server.pages |= pages
        for name in ("sbu", "cc3m"):
            pages = {path: Page(body) for path, body in official.crawled_here(name).items()}
            pages[f"/{name}/mine.jpg"] = Page(official.photo("mine"), headers={"X-Robots-Tag": "noai"})
            self.server.pages |= pages
        for name in crawled:
            self._crawl_elsewhere(name, "crawl" if name == "sbu" else "crawl/train")

    def download(self, *names: str, more: tuple[str, ...] = ()) -> Ran:
        """`bitgen-download` of these manifests."""
        manifests = [str(self._manifest(name)) for name in names]
        private = ("--allow-private", self.address.removeprefix("http://"))
        return self._run(cli.download.main, *manifests, *private, "--processes", "1", *more)

    def shards(self, *more: str) -> Ran:
        """`bitgen-shards`."""
        return self._run(cli.build_shards.main, *more)

    def ledger(self, dataset: str) -> list[Line]:
        """What became of every row."""
        return list(read_ledger(self.data / "shards" / dataset))

    def samples(self, dataset: str) -> list[Sample]:
        """Every record of its shards."""
        index = ShardIndex.open(self.data / "shards" / dataset)
        return [index.read(i)[0] for i in range(len(index))]

    def dataset(self, dataset: str) -> dict[str, Any]:
        """Its dataset.json."""
        return json.loads((self.data / "shards" / dataset / DATASET).read_bytes())

    def rows(self, dataset: str) -> Rows:
        """Rows of its official files by photograph, counted without the readers."""
        return rows_of(self.sources[dataset], official.documents(self.address))

    @property
    def datasets(self) -> list[str]:
        """Those that are built."""
        return sorted(path.parent.relative_to(self.data / "shards").as_posix() for path in self.data.rglob(DATASET))

    def without(self, folder: Path, path: str) -> "Night":
        """The same downloads in `folder`, but for one file under `raw/`; nothing is built."""
        shutil.copytree(self.data / "raw", folder / "data/raw", copy_function=os.link)
        shutil.copytree(self._manifest("").parent, folder / "manifests")
        (folder / "data/raw" / path).unlink()
        return Night(self.server, folder)

    def _manifest(self, name: str) -> Path:
        return self.folder / "manifests" / f"{name}.toml"

    def _run(self, main: Any, *arguments: str) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            manifests = self._manifest("").parent
            patch.setattr(cli.building, "MANIFESTS", manifests)
            patch.setattr(cli.download, "SHIPPED", manifests / "holdout")
            patch.setattr(pipeline.holdout, "SHIPPED", manifests / "holdout")
            code = main([*arguments, "--data", str(self.data)])
        return Ran(code, out.getvalue(), err.getvalue())

    def _crawl_elsewhere(self, name: str, root: str) -> None:
        round_ = self.data / "raw" / name / root / "round-0000"
        (round_ / "00000").mkdir(parents=True)
        lines = []
        for number, (url, image) in enumerate(official.crawled_elsewhere(self.address, name).items()):
            key = f"{number:09d}"
            (round_ / "00000" / f"{key}.jpg").write_bytes(image)
            row = {"url": url, "key": key, "status": "success", "error_message": None, "size_bytes": len(image)}
            lines.append(json.dumps(row) + "\n")
        (round_ / "00000.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """A night that went well."""
    with serve() as server:
        made = Night(server, tmp_path_factory.mktemp("night"))
        made.prepare("sbu", "cc3m")
        made.ran["download-coarse"] = made.download(*COARSE)
        made.ran["download-fine"] = made.download(*FINE)
        made.ran["shards"] = made.shards("--workers", "1")
        yield made


def _local(
    name: str, files: Mapping[str, bytes], documents: Mapping[str, Any], address: str
) -> tuple[str, dict[str, Page]]:
    """The text of a shipped manifest with the server's URLs and the tiny files' figures; the pages that it names."""
    text = (SHIPPED / f"{name}.toml").read_text(encoding="utf-8")
    pages: dict[str, Page] = {}
    for file in tomllib.loads(text)["file"]:
        body = files[f"{name}/{file['path']}"]
        pages |= {re.sub("^https?:/", "", url): Page(body) for url in file["urls"]}
        if "sha256" in file:
            text = text.replace(file["sha256"], hashlib.sha256(body).hexdigest())
            text = text.replace(f"bytes = {file['bytes']}\n", f"bytes = {len(body)}\n")
    text = re.sub('"https?://', f'"{address}/', text)
    head, *tables = text.split("[[source]]\n")
    sources = read_manifest(SHIPPED / f"{name}.toml").sources
    return "".join([head, *map(_tiny, tables, sources, [documents] * len(sources))]), pages


def _tiny(table: str, source: Source, documents: Mapping[str, Any]) -> str:
    """A `[[source]]` with the counts of the tiny files; half of its rows may be refused."""
    rows = rows_of(source, documents)
    counts = {"images": len(rows), "rows": sum(map(len, rows.values()))}
    published = ", ".join(f"{what} = {counts[what]}" for what in source.published)
    table = re.sub("(?m)^published = .*$", f"published = {{ {published} }}", table)
    return "[[source]]\nrefusal_ceiling = 0.5\n" + re.sub("(?m)^refusal_ceiling = .*\n", "", table)
