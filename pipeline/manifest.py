"""A manifest: which files to fetch, and which sources they make. One TOML per dataset family.

name = "coco"                     # files go to raw/coco
licence = "CC BY 4.0"             # of what states none of its own

[holdout]
lists = ["holdout/mine.txt"]      # more evaluation ids, one `coco:391895` a line; relative to the manifest

[crawl]                           # where a source is crawled: the fields of `pipeline.crawling.manners.Crawling`
user_agent = "bitgen/0.1 (+https://example.org/crawler)"

[[file]]                          # the fields of `File`
path = "annotations.zip"
urls = ["http://images.cocodataset.org/annotations/annotations_trainval2017.zip"]

[[source]]                        # the fields of `Source`
name = "coco"
phase = "coarse"
"""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, get_type_hints

from pipeline.crawling.manners import Crawling
from pipeline.nearest import hint

_NAME = re.compile(r"[a-z0-9][a-z0-9_+.-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
Table = TypeVar("Table")
Option = str | int | float | bool


class ManifestError(ValueError):
    """A manifest is not what this module's docstring says: names the file, the table and the field."""


@dataclass(frozen=True)
class File:
    """One file to fetch, or a local folder to copy. Raises `ValueError` for a field that cannot be right."""

    path: str
    """Where it goes, under `raw/<manifest>`."""
    urls: tuple[str, ...] = ()
    """Mirrors, tried in order: http(s), any other URL that fsspec opens (`s3://`, `gs://`, `hf://`, `file:`), or a path
    relative to the manifest. A local folder is copied whole."""
    bytes: int = 0
    """Size of the file; 0: not known."""
    sha256: str = ""
    """Hexadecimal; empty: the first complete download is recorded and later ones are held to it."""
    unpack: bool = False
    """A zip, tar or tar.gz to unpack, into `folder`."""
    folder: str = "."
    """Where an archive's members go, under `raw/<manifest>`."""
    holds: tuple[str, ...] = ()
    """Files and folders at the top of an archive, so that another family's source finds it; empty: not known."""
    sources: tuple[str, ...] = ()
    """Names of the sources that need this file; empty: all of this manifest's."""
    licence: str = ""
    """Of this file; empty: the manifest's."""
    manual: str = ""
    """What a person has to do to get it, where no URL serves it to a program."""

    def __post_init__(self) -> None:
        _check_inside(self.path, "path", parents=0)
        if not PurePosixPath(self.path).parts:
            raise ValueError(f"expected the path of a file, found {self.path!r}")
        _check_inside(self.folder, "folder", parents=0)
        for path in self.holds:
            _check_inside(path, "holds", parents=0)
        if not self.urls and not self.manual:
            raise ValueError("expected urls, or manual instructions, found neither")
        from fsspec import available_protocols  # 50 ms that workers, which see no files, do not spend

        for url in self.urls:
            scheme = re.match(r"([a-z][a-z0-9+.-]*):", url, re.IGNORECASE)
            if scheme and scheme[1].lower() not in available_protocols():
                raise ValueError(
                    f"expected urls of http, https or what fsspec opens, or a relative path, found {url!r}"
                )
        if self.bytes < 0:
            raise ValueError(f"expected bytes of 0 or more, found {self.bytes}")
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"expected sha256 of 64 hexadecimal digits in lower case, found {self.sha256!r}")

    def makes(self, path: str) -> bool:
        """Whether this file, fetched and unpacked, may put something at or under `path`, relative to `raw/<manifest>`.

        An archive that does not say what it holds may put anything under its `folder`.
        """
        wanted, folder = PurePosixPath(path), PurePosixPath(self.folder)
        made = [folder / each for each in self.holds or (".",)] if self.unpack else [PurePosixPath(self.path)]
        return any(wanted.is_relative_to(each) or each.is_relative_to(wanted) for each in made)


