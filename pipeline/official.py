"""Evaluation sets from a folder of official files, for whoever has those and no training corpus: nothing is downloaded.

A manifest says which files a set is made of and how they are read; where in the folder they lie does not matter. A file
or a folder of images is found by its name; of several the one whose path agrees longest with the manifest's, from the
end, and of those the one nearest to the top. `OpenSource/finetune_refcoco_val.json` and `../coco/train2014` are found in

    photos/coco/train2014/COCO_train2014_000000000154.jpg
    photos/mdetr_annotations/OpenSource/finetune_refcoco_val.json

The sets are built as any others (`pipeline/build.py`): every row ends in the ledger, too many refused rows stop it, a
killed build goes on, and what is built already stays. The official folder is only read: what is made lies in a data
folder of its own, with links to the files in `raw/`. The hold-out list of such a build has the lists that ship and
these sets' own images, so it is seldom a checkpoint's: `pipeline/coverage.py` says what may be evaluated all the same.
"""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path, PurePosixPath

from pipeline.build import BuildError, Options, build
from pipeline.building.workers import WorkerError
from pipeline.files import BusyError, forget_digest, locked
from pipeline.holdout import HoldoutError
from pipeline.manifest import Manifest, Source, read_manifest
from pipeline.rows import AnnotationError
from shards.format import ShardError
from shards.index import ShardIndex

log = logging.getLogger(__name__)

CACHE = Path("data") / "official"
"""Where the sets go, unless said otherwise: a folder for each official folder and its manifests."""
_FOUND = "found"
_FAILURES = (BuildError, HoldoutError, AnnotationError, ShardError, WorkerError, BusyError)


class OfficialError(Exception):
    """No evaluation sets can be made of a folder; the message says what was looked for, or what the build found."""


@dataclass(frozen=True)
class Official:
    """The evaluation sets of a folder, built."""

    data: Path
    """Holds `shards/eval/...`, and nothing to train on."""
    datasets: tuple[str, ...]
    """As `eval/flickr30k-test`, in the manifests' order."""
    absent: Mapping[str, str]
    """By dataset of a manifest that the folder does not have: what is missing."""

    def open(self) -> dict[str, ShardIndex]:
        """The sets by name. Raises `ShardError`."""
        return {name: ShardIndex.open(self.data / "shards" / name) for name in self.datasets}


def build_official(folder: Path, manifests: Sequence[Path], cache: Path = CACHE, workers: int = 1) -> Official:
    """Builds the evaluation sets of `manifests` whose files are in `folder`; does nothing where that was done before.

    The images are copied, so `cache` needs as much room as they take. Raises `OfficialError`; `ManifestError` for a
    manifest that is none; `OSError`.
    """
    if not folder.is_dir():
        raise OfficialError(f"expected a folder of official files, found none: {folder}")
    read = [manifest for manifest in map(read_manifest, manifests) if any(s.role == "eval" for s in manifest.sources)]
    sources = [source for manifest in read for source in manifest.sources if source.role == "eval"]
    if not sources:
        raise OfficialError(
            f'expected manifests with a source of role = "eval", found none: {", ".join(map(str, manifests))}'
        )
    tree = _Tree(folder, {_parts(source, path)[-1] for source in sources for path in _paths(source)}, cache.resolve())
    data, absent = _place_of(folder, manifests, cache), dict[str, str]()
    try:
        with locked(data / "raw"):
            there = [_here(manifest, tree, data / "raw", absent) for manifest in read]
            wanted = [source for manifest in there for source in manifest.sources]
            for name, missing in absent.items():
                log.info("%s is not in %s: %s", name, folder, missing)
            if not wanted:
                missing = "; ".join(f"{name}: {what}" for name, what in absent.items())
                raise OfficialError(f"expected the files of an evaluation set, found none ({missing}): {folder}")
            for each in build(there, data, wanted, Options(workers=workers)):
                how = "built" if each.is_new else "up to date"
                log.info("%s: %s, %s samples", each.dataset["name"], how, f"{each.dataset['samples']:,}")
    except _FAILURES as error:
        raise OfficialError(f"{error}; from {folder}") from error
    return Official(data, tuple(source.dataset for source in wanted), absent)


