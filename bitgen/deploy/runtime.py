"""A packed model answers for pictures and texts, with neither torch nor transformers: onnxruntime, numpy, pillow, tokenizers.

    model = Runtime.open("runs/fine/export")
    seen = model.see("street.jpg")
    model.caption(seen), model.ground(seen, "the red tram").box

It does for each picture and text what `bitgen.BitGen` does. What differs: pictures are squeezed by Pillow's bicubic filter, within
0.005 of 255 of the other on average; no text is padded; boxes are of the upright picture. Axes: N patches, d width, L tokens, g
patches of a side, V classes.
"""

import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from bitgen.colours import DAMAGE, FORMATS, MAX_PIXELS, to_rgb
from bitgen.deploy.packed import GRAPH_OF, Packed, PackedError, identity, read, tokenizer_sha256
from bitgen.tokens import EOT, MAX_TOKENS, Encoded, TokenError, Tokenizer, shared_tokenizer, token_span

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Runner: TypeAlias = Callable[[str, Arrays], Arrays]
"""Runs one part of `bitgen.deploy.parts` by its name, from its arguments by name."""


class PictureError(ValueError):
    """A file is no picture that can be read, a text or phrase has no words, or a caption is to be longer than any can be."""


@dataclass(frozen=True)
class Seen:
    """A picture and what the image encoder gives for it."""

    picture: Image.Image
    """Upright, RGB."""
    states: Arrays
    """start, dual [1, N, d], code and embedding [1, d]."""


@dataclass(frozen=True)
class Grounding:
    """Where a phrase is: fields as of `bitgen.answers.Grounding`, the box in pixels of the upright picture."""

    phrase: str
    box: tuple[float, float, float, float]
    score: float
    heat: NDArray[np.float32]
    """[g, g], 0..1."""


