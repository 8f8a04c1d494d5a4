"""An exported model as evaluation asks it: tensors in, tensors out, computed by the graphs of `bitgen-export --format onnx`.

It gives what `bitgen.model.bitgen.BitGen` gives, whose docstrings hold, for what retrieval, grounding and captioning call, so that
an export goes through the same data and the same figures as the checkpoint that it was made of. Axes: as in that file, and
H heads, K sequences an image, V classes.
"""

from collections.abc import Mapping
from itertools import count
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bitgen.deploy.packed import CODES, FILE, INPUT_SCALE, INPUT_ZERO, KEY, SCALE, SCALES, PackedError
from bitgen.deploy.parts import PARTS
from bitgen.deploy.runtime import Runtime
from bitgen.model.bitgen import ImageStates, TextStates
from bitgen.model.decoding import NextToken, decode
from bitgen.model.grounding import Grounded
from bitgen.tokens import MAX_TOKENS
from bitgen.training.checkpoint import STATE, State, read_state

_NO_WEIGHTS = (SCALE, SCALES, INPUT_SCALE, INPUT_ZERO, ".kept")


def is_exported(folder: Path) -> bool:
    """Whether the model there is a packed one, not a checkpoint's, whose file has the same name."""
    try:
        with safe_open(folder / FILE, "numpy") as file:
            return KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


class Exported:
    device = torch.device("cpu")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._facts = runtime, runtime.packed.facts

    @classmethod
    def open(cls, folder: Path, threads: int = 0) -> tuple["Exported", State]:
        """The model of a folder, and the state of the checkpoint that it was made of.

        Raises `PackedError` where a graph is missing or the two are not of one model, `CheckpointError` where there is no state.
        """
        for part in PARTS:
            if not (folder / f"{part}.onnx").is_file():
                raise PackedError(
                    f"expected {part}.onnx, as bitgen-export --format onnx leaves it, found none: {folder}"
                )
        model, state = cls(Runtime.open(folder, threads)), read_state(folder)
        facts, config = model._facts, state.config
        packed = facts.run, facts.step, facts.holdout_sha256, facts.image_px, facts.max_tokens
        stated = config.run.name, state.step, state.holdout_sha256, config.data.image_px, config.data.max_tokens
        if packed != stated:
            raise PackedError(
                f"expected {STATE} of the packed model, {packed}, found that of another, {stated}: {folder}"
            )
        return model, state

    @property
    def about(self) -> dict[str, str | int]:
        """{"tower", "weight_bits", "vocabulary", "bytes" of the packed file and its graphs}."""
        folder, facts = self._runtime.packed.path.parent, self._facts
        files = [self._runtime.packed.path, *(folder / f"{part}.onnx" for part in PARTS)]
        return {
            "tower": facts.tower,
            "weight_bits": facts.weight_bits,
            "vocabulary": facts.config.vocabulary,
            "bytes": sum(path.stat().st_size for path in files),
        }

    @property
    def parameters(self) -> int:
        """As of the checkpoint, less its adapters and what fell away with images of other sizes and tokens."""
        widths, places = self._facts.in_widths, self._runtime.packed.places
        return sum(
            place.shape[0] * widths[name.removesuffix(CODES)] if name.endswith(CODES) else place.elements
            for name, place in places.items()
            if not name.endswith(_NO_WEIGHTS)
        )

    def encode_image(self, images: Tensor) -> ImageStates:
        return ImageStates(**self._run("image_encoder", {"pixels": images}))

    def encode_text(self, token_ids: Tensor, mask: Tensor) -> TextStates:
        """No graph gives `dual` states: they are empty."""
        rows = torch.from_numpy(self._runtime.rows(token_ids.numpy()))
        given = {"rows": rows, "positions": torch.arange(rows.shape[1]), "mask": mask}
        return TextStates(**self._run("text_encoder", given), dual=torch.empty(0), mask=mask)

    def match_tokens(self, image_start: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        start = self.encode_text(token_ids, mask).start
        return self._run("fusion", {"image": image_start, "text": start, "mask": mask})["odds"]

    def ground(
        self,
        image: ImageStates,
        text: TextStates,
        text_image: Tensor,
        phrase_text: Tensor,
        phrase_slot: Tensor,
        phrase_tokens: Tensor,
        slots: int,
    ) -> Grounded:
        fused = self._run("fusion", {"image": image.start[text_image], "text": text.start, "mask": text.mask})
        token = torch.arange(text.start.shape[1])
        inside = (token >= phrase_tokens[:, :1]) & (token < phrase_tokens[:, 1:])
        shares = torch.zeros(len(text.start), slots, len(token))
        shares[phrase_text, phrase_slot] = inside / inside.sum(dim=1, keepdim=True).clamp(min=1)
        given = {"fused_image": fused["fused_image"], "fused_text": fused["fused_text"], "shares": shares}
        found = self._run("grounding", given)
        return Grounded(found["centres"][phrase_text, phrase_slot], found["heat"][phrase_text, phrase_slot])

    def caption(
        self, image: ImageStates, max_tokens: int = 24, beams: int = 1, length_penalty: float = 0.6
    ) -> list[list[int]]:
        if max_tokens > MAX_TOKENS:
            raise ValueError(f"expected max_tokens of {MAX_TOKENS} at most, came {max_tokens}")
        end, kept = self._facts.config.vocabulary - 1, self._runtime.kept
        first = torch.full((len(image.dual), 1), end)
        found = decode(self._next_token(image.dual), first, max_tokens, beams, length_penalty, end)
        return found if kept is None else [kept[row].tolist() for row in found]

    def _next_token(self, dual: Tensor) -> NextToken:
        """`bitgen.model.decoder.CaptionDecoder.next_token`, with an empty memory."""
        config, images = self._facts.config, len(dual)
        context = self._run("decoder_start", {"dual": dual, "reading": torch.zeros(images, config.width)})
        seen = torch.ones(images, dual.shape[1] + 1, dtype=torch.bool)
        seen[:, -1] = False  # what is read of the memory
        none_yet = torch.empty(images, 1, config.heads, 0, config.width // config.heads)
        layers, positions = range(config.decoder_layers), count()
        past = {f"past_{kind}_{i}": none_yet for i in layers for kind in ("key", "value")}  # [B, K, H, L, d / H]

        def next_token(tokens: Tensor, parents: Tensor) -> Tensor:
            nonlocal past
            chosen = torch.arange(images)[:, None], parents
            followed = {name: each[chosen].flatten(0, 1) for name, each in past.items()}
            step = {"rows": tokens, "position": torch.tensor([next(positions)]), "seen": seen}
            found = self._run("decoder_step", {**step, **followed, **context})
            logits = found.pop("logits")
            past = {f"past_{name}": each.unflatten(0, parents.shape) for name, each in found.items()}
            return logits

        return next_token

    def _run(self, part: str, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = self._runtime.run(part, {name: np.ascontiguousarray(each.numpy()) for name, each in given.items()})
        return {name: torch.from_numpy(each) for name, each in found.items()}
