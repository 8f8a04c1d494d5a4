"""bitgen-predict MODEL image...: captions, boxes, matches and names by an exported model, without torch."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from bitgen.deploy import memory
from bitgen.deploy.drawing import annotated
from bitgen.deploy.gallery import SUFFIXES, kept_at, search
from bitgen.deploy.memory import Memory, MemoryFileError
from bitgen.deploy.packed import PackedError
from bitgen.deploy.runtime import Grounding, PictureError, Runtime, Seen
from bitgen.tokens import MAX_TOKENS
from cli.arguments import parse, positive

log = logging.getLogger(__name__)

DESCRIPTION = """What a model that bitgen-export --format onnx wrote says of images, as JSON. Needs onnxruntime, numpy, pillow and
tokenizers alone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, also for one image alone, 2 wrong use."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = _parser()
    options = parse(parser, sys.argv[1:] if arguments is None else arguments)
    if wrong := _wrong(options):
        parser.error(wrong)
    try:
        found = predict(options)
        print(_printable(found))
        return int(any("error" in each for each in found.get("images", [])))
    except (PackedError, PictureError, MemoryFileError, OSError) as error:
        print(f"bitgen-predict: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"bitgen-predict: {error}; pip install onnxruntime numpy pillow tokenizers", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bitgen-predict: stopped", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bitgen-predict", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("model", type=Path, metavar="MODEL", help="the folder that bitgen-export --format onnx wrote")
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="JPEG, PNG or WebP files")
    parser.add_argument("--caption", action="store_true", help="a sentence about each image")
    parser.add_argument(
        "--caption-tokens", type=positive, default=24, metavar="N", help=f"at most (default: 24; up to {MAX_TOKENS})"
    )
    parser.add_argument("--ground", nargs="+", default=[], metavar="PHRASE", help="where each of these is: a box")
    parser.add_argument(
        "--heat",
        action="store_true",
        help="with --ground: also the heat-map, as heat: {grid: [rows, columns], rows: the probability of each patch of the "
        "picture, from its top left, to 3 digits}",
    )
    parser.add_argument(
        "--match",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="how well each of these fits the image: the matching head's probability, which the "
        "fine phase does not train, and the cosine of the two",
    )
    parser.add_argument("--recall", action="store_true", help="which of the remembered names fit the image")
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="images to search, at any depth, with --query")
    parser.add_argument("--query", nargs="+", default=[], metavar="TEXT", help="what to search them for")
    parser.add_argument("--top", type=positive, default=5, metavar="N", help="images a query (default: 5)")
    parser.add_argument(
        "--remember", nargs=2, action="append", default=[], metavar=("IMAGE", "NAME"), help="learn a name at once"
    )
    parser.add_argument("--forget", action="append", default=[], metavar="NAME", help="as if it had never been learned")
    parser.add_argument(
        "--memory", type=Path, metavar="FILE", help="where names are kept (default: memory.json in MODEL)"
    )
    parser.add_argument(
        "--draw",
        type=Path,
        metavar="FOLDER",
        help="write each image there as PNG, with its boxes and caption; another folder than the images'",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="default: one a core")
    return parser


def _wrong(options: argparse.Namespace) -> str:
    """What cannot be meant by these options together; empty where all can."""
    if (options.index is None) != (not options.query):
        return "expected --index FOLDER and --query TEXT together, found one of them"
    if not (options.images or options.index or options.remember or options.forget):
        return "expected images, --index, --remember or --forget, found none of them"
    if options.heat and not options.ground:
        return "expected --ground PHRASE with --heat, found none"
    if options.draw is not None and not (options.ground or options.caption):
        return "expected --ground PHRASE or --caption with --draw, found neither"
    if bool(options.images) != bool(options.caption or options.ground or options.match or options.recall):
        found = "no question" if options.images else "no image"
        return f"expected images and --caption, --ground, --match or --recall together, found {found}"
    if options.caption_tokens > MAX_TOKENS:
        return f"expected --caption-tokens of {MAX_TOKENS} at most, found {options.caption_tokens}"
    for text in (*options.ground, *options.match, *options.query):
        if text.lower().endswith(SUFFIXES) and os.path.isfile(text):
            return f"expected a text, found the name of a file, {text!r}: images come before the options, or after --"
    for image in options.images:
        if options.draw is not None and options.draw.resolve() == image.resolve().parent:
            return f"expected --draw FOLDER apart from the images, found that of {image}"
    return ""


