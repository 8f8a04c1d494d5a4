"""The evaluation images, by every id one is known under, by their bytes and by their look; never trained on.

Blocked is what the lists in `manifests/holdout/` and in the manifests name, every image of every source with
`role = "eval"`, and whatever a source knows as the same photograph under another id (COCO, Visual Genome, Flickr).
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.files import write_text
from pipeline.manifest import Manifest, Source

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[1] / "manifests" / "holdout"

_VAL2017 = re.compile(r"(?:^|/)val2017/0{6}\d{6}\.jpg(?:$|[?#])")
_TRAIN2017 = re.compile(r"(?:^|/)train2017/0{6}\d{6}\.jpg(?:$|[?#])")

_LISTS = {
    "coco": ("COCO val2017", "coco", ("annotations/captions_val2017.json",)),
    "flickr": (
        "Flickr30k val and test",
        "flickr30k",
        ("dataset_flickr30k.json", "flickr30k_entities/val.txt", "flickr30k_entities/test.txt"),
    ),
    "vg": ("COCO's, by their ids in Visual Genome", "visual_genome", ("image_data.json",)),
}
"""By kind of id: evaluation sets whose ids do not ship, the manifest that brings them, and its files."""

_ID = re.compile(r"(coco|vg|flickr):[1-9][0-9]*|(?!coco:|vg:|flickr:)[a-z0-9_-]+:\S+")

_NOT_COCOS = re.compile(r"coco:[0-9]{7,}")
"""Ids of a set in COCO's layout: those of COCO's own photographs have six digits at most."""

LOOK_PX = 128
"""Sides of the grey image that a look is taken of, at least."""
# On 1,307 photographs of COCO and Flickr30k no two looks are nearer than 6 bits (853,471 pairs); of the same photographs
# at a third of the size and JPEG quality 60, 97% stay within 3 (95% where 64 pixels are enough).
LOOK_DISTANCE = 3
"""Bits of 64 in which two looks may differ and still be of one photograph."""
FLAT_BITS = 8
"""A look with fewer bits set, or fewer clear, is of a flat image and says nothing."""
_BANDS = LOOK_DISTANCE + 1  # looks within that distance agree in one of so many bands of 16 bits
_BAND_BITS = 64 // _BANDS


Ids = tuple[str, ...]
"""All that one image is known under."""


class HoldoutError(Exception):
    """What the rule needs is not there, or cannot be read; nothing is guessed."""


@dataclass(frozen=True)
class BlockList:
    """Ids of all evaluation images."""

    ids: frozenset[str]

    @property
    def sha256(self) -> str:
        """Of the sorted ids, one a line."""
        return hashlib.sha256(_lines(self).encode()).hexdigest()

    def blocking(self, ids: Iterable[str]) -> str | None:
        """The first of `ids` that is blocked, None where none is."""
        return next((i for i in ids if i in self.ids), None)


def block_list(
    manifests: Sequence[Manifest], raw: Path, ids_of: Callable[[Source], Iterable[Ids]], shipped: Path = SHIPPED
) -> BlockList:
    """The block list of a build under `manifests`, from the annotations under `raw`.

    It does not depend on which of their sources are built. Sources to train on that are not downloaded are passed over:
    what the rule needs of them, another source that is built names in its `needs`. `ids_of` gives the ids of every
    image of a source. Raises `HoldoutError` naming what is missing, and what `ids_of` raises.
    """
    lists = sorted(shipped.glob("*.txt"))
    if not lists:
        raise HoldoutError(f"expected lists of evaluation images, found none: {shipped}")
    blocked = {i for path in (*lists, *(p for m in manifests for p in m.holdout_lists)) for i in read_ids(path)}
    linked: set[Ids] = set()
    for source in (s for m in manifests for s in m.sources if s.role == "eval" or s.links):
        if source.role == "eval":
            check_files(source, manifests, raw)
        elif not all((raw / source.manifest / path).exists() for path in ids_in(source)):
            log.info("%s is not downloaded: its ids are not in the hold-out rule", source.dataset)
            continue
        for ids in ids_of(source):
            _checked(ids, f"an image of {source.dataset}")
            if source.role == "eval":
                blocked.update(ids)
            if len(ids) > 1:
                linked.add(ids)
    return BlockList(frozenset(_closed(blocked, linked)))


def keep_list(blocked: BlockList, shards: Path) -> BlockList:
    """`blocked`, written down under its hash in `shards`: datasets and checkpoints know it by that alone."""
    if not (path := kept_in(shards, blocked.sha256)).exists():
        write_text(path, _lines(blocked))
    return blocked


def kept_in(shards: Path, sha256: str) -> Path:
    """Where `keep_list` writes the list of that hash."""
    return shards / "holdout" / f"{sha256}.txt"


def find_list(sha256: str, files: Iterable[Path], shipped: Path = SHIPPED) -> BlockList | None:
    """The block list of that hash: of one of `files`, which `keep_list` or `copy_list` wrote, or all lists that ship; None
    where none is, and a file that is another list by now is none. Raises `HoldoutError` and `OSError`."""
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
    found = [BlockList(frozenset(text.split("\n")[:-1])) for text in texts]
    found.append(BlockList(frozenset(i for path in shipped.glob("*.txt") for i in read_ids(path))))
    return next((each for each in found if each.sha256 == sha256), None)


def copy_list(sha256: str, shards: Path | None, path: Path) -> None:
    """Writes the list of that hash to `path`, where builds in `shards` kept it or it is what ships."""
    if (found := find_list(sha256, [kept_in(shards, sha256)] if shards else [])) is not None:
        write_text(path, _lines(found))


def _lines(blocked: BlockList) -> str:
    return "".join(f"{i}\n" for i in sorted(blocked.ids))


def ids_in(source: Source) -> tuple[str, ...]:
    """The annotations of `source` that its ids are read from."""
    return source.ids_in or source.annotations


def missing_files(source: Source, raw: Path) -> list[Path]:
    """Annotations and needs of `source` that are not on disk."""
    paths = (raw / source.manifest / each for each in (*source.annotations, *source.needs))
    return [Path(os.path.normpath(path)) for path in paths if not path.exists()]


def check_files(source: Source, manifests: Sequence[Manifest], raw: Path) -> None:
    """Raises `HoldoutError` naming the first file that `source` needs and that is not on disk, and what brings it."""
    for path in missing_files(source, raw):
        family, *rest = path.relative_to(os.path.normpath(raw)).parts
        said = f"expected {path} for {source.dataset}, found none"
        if known := [manifest for manifest in manifests if manifest.name == family]:
            makers = [m.path for m in known if any(file.makes("/".join(rest)) for file in m.files)]
        else:
            makers = [SHIPPED.parent / f"{family}.toml"]
        there = [f"manifests/{p.name}" if p.parent == SHIPPED.parent else str(p) for p in makers if p.exists()]
        raise HoldoutError(f"{said}: bitgen-download {there[0]}" if there else said)


def is_val2017(places: Iterable[str]) -> bool:
    """Whether a URL or path of an image says that it is a photograph of COCO val2017, whose ids do not ship."""
    return any(_VAL2017.search(place) for place in places)


def open_kinds(ids: Iterable[str], places: Iterable[str]) -> set[str]:
    """Kinds of `ids` whose evaluation lists may be missing; none where a URL or path says COCO train2017."""
    if any(_TRAIN2017.search(place) for place in places):
        return set()
    return _LISTS.keys() & {id.partition(":")[0] for id in ids if not _NOT_COCOS.fullmatch(id)}


def missing_lists(kinds: Iterable[str], raw: Path) -> list[str]:
    """Evaluation sets that ids of these kinds may belong to and whose ids are not known, with where they come from."""
    wanted = [_LISTS[kind] for kind in sorted(kinds)]
    return [
        f"{name} (manifests/{family}.toml)"
        for name, family, paths in wanted
        if not all((raw / family / path).exists() for path in paths)
    ]


def read_ids(path: Path) -> list[str]:
    """The ids in a list: one a line, `#` begins a comment. Raises `HoldoutError` naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HoldoutError(f"expected a list of evaluation images, found {error}: {path}") from error
    ids: list[str] = []
    for number, line in enumerate(lines, 1):
        if found := line.partition("#")[0].strip():
            ids.extend(_checked((found,), f"{path}, line {number}"))
    return ids