class Runtime:
    """Args: `packed`: the model; `run`: what computes its parts, such as `sessions` or `bitgen.deploy.reference.runner`."""

    def __init__(self, packed: Packed, run: Runner) -> None:
        if packed.facts.tokenizer_sha256 != tokenizer_sha256():
            raise PackedError(f"expected a model of the embedded tokenizer, found one of another: {packed.path}")
        self.packed, self.run = packed, run
        self._tokenizer: Tokenizer = shared_tokenizer()
        self.kept: NDArray[np.int64] | None = None
        if "text.token.kept" in packed.tensors:
            self.kept = packed.tensors["text.token.kept"].astype(np.int64)
            found = self.kept.tolist()
            if found != sorted(set(found)) or found[-1:] != [EOT] or len(found) != packed.facts.config.vocabulary:
                raise PackedError(
                    f"expected {packed.facts.config.vocabulary} kept tokens in order, end-of-text last, found others: "
                    f"{packed.path}"
                )

    @classmethod
    def open(cls, folder: str | Path, threads: int = 0) -> "Runtime":
        """The model that `bitgen-export --format onnx` left in a folder, on `threads` threads; 0: one a core.

        A graph is loaded when it is first needed. Raises `PackedError` where there is none.
        """
        packed = read(folder)
        return cls(packed, sessions(packed.path.parent, threads))

    def see(self, picture: str | Path | Image.Image) -> Seen:
        """Raises `PictureError` where it is no picture, `OSError` where the file cannot be read."""
        upright = open_picture(picture)
        return Seen(upright, self.run("image_encoder", {"pixels": squeezed(upright, self.packed.facts.image_px)}))

    def encode_text(self, text: str) -> NDArray[np.float32]:
        """[d], a unit vector. The cosine with a picture's `states["embedding"]` says how alike they are."""
        return self._read(self.encode(text))["embedding"][0]

    def similarity(self, seen: Seen, text: str) -> float:
        """The cosine of picture and text, -1..1."""
        return float(seen.states["embedding"][0] @ self.encode_text(text))

    def match(self, seen: Seen, text: str) -> float:
        """The probability that picture and text belong together, 0..1, by the matching head."""
        return float(_sigmoid(self._fuse(seen, self.encode(text))["odds"][0]))

    def ground(self, seen: Seen, phrase: str, text: str | None = None) -> Grounding:
        """Where in the picture that is which `phrase` names.

        Args:
            text: in which the phrase stands in whole words, at its first place; by default the phrase is the whole text.

        Raises `PictureError` where it does not, or stands beyond what the model reads of a text.
        """
        start, stop = 0, len(phrase)
        if text is not None:
            # As in bitgen.questions: "man" is not looked for in "woman".
            place = re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) if phrase else None
            if place is None:
                raise PictureError(f"expected a phrase that stands in {text!r}, found {phrase!r}")
            start, stop = place.span()
        encoded = self.encode(phrase if text is None else text)
        span = token_span(encoded, start, stop)
        if span is None:
            where = f"in the first {self.packed.facts.max_tokens} tokens of its text"
            raise PictureError(f"expected a phrase with words {where}, found {phrase!r}")
        fused = self._fuse(seen, encoded)
        shares = np.zeros((1, 1, len(encoded.ids)), np.float32)
        shares[..., span[0] : span[1]] = 1 / (span[1] - span[0])
        found = self.run(
            "grounding", {"fused_image": fused["fused_image"], "fused_text": fused["fused_text"], "shares": shares}
        )
        cx, cy, w, h = found["centres"][0, 0].astype(np.float64)
        corners = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]).clip(0, 1)
        x0, y0, x1, y1 = (corners * np.array(seen.picture.size * 2)).tolist()
        heat = _sigmoid(found["heat"][0, 0])
        side = isqrt(len(heat))
        return Grounding(phrase, (x0, y0, x1, y1), float(heat.max()), heat.reshape(side, side))

    def caption(self, seen: Seen, max_tokens: int = 24) -> str:
        """A sentence about the picture: the likeliest token at every step, with an empty memory."""
        return self._tokenizer.decode(self.caption_ids(seen, max_tokens)).strip()

    def caption_ids(self, seen: Seen, max_tokens: int = 24) -> list[int]:
        """GPT-2's ids of `caption`, without end-of-text. Raises `PictureError` for more than the decoder has places for."""
        if not 0 <= max_tokens <= MAX_TOKENS:
            raise PictureError(f"expected a caption of {MAX_TOKENS} tokens at most, found {max_tokens}")
        config = self.packed.facts.config
        dual = seen.states["dual"]
        context = self.run("decoder_start", {"dual": dual, "reading": np.zeros((1, config.width), np.float32)})
        visible = np.arange(dual.shape[1] + 1)[None] < dual.shape[1]  # all but what is read of the memory
        empty = np.zeros((1, config.heads, 0, config.width // config.heads), np.float32)
        layers = range(config.decoder_layers)
        past: Arrays = {f"past_{kind}_{i}": empty for i in layers for kind in ("key", "value")}
        end = config.vocabulary - 1
        newest, found = end, []
        for position in range(max_tokens):
            step = {"rows": np.array([[newest]]), "position": np.array([position]), "seen": visible, **past, **context}
            outputs = self.run("decoder_step", step)
            newest = int(outputs["logits"].argmax())
            if newest == end:
                break
            found.append(newest)
            past = {f"past_{name}": array for name, array in outputs.items() if name != "logits"}
        return found if self.kept is None else self.kept[found].tolist()

    def encode(self, text: str) -> Encoded:
        """A text as tokens, as many as the model reads of it. Raises `PictureError` where it has no words, or no UTF-8 form."""
        if not text.strip():
            raise PictureError(f"expected a text with words, found {text!r}")
        try:
            return self._tokenizer.encode(text, self.packed.facts.max_tokens)
        except TokenError as error:
            raise PictureError(str(error)) from error

    def _read(self, text: Encoded) -> Arrays:
        rows = self.rows(np.array([text.ids]))
        given = {"rows": rows, "positions": np.arange(rows.shape[1]), "mask": np.ones(rows.shape, bool)}
        return self.run("text_encoder", given)

    def _fuse(self, seen: Seen, text: Encoded) -> Arrays:
        start = self._read(text)["start"]
        given = {"image": seen.states["start"], "text": start, "mask": np.ones(start.shape[:2], bool)}
        return self.run("fusion", given)

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of the embedding: `bitgen.model.vocabulary.TokenEmbedding.rows`."""
        if self.kept is None:
            return ids
        nearest = np.searchsorted(self.kept, ids)  # within it: end-of-text, the largest id, is always kept
        return np.where(self.kept[nearest] == ids, nearest, len(self.kept))


def sessions(folder: Path, threads: int = 0) -> Runner:
    """ONNX Runtime on the graphs of a folder, each loaded when it is first run; its reports to its maker are off.

    Running raises `PackedError` for a graph that is missing, damaged, or over another packed file than the one beside it.
    """
    # From 1.29 on it tells Microsoft of the process and of each model, on Linux too, unless this is set before it starts.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # here: the NumPy reference runs without it
    from onnxruntime.capi import onnxruntime_pybind11_state as native  # pyright: ignore[reportAttributeAccessIssue]

    # Each its own kind of Exception, with no base in common.
    refused = tuple(each for each in vars(native).values() if isinstance(each, type) and issubclass(each, Exception))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    opened: dict[str, onnxruntime.InferenceSession] = {}

    def run(part: str, given: Arrays) -> Arrays:
        if part not in opened:
            path = folder / f"{part}.onnx"
            if not path.is_file():
                raise PackedError(f"expected a graph, as bitgen-export --format onnx leaves it, found none: {path}")
            try:
                session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except refused as error:
                raise PackedError(f"expected a graph that ONNX Runtime loads, found {error}: {path}") from error
            of = session.get_modelmeta().custom_metadata_map.get(GRAPH_OF)  # exports of before have none
            if of is not None and of != identity(read(folder)):
                raise PackedError(f"expected a graph over the packed file beside it, found one over another: {path}")
            opened[part] = session
        session = opened[part]
        names = [output.name for output in session.get_outputs()]
        try:
            found: Sequence[Any] = session.run(names, dict(given))
        except refused as error:
            raise PackedError(f"expected {part} to run, found {error}: {folder}") from error
        return dict(zip(names, found, strict=True))

    return run


def open_picture(picture: str | Path | bytes | Image.Image, called: str = "") -> Image.Image:
    """Upright and RGB.

    Args:
        picture: a file, its bytes, or what Pillow made of it.
        called: what errors call it; by default its path.

    Raises `PictureError` for what is no JPEG, PNG or WebP, is damaged or has too many pixels.
    """
    called = called or ("its bytes" if isinstance(picture, bytes) else str(picture))
    try:
        file = io.BytesIO(picture) if isinstance(picture, bytes) else picture
        opened = file if isinstance(file, Image.Image) else Image.open(file, formats=FORMATS)
        if not 1 <= opened.width * opened.height <= MAX_PIXELS:
            raise PictureError(f"expected 1 to {MAX_PIXELS} pixels, found {opened.width}x{opened.height}: {called}")
        return to_rgb(ImageOps.exif_transpose(opened))
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"expected a JPEG, PNG or WebP picture, found none: {called}") from error
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise PictureError(f"expected a whole picture, found {error!r}: {called}") from error


def squeezed(picture: Image.Image, side_px: int) -> NDArray[np.uint8]:
    """[1, 3, S, S]: an RGB picture as the model sees it, its aspect not kept."""
    square = np.asarray(picture.resize((side_px, side_px), Image.Resampling.BICUBIC), np.uint8)
    return np.ascontiguousarray(square.transpose(2, 0, 1))[None]


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * x))
