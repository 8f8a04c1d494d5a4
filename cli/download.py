"""bitgen-download: the files that manifests name, whole and checked, under data/raw; URL lists are crawled."""

import argparse
import itertools
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cli.arguments import check_sources, parse, positive
from pipeline.build import BuildError, read
from pipeline.crawl import CrawlError, CrawlSettings, crawl
from pipeline.download import Wanted, download, wanted_files
from pipeline.fetch import FetchError
from pipeline.files import BusyError
from pipeline.holdout import missing_files
from pipeline.locate import is_url
from pipeline.manifest import Manifest, ManifestError, Source, read_manifest
from pipeline.rows import AnnotationError
from pipeline.unpack import UnpackError


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong use."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = parse(_parser(), sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(options)
    except ManifestError as error:
        print(f"bitgen-download: {error}", file=sys.stderr)
        return 2
    except (FetchError, UnpackError, BusyError, AnnotationError, BuildError, CrawlError, OSError) as error:
        print(f"bitgen-download: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bitgen-download: stopped; the same command goes on from here", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bitgen-download", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "manifests", nargs="+", type=Path, metavar="MANIFEST", help="TOML files, as manifests/coco.toml"
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="where raw/ is (default: data)")
    parser.add_argument("--sources", nargs="+", default=[], metavar="NAME", help="only what these sources need")
    parser.add_argument("--limit", type=positive, help="images of each crawled source at most")
    parser.add_argument(
        "--processes", type=positive, default=os.cpu_count() or 1, help="of a crawl (default: one a core)"
    )
    parser.add_argument("--retry-failed", action="store_true", help="crawl again what gave no image")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and end")
    return parser


def _run(options: argparse.Namespace) -> int:
    manifests, names = [read_manifest(path) for path in options.manifests], options.sources
    check_sources(manifests, names)
    files = wanted_files(manifests, options.data, names)
    missing = [each for each in files if not each.is_there]
    size = sum(each.expected.size_bytes for each in missing)
    unknown = sum(not each.expected.size_bytes for each in missing)
    print(
        f"{len(files) - len(missing)} of {len(files)} files are there;"
        f" to get: {len(missing)}, {size / 1e6:,.1f} MB{f' and {unknown} of unknown size' if unknown else ''}",
        file=sys.stderr,
    )
    if options.dry_run:
        for each in missing:
            print(_line(each))
        return 0
    for done in download(missing, options.data):
        if len(missing) <= 20:
            print(f"{done.name} is there", file=sys.stderr)
    raw = options.data / "raw"
    for source in (s for m in manifests for s in m.sources if s.crawl and (not names or s.name in names)):
        _crawl(source, raw, options)
    print(f"{len(files)} files of {', '.join(m.name for m in manifests)} are in {raw}")
    wanted = [s for m in manifests for s in m.sources if not names or s.name in names]
    own = {manifest.name for manifest in manifests}
    lacking = {
        p for s in wanted for p in missing_files(s, raw) if p.relative_to(os.path.normpath(raw)).parts[0] not in own
    }
    for path in sorted(lacking):
        print(f"still missing, of another manifest: {path}", file=sys.stderr)
    if following := _next(manifests, files, options):
        print(f"next: {following}")
    return 0


def _next(manifests: Sequence[Manifest], files: Sequence[Wanted], options: argparse.Namespace) -> str:
    """What to run next: sources become shards, weights are trained from; empty where there is neither."""
    paths = [str(path) for path, manifest in zip(options.manifests, manifests, strict=True) if manifest.sources]
    if paths:
        return f"bitgen-shards {' '.join(paths)} --data {options.data}"
    weights = [Path(each.name).parent for each in files if each.name.endswith(".safetensors")]
    return f"bitgen-train --phase coarse --model.vision.model {options.data / 'raw' / weights[0]}" if weights else ""


def _crawl(source: Source, raw: Path, options: argparse.Namespace) -> None:
    folder = raw / source.manifest / source.images[0]
    candidates = itertools.islice(read(source, raw), options.limit)
    print(f"{source.dataset}: crawling into {folder}", file=sys.stderr)
    settings = CrawlSettings(processes=options.processes)
    counts = crawl((c.image for c in candidates if is_url(c.image)), folder, settings, options.retry_failed)
    print(f"{source.dataset}: " + ", ".join(f"{outcome} {n:,}" for outcome, n in counts.most_common()))


def _line(wanted: Wanted) -> str:
    size = f"{wanted.expected.size_bytes:,} bytes" if wanted.expected.size_bytes else "unknown size"
    return f"{wanted.name}: {size} from {wanted.file.urls[0] if wanted.file.urls else wanted.file.manual}"


if __name__ == "__main__":
    sys.exit(main())
