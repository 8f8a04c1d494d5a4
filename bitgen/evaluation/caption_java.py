"""METEOR and SPICE, programs in Java inside the package pycocoevalcap: their figures where all they need is there, else why not.

Nothing is downloaded: pycocoevalcap would fetch SPICE's parser (400 MB) at its first use, so SPICE is asked only where that is
there already. Both get the words of `caption_scores.words`, as the other figures do.

Sources: METEOR 1.5, Denkowski and Lavie, W14-3348; SPICE, arXiv 1607.08822.
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgen.evaluation.bootstrap import Figures, percentiles, resampled
from bitgen.evaluation.caption_scores import Words

Texts = dict[int, list[str]]
"""By number of the image, what is said of it."""
LIBRARY = "spice/lib"
"""Where in the package SPICE looks for its parser."""
JAVA = ("meteor", "spice")
PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


class JavaError(Exception):
    """A figure cannot be had here."""


@dataclass(frozen=True, eq=False)
class Figure:
    """Of one set of captions."""

    value: float
    draws: NDArray[np.float64]
    """[R, 1] of as many resamples of its images; none where nobody asked, or of one image."""


def java_figures(
    captions: Mapping[str, Sequence[Words]], references: Sequence[Sequence[Words]], seed: int = 0, resamples: int = 0
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Of several sets of captions by name their "meteor" and "spice", 0..1, and for each of the two that is missing, why.

    Args:
        captions: of every image, in each set.
        references: one or more of every image.
        resamples: of "interval": {"meteor": [low, high], ...}, by image (`bootstrap.py`); with 0 there is none. seed: of these.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in captions}
    missing: dict[str, str] = {}
    meant = {number: [" ".join(text) for text in texts] for number, texts in enumerate(references)}
    sets = {name: {n: [" ".join(text)] for n, text in enumerate(texts)} for name, texts in captions.items()}
    for figure, measure in zip(JAVA, (_meteor, _spice), strict=True):
        try:
            values = measure(meant, list(sets.values()), seed, resamples if len(references) > 1 else 0)
        except JavaError as error:
            missing[figure] = str(error)
        # A program that ends at once closes its pipe, or leaves a line that is no number, or a file without what is looked for.
        except (OSError, ValueError, LookupError, TypeError, ImportError, subprocess.SubprocessError) as error:
            missing[figure] = f"expected a figure from its program in Java, found {type(error).__name__}: {error}"
        else:
            for name, each in zip(sets, values, strict=True):
                found[name][figure] = each.value
                if len(each.draws):
                    found[name].setdefault("interval", {})[figure] = percentiles(each.draws)[0].tolist()
    return found, missing


def _meteor(references: Texts, sets: Sequence[Texts], seed: int, resamples: int) -> list[Figure]:
    """The program counts for each image, and makes the figure of a set, or of a resample of it, from the sums of its counts."""
    _package()
    from pycocoevalcap.meteor.meteor import Meteor

    program = Meteor()  # reads its paraphrases for 10 s, so one for all sets

    into, out = program.meteor_p.stdin, program.meteor_p.stdout
    assert into is not None
    assert out is not None

    def made_of(*lines: str) -> float:
        into.write(f"EVAL ||| {' ||| '.join(lines)}\n".encode())
        into.flush()
        return [float(out.readline()) for _ in range(len(lines) + 1)][-1]  # of each, and of all

    def made_of_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([[made_of(" ".join(map(str, line.tolist())))] for line in sums])

    try:
        found = []
        for captions in sets:
            told = [program._stat(text, references[image]) for image, (text,) in captions.items()]
            counts, value = _added(told), made_of(*told)
            if abs(made_of_sums(counts.sum(axis=0, keepdims=True)).item() - value) > 1e-6:
                raise ValueError("expected the figure of a set from the sums of its images' counts, found another")
            draws = _draws(lambda times, own=counts: made_of_sums(times @ own), len(told), seed, resamples)
            found.append(Figure(value, draws))
        return found
    finally:
        program.meteor_p.kill()
        program.meteor_p.communicate()
        if program.lock.locked():  # after an error it still is, and the object waits for it when it goes
            program.lock.release()


def _added(told: Sequence[str]) -> NDArray[np.float64]:
    """[I, 23] METEOR's counts as it adds them up: of a caption that is all of its reference in one piece, that piece is none."""
    counts = np.array([[float(number) for number in line.split()] for line in told])
    pieces, whole = counts[:, 20], (counts[:, 21:] == counts[:, :2]).all(axis=1)
    pieces[whole & (pieces == 1)] = 0
    return counts


def _spice(references: Texts, sets: Sequence[Texts], seed: int, resamples: int) -> list[Figure]:
    """The mean over images."""
    library = _package() / LIBRARY
    for name in PARSER:
        if not (library / name).is_file():
            how = "python -m pycocoevalcap.spice.get_stanford_models fetches it"
            raise JavaError(f"expected {name} in the package pycocoevalcap, found none ({how})")
    from pycocoevalcap.spice.spice import Spice

    found = []
    for captions in sets:
        value, each = Spice().compute_score(references, captions)
        own = np.array([float(scores["All"]["f"]) for scores in each])
        draws = _draws(lambda times, own=own: (times @ own / times.sum(axis=1))[:, None], len(own), seed, resamples)
        found.append(Figure(float(value), draws))
    return found


def _draws(figures: Figures, images: int, seed: int, resamples: int) -> NDArray[np.float64]:
    return resampled(figures, images, seed, resamples) if resamples else np.empty((0, 1))


def _package() -> Path:
    """Where pycocoevalcap lies. Raises `JavaError` where it or Java is missing."""
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise JavaError("expected the package pycocoevalcap, found none: pip install 'bitgen[captions]'")
    if which("java") is None:
        raise JavaError("expected a program java, found none")
    return Path(spec.submodule_search_locations[0])
