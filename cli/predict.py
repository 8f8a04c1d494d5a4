"""bitgen-predict MODEL image...: captions, boxes, matches and names by an exported model, without torch."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bitgen.deploy import memory
from bitgen.deploy.drawing import annotated
from bitgen.deploy.gallery import kept_at, search
from bitgen.deploy.memory import Memory, MemoryFileError
from bitgen.deploy.packed import PackedError
from bitgen.deploy.runtime import Grounding, PictureError, Runtime, Seen
from cli.arguments import parse, positive

DESCRIPTION = """What a model that bitgen-export --format onnx wrote says of images, as JSON. Needs onnxruntime, numpy, pillow and
tokenizers alone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong use."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = _parser()
    options = parse(parser, sys.argv[1:] if arguments is None else arguments)
    if (options.index is None) != (not options.query):
        parser.error("expected --index FOLDER and --query TEXT together, found one of them")
    if not (options.images or options.index or options.remember or options.forget):
        parser.error("expected images, --index, --remember or --forget, found none of them")
    if options.heat and not options.ground:
        parser.error("expected --ground PHRASE with --heat, found none")
    try:
        print(json.dumps(predict(options), indent=2, ensure_ascii=False))
    except (PackedError, PictureError, MemoryFileError, OSError) as error:
        print(f"bitgen-predict: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"bitgen-predict: {error}; pip install onnxruntime numpy pillow tokenizers", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bitgen-predict: stopped", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bitgen-predict", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("model", type=Path, metavar="MODEL", help="the folder that bitgen-export --format onnx wrote")
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="JPEG, PNG or WebP files")
    parser.add_argument("--caption", action="store_true", help="a sentence about each image")
    parser.add_argument("--caption-tokens", type=positive, default=24, metavar="N", help="at most (default: 24)")
    parser.add_argument("--ground", nargs="+", default=[], metavar="PHRASE", help="where each of these is: a box")
    parser.add_argument(
        "--heat",
        action="store_true",
        help="with --ground: also the heat-map, as heat: {grid: [rows, columns], rows: the probability of each patch of the "
        "picture, from its top left, to 3 digits}",
    )
    parser.add_argument("--match", nargs="+", default=[], metavar="TEXT", help="how well each of these fits the image")
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
        "--draw", type=Path, metavar="FOLDER", help="write each image there as PNG, with its boxes and caption"
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="default: one a core")
    return parser


def predict(options: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for: first names are forgotten and remembered, then images looked at, then searched."""
    runtime = Runtime.open(options.model, options.threads or 0)
    folder = runtime.packed.path.parent
    path = options.memory or folder / "memory.json"
    found: dict[str, Any] = {"model": str(options.model)}
    names = Memory(runtime.packed)
    if options.remember or options.forget or options.recall:
        names = memory.load(path, runtime.packed)
    for name in options.forget:
        names.forget(name)
    for image, name in options.remember:
        names.remember(runtime.see(image).states["code"], name)
    if options.remember or options.forget:
        memory.save(names, path, runtime.packed)
        found["remembered"] = {name: len(codes) for name, codes in names.written.items()}
    if options.images:
        found["images"] = [_of_image(runtime, names, image, options) for image in options.images]
    if options.index is not None:
        hits = search(runtime, options.index, options.query, options.top, kept_at(folder, options.index))
        found["found"] = {query: [asdict(hit) for hit in some] for query, some in hits.items()}
    return found


def _of_image(runtime: Runtime, names: Memory, image: Path, options: argparse.Namespace) -> dict[str, Any]:
    seen = runtime.see(image)
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
    if options.draw is not None:
        options.draw.mkdir(parents=True, exist_ok=True)
        target = options.draw / f"{image.stem}.png"
        annotated(seen.picture, groundings, found.get("caption")).save(target)
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
