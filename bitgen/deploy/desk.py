"""What the buttons of `bitgen-app` do, without its page: a picture is looked at, asked about, and given names.

    desk = Desk.open("runs/fine/export")
    seen = desk.look("street.jpg")
    desk.caption(seen), desk.find(seen, "the red tram").said
    desk.teach(seen, "Main Street"), desk.recall(desk.look("another.jpg")).said

Every error that says what was wrong with a picture, a text, a name or a file is one of `REFUSED`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from bitgen.deploy import memory
from bitgen.deploy.drawing import annotated, heated
from bitgen.deploy.memory import MemoryFileError
from bitgen.deploy.packed import PackedError
from bitgen.deploy.runtime import PictureError, Runtime, Seen, open_picture
from bitgen.recollection import Recollection

MAX_BYTES = 64 << 20
"""Of a picture's file, as of those that shards are built of (`pipeline.building.examine`); its pixels: `runtime.MAX_PIXELS`."""
SHOWN_PX = (512, 1024)
"""The longer side of a picture as it is kept and drawn on, at least and at most: a page shows no more, and less is too coarse for
the words beside a box."""
REFUSED = (PictureError, MemoryFileError, PackedError, OSError)


@dataclass(frozen=True)
class Place:
    """Where a phrase was found, drawn."""

    boxed: Image.Image
    heated: Image.Image
    said: str


@dataclass(frozen=True)
class Recalled:
    """What comes back for a picture: the confidences of all names, the surest first, and the same in words."""

    names: Mapping[str, float]
    said: str


@dataclass(frozen=True)
class Desk:
    """Holds no picture and no name: names are in the file, read again for each click, since bitgen-predict may write it too."""

    runtime: Runtime
    memory_file: Path

    @classmethod
    def open(cls, model: str | Path, memory_file: Path | None = None, threads: int = 0) -> "Desk":
        """The model that `bitgen-export --format onnx` left in a folder, its graphs loaded, and its file of names read once.

        Args:
            memory_file: by default that of bitgen-predict, memory.json beside the model.

        Raises one of `REFUSED`, or `ImportError` without onnxruntime.
        """
        runtime = Runtime.open(model, threads)
        desk = cls(runtime, memory_file or runtime.packed.path.parent / "memory.json")
        desk.names()
        blank = runtime.see(Image.new("RGB", (8, 8), "grey"))
        runtime.caption(blank, max_tokens=1)
        runtime.ground(blank, "anything")
        return desk

    def look(self, picture: str | Path, called: str = "") -> Seen:
        """A picture's file, and what errors call it; boxes are then of it as shown, not as stored."""
        seen = self.runtime.see(open_picture(picture, called))
        return replace(seen, picture=_shown(seen.picture))

    def caption(self, seen: Seen) -> str:
        return self.runtime.caption(seen)

    def find(self, seen: Seen, phrase: str) -> Place:
        found = self.runtime.ground(seen, phrase.strip())
        return Place(
            annotated(seen.picture, [found], letters_px=_letters(seen.picture, found.phrase)),
            heated(seen.picture, found.heat),
            f"the likeliest part shows it with probability {found.score:.2f}",
        )

    def fit(self, seen: Seen, text: str) -> str:
        """The cosine first: the fine phase does not train the matching head, whose probability then says little."""
        probability, similarity = self.runtime.match(seen, text), self.runtime.similarity(seen, text)
        return f"cosine of picture and text {similarity:.2f}; a match to the matching head with probability {probability:.2f}"

    def names(self) -> dict[str, int]:
        """How many pictures each remembered name has, in the order in which names were first remembered."""
        return {name: len(codes) for name, codes in self._names().written.items()}

    def teach(self, seen: Seen, name: str) -> None:
        """The picture has this name from now on, as after bitgen-predict --remember."""
        with memory.changed(self.memory_file, self.runtime.packed) as names:
            names.remember(seen.states["code"], name)

    def forget(self, name: str) -> None:
        """As if the name had never been taught, as after bitgen-predict --forget."""
        with memory.changed(self.memory_file, self.runtime.packed) as names:
            names.forget(name)

    def recall(self, seen: Seen) -> Recalled:
        (found,) = self._names().recall(seen.states["code"])
        return Recalled(found.names, in_words(found))

    def _names(self) -> memory.Memory:
        return memory.load(self.memory_file, self.runtime.packed)


def in_words(found: Recollection) -> str:
    """Novelty is what familiarity lacks of 1."""
    if not found.names:
        return "no names so far"
    known = f"familiarity {found.familiarity:.2f}, novelty {1 - found.familiarity:.2f}"
    if found.name is None:
        return f"nothing known looks like this: {known}"
    return f"this is {found.name}: confidence {found.names[found.name]:.2f}, {known}"


def _shown(picture: Image.Image) -> Image.Image:
    longer = max(picture.size)
    scale = min(max(longer, SHOWN_PX[0]), SHOWN_PX[1]) / longer
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _letters(picture: Image.Image, phrase: str) -> int:
    """In pixels: to be read where the picture is shown at 400, or as small as the phrase needs."""
    return max(12, min(max(picture.size) // 24, 2 * picture.width // len(phrase)))