def _place_of(folder: Path, manifests: Sequence[Path], cache: Path) -> Path:
    """A data folder that no other folder of files has, nor the same one by other manifests."""
    said = "\n".join(str(path.resolve()) for path in (folder, *manifests))
    return cache / f"{folder.resolve().name}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def _paths(source: Source) -> tuple[str, ...]:
    return (*source.annotations, *source.needs, *source.images)


def _here(manifest: Manifest, tree: "_Tree", raw: Path, absent: dict[str, str]) -> Manifest:
    """The manifest with those of its evaluation sets alone whose files are there, linked under `raw`; `absent` is told
    of the others."""
    found: list[Source] = []
    for source in (source for source in manifest.sources if source.role == "eval"):
        placed = _placed(source, tree, raw)
        if isinstance(placed, Source):
            found.append(placed)
        else:
            absent[source.dataset] = placed
    return replace(manifest, sources=tuple(found))


def _placed(source: Source, tree: "_Tree", raw: Path) -> Source | str:
    """The source, its files linked under `raw` where it looks for them, its image roots those that were found; else
    what is missing."""
    if source.crawl:
        return "its images are crawled: bitgen-download, then bitgen-shards"
    files = {path: tree.find(source, path) for path in (*source.annotations, *source.needs)}
    if missing := [path for path, found in files.items() if found is None or not found.is_file()]:
        return f"no {missing[0]}"
    roots = {path: found for path in source.images if (found := tree.find(source, path)) and found.is_dir()}
    if not roots:
        return f"no folder {' or '.join(source.images)}"
    folder = raw / source.manifest
    folder.mkdir(parents=True, exist_ok=True)
    for path, found in files.items():
        _link(Path(os.path.normpath(folder / path)), found)
    # A root may lie within another in the manifest, and elsewhere here; a link within a link would be made in a user's folder.
    links = {f"{_FOUND}/{'--'.join(_parts(source, path))}": found for path, found in roots.items()}
    for path, found in links.items():
        _link(folder / path, found)
    return replace(source, images=tuple(links))


def _link(path: Path, target: Path | None) -> None:
    """A symbolic link; what is known of the digest of another file there is forgotten."""
    assert target is not None
    if path.is_symlink() and os.readlink(path) == str(target):
        return
    forget_digest(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _parts(source: Source, path: str) -> tuple[str, ...]:
    """Of a path of a source, from the family on: ("coco", "train2014") for `../coco/train2014`."""
    return PurePosixPath(os.path.normpath(f"{source.manifest}/{path}")).parts


class _Tree:
    """Where in a folder what has a wanted name lies; links are followed, each folder is looked into once."""

    def __init__(self, folder: Path, names: set[str], cache: Path) -> None:
        self._folder = folder.resolve()
        self._places: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        """By name: paths in parts, the folder's own name first."""
        seen: set[tuple[int, int]] = set()
        for where, folders, files in os.walk(self._folder, followlinks=True):
            parts, status = (self._folder.name, *Path(where).relative_to(self._folder).parts), os.stat(where)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            if Path(where).resolve() == cache:  # links of ours
                folders.clear()
                continue
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in names.intersection((*folders, *files)):
                self._places[name].append((*parts, name))
        if self._folder.name in names:
            self._places[self._folder.name].append((self._folder.name,))

    def find(self, source: Source, path: str) -> Path | None:
        """What the source's manifest has as `path`. Raises `OfficialError` where two are equally good."""
        wanted = _parts(source, path)
        ranked = sorted((-_agreement(parts, wanted), len(parts), parts) for parts in self._places[wanted[-1]])
        if not ranked:
            return None
        best, *others = [self._folder.joinpath(*parts[1:]) for *rank, parts in ranked if rank == [*ranked[0][:2]]]
        if other := next((each for each in others if not each.samefile(best)), None):
            raise OfficialError(
                f"expected one {path} for {source.dataset}, found {best} and {other}: name a folder that has one of them, or "
                "a manifest with more of its path"
            )
        return best


def _agreement(parts: Sequence[str], wanted: Sequence[str]) -> int:
    """How many parts are the same, from the end."""
    pairs = zip(reversed(parts), reversed(wanted), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
