"""METEOR and SPICE, programs in Java inside the package pycocoevalcap: their figures where all they need is there, else why not.

Nothing is downloaded: pycocoevalcap would fetch SPICE's parser (400 MB) at its first use, so SPICE is asked only where that is
there already. Both get the words of `caption_scores.words`, as the other figures do.

Sources: METEOR 1.5, Denkowski and Lavie, W14-3348; SPICE, arXiv 1607.08822.
"""

import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from bitgen.evaluation.caption_scores import Words

Texts = dict[int, list[str]]
"""By number of the image, what is said of it."""
LIBRARY = "spice/lib"
"""Where in the package SPICE looks for its parser."""
JAVA = ("meteor", "spice")
PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


class JavaError(Exception):
    """A figure cannot be had here."""


def java_figures(
    captions: Mapping[str, Sequence[Words]], references: Sequence[Sequence[Words]]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Of several sets of captions by name their "meteor" and "spice", 0..1, and for each of the two that is missing, why.

    Args:
        captions: of every image, in each set.
        references: one or more of every image.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in captions}
    missing: dict[str, str] = {}
    meant = {number: [" ".join(text) for text in texts] for number, texts in enumerate(references)}
    sets = {name: {n: [" ".join(text)] for n, text in enumerate(texts)} for name, texts in captions.items()}
    for figure, measure in zip(JAVA, (_meteor, _spice), strict=True):
        try:
            values = measure(meant, list(sets.values()))
        except JavaError as error:
            missing[figure] = str(error)
        # A program that ends at once closes its pipe, or leaves a line that is no number, or a file without what is looked for.
        except (OSError, ValueError, LookupError, TypeError, ImportError, subprocess.SubprocessError) as error:
            missing[figure] = f"expected a figure from its program in Java, found {type(error).__name__}: {error}"
        else:
            for name, value in zip(sets, values, strict=True):
                found[name][figure] = value
    return found, missing


def _meteor(references: Texts, sets: Sequence[Texts]) -> list[float]:
    _package()
    from pycocoevalcap.meteor.meteor import Meteor

    program = Meteor()  # reads its paraphrases for 10 s, so one for all sets
    try:
        return [float(program.compute_score(references, captions)[0]) for captions in sets]
    finally:
        program.meteor_p.kill()
        program.meteor_p.communicate()
        if program.lock.locked():  # after an error it still is, and the object waits for it when it goes
            program.lock.release()


def _spice(references: Texts, sets: Sequence[Texts]) -> list[float]:
    library = _package() / LIBRARY
    for name in PARSER:
        if not (library / name).is_file():
            how = "python -m pycocoevalcap.spice.get_stanford_models fetches it"
            raise JavaError(f"expected {name}, found none: {library} ({how})")
    from pycocoevalcap.spice.spice import Spice

    return [float(Spice().compute_score(references, captions)[0]) for captions in sets]


def _package() -> Path:
    """Where pycocoevalcap lies. Raises `JavaError` where it or Java is missing."""
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise JavaError("expected the package pycocoevalcap, found none: pip install 'bitgen[captions]'")
    if which("java") is None:
        raise JavaError("expected a program java, found none")
    return Path(spec.submodule_search_locations[0])