@dataclass(frozen=True)
class Source:
    """One set of images with texts, in one split. Raises `ValueError` for a field that cannot be right.

    Paths are relative to `raw/<manifest>`; `../<other manifest>/...` reaches another family's files.
    """

    name: str
    phase: str
    """`coarse` or `fine`."""
    role: str
    """`train`, or `eval`: never trained on, from whatever source. A validation split is `eval`."""
    split: str
    reader: str
    """A key of `pipeline.annotations.READERS`."""
    annotations: tuple[str, ...]
    images: tuple[str, ...]
    """Image roots, searched in order; of a crawled source the folder that the crawl fills."""
    samples_per_shard: int = 3000
    """Images of the annotation files to a shard, before any is refused: about 256 MB."""
    refusal_ceiling: float = 0.01
    """Share of the rows that may be refused before the build stops, 0..1."""
    orientation: str = ""
    """`ignore` the EXIF orientation, as annotated boxes do, or `apply` it to the stored pixels; empty: `apply` where
    the images are crawled."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """For the reader."""
    needs: tuple[str, ...] = ()
    """Files without which the hold-out rule cannot be kept."""
    crawl: bool = False
    """Its images are URLs, which `bitgen-download` crawls into the first of `images`."""
    crawling: Crawling = field(default_factory=Crawling)
    """The manifest's `[crawl]` table; filled in by `read_manifest`."""
    published: Mapping[str, Option] = field(default_factory=dict)
    """Counts of the dataset's authors that the whole source has to give: of `images`, of `rows`."""
    ids_in: tuple[str, ...] = ()
    """Those of `annotations` that say under which ids its images are known; empty: all."""
    links: bool = True
    """Its rows may know one photograph under several ids, so the hold-out rule reads them whatever is built."""
    licence: str = ""
    """Of the images; empty: the manifest's."""
    manifest: str = ""
    """Name of the manifest it stands in; filled in by `read_manifest`."""

    def __post_init__(self) -> None:
        for what, value in (("name", self.name), ("split", self.split)):
            if not _NAME.fullmatch(value):
                raise ValueError(f"expected a {what} of a-z 0-9 _ + . -, found {value!r}")
        _check_one_of("phase", self.phase, ("coarse", "fine"))
        _check_one_of("role", self.role, ("train", "eval"))
        if not self.orientation:
            object.__setattr__(self, "orientation", "apply" if self.crawl else "ignore")
        _check_one_of("orientation", self.orientation, ("ignore", "apply"))
        for what, paths in (
            ("annotations", self.annotations),
            ("images", self.images),
            ("needs", self.needs),
            ("ids_in", self.ids_in),
        ):
            for path in paths:
                _check_inside(path, what, parents=1)
        if not set(self.ids_in) <= set(self.annotations):
            raise ValueError(f"expected ids_in among the annotations, found {', '.join(self.ids_in)}")
        if not self.annotations or not self.images:
            raise ValueError("expected one or more annotations and images, found none")
        if self.samples_per_shard < 1:
            raise ValueError(f"expected samples_per_shard of 1 or more, found {self.samples_per_shard}")
        for what, count in self.published.items():
            _check_one_of("published", what, ("images", "rows"))
            if type(count) is not int or count < 1:
                raise ValueError(f"expected published {what} of 1 or more, found {count!r}")
        if not 0 <= self.refusal_ceiling <= 1:
            raise ValueError(f"expected refusal_ceiling in 0..1, found {self.refusal_ceiling}")

    @property
    def what(self) -> dict[str, Any]:
        """The fields that what is built depends on; how politely its images were asked for is none of them."""
        return {name: value for name, value in asdict(self).items() if name != "crawling"}

    @property
    def dataset(self) -> str:
        """Folder of its shards under `shards/`: `coarse/coco-train`, `eval/coco-val`."""
        return f"{self.phase if self.role == 'train' else 'eval'}/{self.name}-{self.split}"


@dataclass(frozen=True)
class Manifest:
    """One TOML file, checked."""

    name: str
    licence: str
    path: Path
    files: tuple[File, ...]
    sources: tuple[Source, ...]
    holdout_lists: tuple[Path, ...]
    """Further lists of evaluation ids, resolved."""