def _checked(ids: Ids, where: str) -> Ids:
    # An id that stands for "not known", as -1 or 0, would link photographs that have nothing to do with each other.
    for each in ids:
        if not _ID.fullmatch(each):
            raise HoldoutError(f"expected an id as coco:391895, found {each!r}: {where}")
    return ids


def _closed(blocked: set[str], linked: set[Ids]) -> set[str]:
    """`blocked` and every id that links lead to from it."""
    closed = set(blocked)
    while more := {i for ids in linked if not closed.isdisjoint(ids) for i in ids} - closed:
        closed |= more
    return closed


def look_of(image: Image.Image) -> int:
    """A 64-bit difference hash: equal, or nearly so, for one photograph at other sizes and qualities.

    The image, in grey and with sides of `LOOK_PX` or more, at 9x8 pixels; a bit per pixel that is darker than its right
    neighbour, row by row, the first the highest.
    Source: hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html
    """
    grey = np.asarray(image.resize((9, 8), Image.Resampling.BILINEAR))
    return int.from_bytes(np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes(), "big")


class Looks:
    """Evaluation images as they are, to be compared with what would be trained on."""

    def __init__(self) -> None:
        self._bytes: dict[str, str] = {}
        self._seen: set[tuple[str, int]] = set()
        self._bands: tuple[dict[int, list[tuple[int, str]]], ...] = tuple({} for _ in range(_BANDS))
        self._firsts: set[int] = set()
        self._in_band = np.zeros((_BANDS, 1 << _BAND_BITS), bool)

    def add(self, sha256: str, look: int, name: str) -> None:
        """An evaluation image, called `name` in reports."""
        self._bytes.setdefault(sha256, name)
        self._seen.add((sha256, look))
        self._firsts.add(int(sha256[:16], 16))
        if not _is_flat(look):
            for number, value in enumerate(_split(look)):
                self._bands[number].setdefault(value, []).append((look, name))
                self._in_band[number, value] = True

    def may_match(self, firsts: NDArray[np.uint64], looks: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """[N]: false where `match` finds nothing, for many images at once: of each the first 8 bytes of its digest, as
        a number, and its look."""
        found = np.isin(firsts, np.fromiter(self._firsts, np.uint64))
        for number, values in enumerate(self._in_band):
            found |= values[(looks >> np.uint64(_BAND_BITS * number)) & np.uint64((1 << _BAND_BITS) - 1)]
        return found

    def match(self, sha256: str, look: int) -> str | None:
        """Which evaluation image this is, and how one can tell; None where it is none."""
        return self.equal(sha256) or self.alike(look)

    def equal(self, sha256: str) -> str | None:
        """The evaluation image of the same bytes."""
        name = self._bytes.get(sha256)
        return f"same bytes as {name}" if name else None

    def alike(self, look: int) -> str | None:
        """An evaluation image that looks the same, or nearly so."""
        for band, value in zip(self._bands, _split(look), strict=True) if not _is_flat(look) else ():
            for other, name in band.get(value, ()):
                if (look ^ other).bit_count() <= LOOK_DISTANCE:
                    return f"looks like {name}"
        return None

    @property
    def sha256(self) -> str:
        """Of the sorted digests and looks of the images, a pair a line."""
        return hashlib.sha256("".join(f"{s} {look:016x}\n" for s, look in sorted(self._seen)).encode()).hexdigest()


def _is_flat(look: int) -> bool:
    return not FLAT_BITS <= look.bit_count() <= 64 - FLAT_BITS


def _split(look: int) -> list[int]:
    return [look >> (_BAND_BITS * i) & ((1 << _BAND_BITS) - 1) for i in range(_BANDS)]
