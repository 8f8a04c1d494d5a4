"""bitgen-download: the files that manifests name, whole and checked, under data/raw; URL lists are crawled.

Stopped at any moment, the same command goes on from there; what is there and right is left alone.
"""

import argparse
import itertools
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitgen.progress import BesideBars, say
from bitgen.remote import shown
from cli.arguments import parse, positive
from cli.sources import check_sources
from pipeline.crawl import CrawlError, crawl, settings_for
from pipeline.crawling.distributors import DISTRIBUTORS
from pipeline.downloading.download import PARALLEL, PER_HOST, DownloadError, download
from pipeline.downloading.room import RoomError, rooms
from pipeline.downloading.trust import TrustError
from pipeline.downloading.wanted import Wanted, contents, is_named, needs, wanted_files
from pipeline.files import BusyError
from pipeline.holdout import SHIPPED, missing_files
from pipeline.locate import is_url
from pipeline.manifest import Manifest, ManifestError, Source, read_manifest
from pipeline.nearest import hint
from pipeline.reading import read
from pipeline.rows import AnnotationError

_SHOWN = 20
"""So many files, and each is named when it is there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong use."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[BesideBars()])
    options = parse(_parser(), sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(options)
    except ManifestError as error:
        return _failed(error, 2)
    except (DownloadError, RoomError, TrustError, BusyError, AnnotationError, CrawlError, OSError) as error:
        return _failed(error, 1)
    except KeyboardInterrupt:
        return _failed("stopped; the same command goes on from here", 1)


def _failed(why: object, code: int) -> int:
    for line in str(why).splitlines():
        print(f"bitgen-download: {line}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    what, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser("bitgen-download", description=what, epilog=more, allow_abbrev=False)
    parser.add_argument(
        "manifests", nargs="+", type=Path, metavar="MANIFEST", help="TOML files, as manifests/coco.toml"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), metavar="FOLDER", help="where raw/ is (default: data)"
    )
    parser.add_argument(
        "--sources",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only what these sources need, as coco vg (default: all)",
    )
    parser.add_argument(
        "--files",
        nargs="+",
        default=[],
        metavar="PATH",
        help="only these files of the manifests: a path, a folder or with *, as dinov2-base; nothing is crawled then",
    )
    parser.add_argument(
        "--parallel",
        type=positive,
        default=PARALLEL,
        metavar="N",
        help=f"files fetched at once, {PER_HOST} of them from one server (default: {PARALLEL})",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print every file, how much is to be fetched and how much room there is; asks no server",
    )
    group = parser.add_argument_group("crawled sources (sbu, cc3m)")
    group.add_argument("--limit", type=positive, metavar="N", help="images of each source at most (default: all)")
    group.add_argument(
        "--retry-failed",
        action="store_true",
        help="ask again for what gave no image, but not for what its owner or we refuse",
    )
    group.add_argument(
        "--distributor",
        choices=tuple(DISTRIBUTORS),
        default="multiprocessing",
        help="what spreads the work: processes of this machine, or a cluster that shares the data folder",
    )
    group.add_argument(
        "--processes",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="at work at once (default: one a core)",
    )
    group.add_argument("--threads", type=positive, metavar="N", help="in each process (default: as the manifest says)")
    group.add_argument(
        "--allow-private",
        type=_address,
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="ask this address though it is not public, for tests on a local server; may be given several times",
    )
    return parser


def _address(value: str) -> str:
    if not re.fullmatch(r"\S+:\d{1,5}", value):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, found {value!r}")
    return value


def _run(options: argparse.Namespace) -> int:
    manifests = [read_manifest(path) for path in options.manifests]
    _check_names(manifests, options)
    files = wanted_files(manifests, options.data, options.sources, options.files)
    missing, left = [each for each in files if not each.is_there], _left(files)
    print(
        f"{len(files) - len(missing)} of {len(files)} files are there; to get: {left.count}, {left.size / 1e6:,.1f} MB"
        f"{f' and {left.unknown} of unknown size' if left.unknown else ''}",
        file=sys.stderr,
    )
    wanted = [s for m in manifests for s in m.sources if not options.sources or s.name in options.sources]
    crawled = [source for source in wanted if source.crawl and not options.files]
    raw = options.data / "raw"
    if options.dry_run:
        _print_plan(files, left, crawled, options)
        _print_lacking(manifests, wanted, raw)
        return 0
    there, failed = len(files) - len(missing), None
    try:
        for done in download(files, options.data, options.parallel):
            there += 1
            if len(missing) <= _SHOWN:
                say(f"{done.name} is there")
    except DownloadError as error:
        failed = error
    for source in wanted:  # one may have all its files from other families: "../refcoco/..." starts in its own folder
        (raw / source.manifest).mkdir(parents=True, exist_ok=True)
    for source in crawled:
        if lacking := [path for path in source.annotations if not (raw / source.manifest / path).exists()]:
            say(f"{source.dataset}: expected {lacking[0]} to crawl by, found none")
        else:
            _crawl(source, raw, options)
    amount = f"{there} of {len(files)}" if failed else str(there)
    print(f"{amount} files of {', '.join(m.name for m in manifests)} are in {raw}")
    _print_lacking(manifests, wanted, raw)
    if failed:
        raise failed
    if following := _next(manifests, files, options):
        print(f"next: {following}")
    return 0


def _check_names(manifests: Sequence[Manifest], options: argparse.Namespace) -> None:
    """Raises `ManifestError` for a source or file that nobody knows; what other shipped manifests know is named.

    `make download-coarse download-fine SOURCES="coco refcoco"` gives both commands both names.
    """
    own = {source.name for manifest in manifests for source in manifest.sources}
    others: dict[str, Path] = {}
    if all(path.resolve().parent == SHIPPED.parent.resolve() for path in options.manifests):
        for path in sorted(SHIPPED.parent.glob("*.toml")):
            others |= {source.name: path for source in read_manifest(path).sources if source.name not in own}
    check_sources(manifests, [name for name in options.sources if name not in others])
    for name in options.sources:
        if name in others:
            say(f"{name} is of manifests/{others[name].name}: not among the manifests of this command")
    known = [file for manifest in manifests for file in manifest.files]
    for pattern in options.files:
        if not any(is_named(file, pattern) for file in known):
            near = hint(pattern, [file.path for file in known])
            raise ManifestError(f"expected files of {', '.join(map(str, options.manifests))}, found {pattern!r}{near}")


@dataclass(frozen=True)
class _Left:
    """What is still to be fetched: files of the same bytes once."""

    count: int
    size: int
    """Bytes that have not arrived, of the files whose size is known."""
    unknown: int
    """Files of unknown size."""


def _left(files: Sequence[Wanted]) -> _Left:
    keys = contents(files)
    having = {key for key, each in zip(keys, files, strict=True) if each.is_fetched}
    pairs = [(k, each) for k, each in zip(keys, files, strict=True) if not each.is_there and k not in having]
    missing = dict(reversed(pairs)).values()  # the first of each content
    size = sum(each.size_bytes - each.arrived for each in missing if each.size_bytes)
    return _Left(len(missing), size, sum(not each.size_bytes for each in missing))


def _print_plan(files: Sequence[Wanted], left: _Left, crawled: Sequence[Source], options: argparse.Namespace) -> None:
    """What a run would do, without asking a server."""
    first: dict[str, Wanted] = {}
    for key, each in zip(contents(files), files, strict=True):
        print(_line(each, first.setdefault(key, each)))
    for source in crawled:
        images = f"up to {options.limit:,} images" if options.limit else "the images"
        folder = options.data / "raw" / source.manifest / source.images[0]
        print(f"{source.dataset}: {images} of {source.annotations[0]} are crawled into {folder}")
    print(f"to get: {left.count} files, {left.size:,} bytes and {left.unknown} of unknown size")
    least = "at least " if left.unknown else ""
    for room in rooms([(options.data, 0), *needs(files)]):
        print(f"room: {least}{room.needed:,} bytes needed with what is unpacked, {room.free:,} free: {room.place}")


def _line(wanted: Wanted, first: Wanted) -> str:
    """How it stands with `wanted`; `first` is the first file of the same bytes, perhaps itself."""
    size = f"{wanted.size_bytes:,} bytes" if wanted.size_bytes else "unknown size"
    if wanted.is_there:
        return f"{wanted.name}: {size}, there"
    if wanted.is_fetched:
        return f"{wanted.name}: {size}, there, to be checked{' and unpacked' if wanted.file.unpack else ''}"
    part = f", {wanted.arrived:,} of them there" if wanted.arrived else ""
    if not wanted.file.urls:
        return f"{wanted.name}: {size}, not there, only a person can get it: {wanted.instructions}"
    return f"{wanted.name}: {size}{part or ', not there'}, from {shown(wanted.file.urls[0]) if first is wanted else first.name}"


def _print_lacking(manifests: Sequence[Manifest], wanted: Sequence[Source], raw: Path) -> None:
    """What the sources need of families whose manifest was not given."""
    own, top = {manifest.name for manifest in manifests}, os.path.normpath(raw)
    lacking = {path for source in wanted for path in missing_files(source, raw)}
    for path in sorted(path for path in lacking if path.relative_to(top).parts[0] not in own):
        print(f"still missing, of another manifest: {path}")


def _next(manifests: Sequence[Manifest], files: Sequence[Wanted], options: argparse.Namespace) -> str:
    """What to run next: sources become shards, weights are trained from; empty where there is neither."""
    paths = [str(path) for path, manifest in zip(options.manifests, manifests, strict=True) if manifest.sources]
    own = {source.name for manifest in manifests for source in manifest.sources}
    names = [name for name in options.sources if name in own]
    if paths and (names or not options.sources):
        sources = f" --sources {' '.join(names)}" if names else ""
        return f"bitgen-shards {' '.join(paths)} --data {options.data}{sources}"
    weights = [Path(each.name).parent for each in files if each.name.endswith(".safetensors")]
    return f"bitgen-train --phase coarse --model.vision.model {options.data / 'raw' / weights[0]}" if weights else ""


def _crawl(source: Source, raw: Path, options: argparse.Namespace) -> None:
    folder = raw / source.manifest / source.images[0]
    candidates = itertools.islice(read(source, raw), options.limit)
    say(f"{source.dataset}: crawling into {folder}")
    settings = settings_for(
        source,
        processes=options.processes,
        threads=options.threads,
        distributor=options.distributor,
        private=options.allow_private,
    )
    counts = crawl((c.image for c in candidates if is_url(c.image)), folder, settings, options.retry_failed)
    print(f"{source.dataset}: " + ", ".join(f"{outcome} {n:,}" for outcome, n in counts.most_common()))


if __name__ == "__main__":
    sys.exit(main())
