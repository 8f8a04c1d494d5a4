"""`bitgen.BitGen`: a trained model as a user holds it, from pictures and words to words, boxes and numbers.

    from bitgen import BitGen
    model = BitGen.from_pretrained("runs/fine")
    model.ground("street.jpg", "the red tram").box

It holds the network (`bitgen.model.bitgen`, an nn.Module that takes tensors), and does for each picture and text what training
did: whole images squeezed to the square, GPT-2's tokens. Results are on the CPU, in float32, computed without gradients in
evaluation mode, and the same whenever the same is asked. What an image or a text is computed beside changes only the last
digits: by less than 1e-3 of a unit vector's length, as ternary layers round activations to 8 bits (1e-5 in the
full-precision twin).

Pictures are those of `bitgen.views.Picture`. Every method takes one or a list of them, of any sizes; a list gives a list, or a
tensor with an axis for it. Wrong input raises `InputError`. Axes: B images, T texts, d width, g patches of a side.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, overload

import torch
from torch import Tensor

from bitgen.answers import Grounding, answer, plain
from bitgen.colours import MAX_PIXELS
from bitgen.model.bitgen import BitGen as Network
from bitgen.model.bitgen import ImageStates, TextStates
from bitgen.pixels import DecodeError
from bitgen.questions import ROWS, Phrase, ask_all, checked_text, is_several, listed, paired, text_rows
from bitgen.recollection import Recollection
from bitgen.recollections import Recollections
from bitgen.tokens import MAX_TOKENS, Encoded, shared_tokenizer
from bitgen.training.checkpoint import load_model
from bitgen.views import InputError, Picture, View, view

log = logging.getLogger(__name__)

Several: TypeAlias = list[Any] | tuple[Any, ...]
IMAGES = 32
"""Of one pass through the vision tower, at most."""


class BitGen:
    """A model that answers for pictures and texts.

    Args:
        network: what computes; put into evaluation mode.
        side_px: of the square that images are resized to, as in training.
        max_tokens: of a text, its two end-of-texts included; what is beyond is not read, as in training.
        max_pixels: of an image; above it `DecodeError` is raised before anything is decoded.
    """

    def __init__(
        self, network: Network, side_px: int, max_tokens: int = MAX_TOKENS, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.network = network.eval()
        self.side_px, self.max_tokens, self.max_pixels = side_px, max_tokens, max_pixels
        self._tokenizer = shared_tokenizer()
        self._recollections = Recollections(network.memory)

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path, device: str | torch.device | None = None) -> "BitGen":
        """The model of a run folder (its best checkpoint), a checkpoint folder, or a repository of the Hugging Face hub.

        Args:
            checkpoint: a folder, `hf://owner/name`, or `owner/name` where there is no such folder.
            device: by default an accelerator of CUDA's where there is one.

        Raises `CheckpointError` where there is none, or none that is whole. No code of it is run.
        """
        name = str(checkpoint)
        if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) and not Path(name).exists():
            log.info("there is no folder %s here: looking for a repository of that name on the hub", name)
            name = f"hf://{name}"
        network, state = load_model(name, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(network, state.config.data.image_px, state.config.data.max_tokens)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def encode_image(self, image: Picture | Sequence[Picture]) -> Tensor:
        """A unit vector [d]; of a list [B, d]."""
        with self._computing():
            found = torch.cat([states.embedding for _, states in self._see(listed(image, "image"))])
        return plain(found if is_several(image) else found[0])

    def encode_text(self, text: str | Sequence[str]) -> Tensor:
        """A unit vector [d]; of a list [T, d]."""
        encoded = self._encoded(text)
        found = torch.empty(len(encoded), self.network.config.width)
        with self._computing():
            for numbers, states in self._read(encoded):
                found[numbers] = states.embedding.cpu()
        return plain(found if is_several(text) else found[0])

    def similarity(self, image: Picture | Sequence[Picture], text: str | Sequence[str]) -> Tensor:
        """The cosine of image and text, -1..1: [B, T], without the axis of what is not a list.

        From the two vectors alone, so that many images and texts cost no more than their own encoding.
        """
        images, texts = self.encode_image(image), self.encode_text(text)
        return _without_axes(torch.atleast_2d(images) @ torch.atleast_2d(texts).T, image, text)

    def match(self, image: Picture | Sequence[Picture], texts: str | Sequence[str]) -> Tensor:
        """The probability that image and text belong together, 0..1: [B, T], without the axis of what is not a list.

        The sigmoid of the log-odds that the matching head (ITM) gives a pair, each pair for itself: they need not sum to 1.
        The head was trained among pairs that are hard to tell apart, so it is a probability among such.
        """
        encoded = self._encoded(texts)
        found: list[Tensor] = []
        with self._computing():
            read = list(self._read(encoded))
            for views, states in self._see(listed(image, "image")):
                odds = torch.empty(len(views), len(encoded))
                for numbers, text in read:
                    pairs = torch.cartesian_prod(torch.arange(len(views)), torch.arange(len(numbers))).to(self.device)
                    parts = [self.network.match(states, text, *part.unbind(dim=1)) for part in pairs.split(ROWS)]
                    odds[:, numbers] = torch.cat(parts).view(len(views), -1).cpu()
                found.append(odds.sigmoid())
        return plain(_without_axes(torch.cat(found), image, texts))

    @overload
    def caption(self, image: Picture, max_tokens: int = 24, beams: int = 1, length_penalty: float = 0.6) -> str: ...
    @overload
    def caption(
        self, image: Sequence[Picture], max_tokens: int = 24, beams: int = 1, length_penalty: float = 0.6
    ) -> list[str]: ...
    def caption(
        self,
        image: Picture | Sequence[Picture],
        max_tokens: int = 24,
        beams: int = 1,
        length_penalty: float = 0.6,
    ) -> str | list[str]:
        """A sentence about the image, written with an empty memory; how it is searched for: `bitgen.model.decoding.decode`.

        Raises `InputError` where that refuses a number.
        """
        with self._computing():
            ids = [
                row
                for _, states in self._see(listed(image, "image"))
                for row in self._captions(states, max_tokens, beams, length_penalty)
            ]
        found = [self._tokenizer.decode(row).strip() for row in ids]
        return found if is_several(image) else found[0]

    @overload
    def ground(self, image: Picture, text: str, phrases: None = None) -> Grounding: ...
    @overload
    def ground(self, image: Picture, text: str, phrases: Sequence[Phrase]) -> list[Grounding]: ...
    @overload
    def ground(
        self, image: Picture | Sequence[Picture], text: Several, phrases: Several | None = None
    ) -> list[Any]: ...
    def ground(self, image: Any, text: Any, phrases: Any = None) -> Any:
        """Where in the image that is which the text names, or which each of some phrases of the text names.

            model.ground(photo, "the red tram")                                            one Grounding
            model.ground(photo, "a man beside a tram", ["a man", "a tram"])                  two, in a list
            model.ground(photo, ["the red tram", "a man"])                                 two, in a list
            model.ground(photo, [text, other], [["a man", "a tram"], ["a dog"]])             a list for each text
            model.ground([photo, another], ["the red tram", ["a dog", "a cat"]])              an answer for each image

        Whatever is asked of an image, it passes the vision tower once.

        Args:
            text: one or a list of them; for a list of images a list with an entry for each.
            phrases: for a text the list of its phrases, each as it stands there, in whole words, or as characters
                (start, stop); in lists as `text` is. Without it the whole text is the phrase.

        Raises `InputError` for a phrase that does not stand in its text or stands there more than once.
        """
        images = listed(image, "image")
        if is_several(image):
            asked = zip(paired(text, images, "text"), paired(phrases, images, "list of phrases", True), strict=True)
        else:
            asked = [(text, phrases)]
        questions = [ask_all(self._tokenizer, some, of_it, self.max_tokens) for some, of_it in asked]
        found: list[Any] = []
        with self._computing():
            for views, states in self._see(images):
                here = questions[len(found) : len(found) + len(views)]
                found += answer(self.network, views, states, here, self._read)
        texts = text if is_several(image) else [text]
        nested = [answers if is_several(some) else answers[0] for some, answers in zip(texts, found, strict=True)]
        return nested if is_several(image) else nested[0]

    @property
    def names(self) -> tuple[str, ...]:
        """What is remembered, in the order in which it was first."""
        return self._recollections.names

    def remember(self, image: Picture | Sequence[Picture], name: str) -> None:
        """Write into the memory that this image, or each of these, shows `name`.

        A name that is remembered already keeps its other images. Nothing is trained, and nothing is written to disk: the
        memory is that of this object.
        """
        encoded = self._encoded(checked_text(name))
        with self._computing():
            keys = torch.cat([states.code for _, states in self._see(listed(image, "image"))])
            value = next(self._read(encoded))[1].code[0]
            self._recollections.remember(keys, value, name)

    def forget(self, name: str) -> None:
        """The memory is as if none of the name's images had ever been written. Raises `InputError` for an unknown name."""
        with self._computing():
            self._recollections.forget(name)

    @overload
    def recall(self, image: Picture) -> Recollection: ...
    @overload
    def recall(self, image: Sequence[Picture]) -> list[Recollection]: ...
    def recall(self, image: Picture | Sequence[Picture]) -> Recollection | list[Recollection]:
        """Which of the remembered names fit the image, and how surely; an empty memory gives no name, and 0."""
        with self._computing():
            found = [
                each
                for _, states in self._see(listed(image, "image"))
                for each in self._recollections.recall(states.code)
            ]
        return found if is_several(image) else found[0]

    def _captions(self, states: ImageStates, max_tokens: int, beams: int, length_penalty: float) -> list[list[int]]:
        try:
            return self.network.caption(states, max_tokens, beams, length_penalty)
        except ValueError as error:
            raise InputError(str(error)) from error

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """In float32, whatever surrounds the call, and without gradients."""
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            yield

    def _see(self, pictures: Sequence[Picture]) -> Iterator[tuple[list[View], ImageStates]]:
        """`IMAGES` of them at most at a time."""
        for start in range(0, len(pictures), IMAGES):
            views = []
            for number, picture in enumerate(pictures[start : start + IMAGES], start):
                try:
                    views.append(view(picture, self.side_px, self.max_pixels))
                except (InputError, DecodeError) as error:
                    error.add_note(f"image {number} of {len(pictures)}, counted from 0")
                    raise
            yield views, self.network.encode_image(torch.stack([each.pixels for each in views]).to(self.device))

    def _encoded(self, text: str | Sequence[str]) -> list[Encoded]:
        return [self._tokenizer.encode(checked_text(each), self.max_tokens) for each in listed(text, "text")]

    def _read(self, texts: Sequence[Encoded]) -> Iterator[tuple[list[int], TextStates]]:
        """Which of the texts, and their states."""
        for rows in text_rows(texts):
            yield rows.numbers, self.network.encode_text(rows.ids.to(self.device), rows.mask.to(self.device))


def _without_axes(found: Tensor, image: Any, text: Any) -> Tensor:
    """[B, T] without B, T or both, where only one was asked for."""
    found = found if is_several(text) else found[:, 0]
    return found if is_several(image) else found[0]
