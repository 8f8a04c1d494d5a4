"""METEOR and SPICE, programs in Java inside the package pycocoevalcap: their figures where all they need is there, else why not.

Nothing is downloaded: pycocoevalcap would fetch SPICE's parser (400 MB) at its first use, so SPICE is asked only where that is
there already. Both get the words of `caption_scores.words`, as the other figures do.

Sources: METEOR 1.5, Denkowski and Lavie, W14-3348; SPICE, arXiv 1607.08822.
"""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from bitgen.evaluation.caption_scores import Words

Texts = dict[int, list[str]]
"""By number of the image, what is said of it."""
PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


class JavaError(Exception):
    """A figure cannot be had here."""


def java_figures(
    captions: Mapping[str, Sequence[Words]], references: Sequence[Sequence[Words]]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """ "meteor" and "spice", 0..1, of several sets of captions by name, and for each that is missing, why.

    Args:
        captions: of every image, in each set.
        references: one or more of every image.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in captions}
    missing: dict[str, str] = {}
    meant = {number: [" ".join(text) for text in texts] for number, texts in enumerate(references)}
    for figure, start in {"meteor": _meteor, "spice": _spice}.items():
        try:
            measure = start()
            values = {
                name: measure(meant, {number: [" ".join(text)] for number, text in enumerate(texts)})
                for name, texts in captions.items()
            }
        except JavaError as error:
            missing[figure] = str(error)
        # A program that ends at once closes its pipe, or leaves a line that is no number.
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            missing[figure] = f"expected a figure from its program in Java, found {type(error).__name__}: {error}"
        else:
            for name, value in values.items():
                found[name][figure] = value
    return found, missing


def _meteor() -> Callable[[Texts, Texts], float]:
    _package()

    def measure(references: Texts, captions: Texts) -> float:
        from pycocoevalcap.meteor.meteor import Meteor

        program = Meteor()
        try:
            return float(program.compute_score(references, captions)[0])
        finally:
            if program.lock.locked():  # after an error it still is, and the object waits for it when it goes
                program.lock.release()

    return measure


def _spice() -> Callable[[Texts, Texts], float]:
    library = _package() / "spice" / "lib"
    for name in PARSER:
        if not (library / name).is_file():
            how = "python -m pycocoevalcap.spice.get_stanford_models, in that folder's parent, fetches it"
            raise JavaError(f"expected {name} in {library}, found none; {how}")

    def measure(references: Texts, captions: Texts) -> float:
        from pycocoevalcap.spice.spice import Spice

        return float(Spice().compute_score(references, captions)[0])

    return measure


def _package() -> Path:
    """Where pycocoevalcap lies. Raises `JavaError` where it or Java is missing."""
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise JavaError("expected the package pycocoevalcap, found none: pip install 'bitgen[captions]'")
    if which("java") is None:
        raise JavaError("expected a program java, found none")
    return Path(spec.submodule_search_locations[0])