def read_manifest(path: Path) -> Manifest:
    """The manifest at `path`. Raises `ManifestError` naming file, table and field."""
    try:
        top = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"expected a manifest, found {error.strerror or error}: {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"expected TOML, found {error}: {path}") from error
    where = str(path)
    _check_known(top, ("name", "licence", "file", "source", "holdout", "crawl"), where)
    name, licence = (_value(top.get(key, ""), str, f"{where}: {key}") for key in ("name", "licence"))
    if not _NAME.fullmatch(name):
        raise ManifestError(f"expected a name of a-z 0-9 _ + . -, found {name!r}: {where}")
    if not licence:
        raise ManifestError(f"expected a licence, found none: {where}")
    files = tuple(_table(File, t, f"{where}: [[file]] {i}", {}) for i, t in enumerate(_tables(top, "file", where), 1))
    crawling = _value(top.get("crawl", {}), dict, f"{where}: [crawl]")
    own = {"manifest": name, "crawling": _table(Crawling, crawling, f"{where}: [crawl]", {"private": ()})}
    sources = tuple(
        _table(Source, {"licence": licence} | t, f"{where}: [[source]] {i}", own)
        for i, t in enumerate(_tables(top, "source", where), 1)
    )
    _check_distinct([f.path for f in files], "file paths", where)
    _check_distinct([s.dataset for s in sources], "sources (name and split)", where)
    named = {s.name for s in sources}
    for file in files:
        for wanted in sorted(set(file.sources) - named):
            raise ManifestError(
                f"expected names of sources, found {wanted!r}{hint(wanted, named)}: {where}: file {file.path}"
            )
    holdout = _value(top.get("holdout", {}), dict, f"{where}: [holdout]")
    _check_known(holdout, ("lists",), f"{where}: [holdout]")
    lists = _value(holdout.get("lists", ()), tuple[str, ...], f"{where}: [holdout]: lists")
    return Manifest(name, licence, path, files, sources, tuple(path.parent / each for each in lists))


def _tables(top: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    found = top.get(key, [])
    if not isinstance(found, list) or not all(isinstance(t, dict) for t in found):
        raise ManifestError(f"expected tables [[{key}]], found {type(found).__name__}: {where}")
    return found


def _table(kind: type[Table], table: Mapping[str, Any], where: str, own: Mapping[str, Any]) -> Table:
    """A `File`, `Source` or `Crawling` from its TOML table, and from `own`: fields that a manifest does not write."""
    hints = get_type_hints(kind)
    declared = [f for f in fields(kind) if f.name not in own]  # type: ignore[arg-type] (all kinds are dataclasses)
    _check_known(table, [f.name for f in declared], where)
    for each in declared:
        if each.default is MISSING and each.default_factory is MISSING and each.name not in table:
            raise ManifestError(f"expected a field {each.name!r}, found none: {where}")
    values = {key: _value(value, hints[key], f"{where}: {key}") for key, value in table.items()}
    try:
        return kind(**values, **own)
    except ValueError as error:
        raise ManifestError(f"{error}: {where}") from error


def _value(value: Any, hint: Any, where: str) -> Any:
    """`value` as the field's type; an int is good for a float, a list of strings becomes a tuple."""
    if hint == tuple[str, ...]:
        if isinstance(value, list | tuple) and all(isinstance(v, str) and v for v in value):
            return tuple(value)
        raise ManifestError(f"expected a list of strings, found {value!r}: {where}")
    if hint == Mapping[str, Option]:
        if isinstance(value, dict) and all(isinstance(v, Option) for v in value.values()):
            return value
        raise ManifestError(f"expected a table of strings, numbers and booleans, found {value!r}: {where}")
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ManifestError(f"expected {hint.__name__}, found {value!r}: {where}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ManifestError(f"expected a finite number, found {value!r}: {where}")
    return value


def _check_known(table: Mapping[str, Any], known: list[str] | tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise ManifestError(f"expected one of {', '.join(known)}, found {key!r}{hint(key, known)}: {where}")


def _check_one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"expected {what} of {' or '.join(allowed)}, found {value!r}{hint(value, allowed)}")


def _check_distinct(names: list[str], what: str, where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ManifestError(f"expected distinct {what}, found {name!r} twice: {where}")


def _check_inside(path: str, what: str, parents: int) -> None:
    """Refuses a path that leaves its folder: absolute, or with `..` beyond the first `parents` parts."""
    parts = PurePosixPath(path).parts
    if not path or "\\" in path or "\0" in path or PurePosixPath(path).is_absolute() or ".." in parts[parents:]:
        raise ValueError(f"expected {what} relative to raw/<manifest> and within it, found {path!r}")
    if parts[:1] == ("..",) and len(parts) == 1:
        raise ValueError(f"expected {what} within a manifest's folder, found {path!r}")