def _printable(found: dict[str, Any]) -> str:
    """As JSON, in letters that this terminal has: names of files may have others."""
    text = json.dumps(found, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(found, indent=2)
    return text


def predict(options: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for: first names are forgotten and remembered, then images looked at, then searched.

    An image that cannot be read has an `error` in place of answers; raises for all else.
    """
    runtime = Runtime.open(options.model, options.threads or 0)
    folder = runtime.packed.path.parent
    path = options.memory or folder / "memory.json"
    found: dict[str, Any] = {"model": str(options.model)}
    for text in (*options.ground, *options.match, *options.query):
        if cut := runtime.encode(text).cut:
            log.warning("the last %d tokens are left out, as the model reads no more: %s", cut, text)
    taught = [(runtime.see(image).states["code"], name) for image, name in options.remember]
    names = memory.load(path, runtime.packed) if options.recall else Memory(runtime.packed)
    if options.forget or taught:
        with memory.changed(path, runtime.packed) as names:
            for name in options.forget:
                names.forget(name)
            for code, name in taught:
                names.remember(code, name)
        found["remembered"] = {name: len(codes) for name, codes in names.written.items()}
    if options.images:
        targets = _targets(options.images, options.draw)
        found["images"] = [
            _of_image(runtime, names, image, target, options)
            for image, target in zip(options.images, targets, strict=True)
        ]
    if options.index is not None:
        hits = search(runtime, options.index, options.query, options.top, kept_at(folder, options.index))
        found["found"] = {query: [asdict(hit) for hit in some] for query, some in hits.items()}
    return found


def _targets(images: Sequence[Path], folder: Path | None) -> list[Path | None]:
    """Where each image is to be drawn: under its own name, and a number where another of that name comes before it."""
    if folder is None:
        return [None] * len(images)
    taken: list[Path] = []
    for image in images:
        names = (f"{image.stem}{f'-{number}' * (number > 1)}.png" for number in count(1))
        taken.append(next(folder / name for name in names if folder / name not in taken))
    return [*taken]


def _of_image(
    runtime: Runtime, names: Memory, image: Path, target: Path | None, options: argparse.Namespace
) -> dict[str, Any]:
    try:
        seen = runtime.see(image)
    except (PictureError, OSError) as error:
        print(f"bitgen-predict: {error}", file=sys.stderr)
        return {"image": str(image), "error": str(error)}
    found: dict[str, Any] = {"image": str(image), "width": seen.picture.width, "height": seen.picture.height}
    if options.caption:
        found["caption"] = runtime.caption(seen, options.caption_tokens)
    groundings = [runtime.ground(seen, phrase) for phrase in options.ground]
    if groundings:
        found["grounded"] = [_grounded(grounding, options.heat) for grounding in groundings]
    if options.match:
        found["matches"] = [_match(runtime, seen, text) for text in options.match]
    if options.recall:
        (recalled,) = names.recall(seen.states["code"])
        found["recalled"] = {
            "name": recalled.name,
            "familiarity": round(recalled.familiarity, 4),
            "names": {name: round(confidence, 4) for name, confidence in recalled.names.items()},
        }
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.stem}.{os.getpid()}.png")
        try:
            annotated(seen.picture, groundings, found.get("caption")).save(temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        found["drawn"] = str(target)
    return found


def _grounded(grounding: Grounding, with_heat: bool) -> dict[str, Any]:
    box, score = [round(corner, 1) for corner in grounding.box], round(grounding.score, 4)
    found: dict[str, Any] = {"phrase": grounding.phrase, "box": box, "score": score}
    if with_heat:
        rows = [[round(share, 3) for share in row] for row in grounding.heat.tolist()]
        found["heat"] = {"grid": list(grounding.heat.shape), "rows": rows}
    return found


def _match(runtime: Runtime, seen: Seen, text: str) -> dict[str, Any]:
    probability, similarity = runtime.match(seen, text), runtime.similarity(seen, text)
    return {"text": text, "probability": round(probability, 4), "similarity": round(similarity, 4)}


if __name__ == "__main__":
    sys.exit(main())
