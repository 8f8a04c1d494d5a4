"""The rows of one image, gathered into a `Candidate`."""

from collections.abc import Iterable

from bitgen.record import Phrase, Sample, Text
from pipeline.annotations.boxes import RowError
from pipeline.manifest import Source
from pipeline.rows import Candidate, Refusal

_EXPECTED_UTF8 = "expected a text with a UTF-8 form, found lone surrogates"


class Gathering:
    """Texts, kept rows and refused rows of one image, in the order in which they are added.

    In a training source equal texts with equal phrases become one; an evaluation source keeps every row, since its
    published counts do.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._texts: list[Text] = []
        self._seen: dict[str, list[Text]] = {}
        self._rows: list[str] = []
        self._refused: list[Refusal] = []

    def add(self, row: str, text: object, phrases: tuple[Phrase, ...] = ()) -> None:
        """A row with its text; refused as `empty_text` when there is none, `bad_span` when a phrase leaves it."""
        try:
            self._add((row,), check_text(text) if phrases else check_text(text).strip(), phrases)
        except RowError as bad:
            self.refuse(row, bad)

    def add_joined(self, rows: tuple[str, ...], text: str, phrases: tuple[Phrase, ...]) -> None:
        """Several good rows that one text is made of."""
        self._add(rows, text, phrases)

    def refuse(self, row: str, bad: RowError) -> None:
        """A row, or a part of one (`captions.json#12/3`: its box 3), that is left out."""
        self._refused.append(Refusal(_escaped(row), bad.reason, _escaped(str(bad))))

    def candidate(
        self,
        key: str,
        image: str,
        ids: Iterable[str],
        width: int = 0,
        height: int = 0,
        licence: str = "",
        url: str = "",
    ) -> Candidate:
        """Everything gathered, as one candidate. An empty `licence` becomes the source's.

        Where the image's name, its licence or its `url` has no UTF-8 form, no row is kept: they are refused as `bad_url`
        or `bad_text`, and what cannot be written is written with escapes.
        """
        for reason, text in (
            ("bad_url" if "://" in image else "bad_text", image),
            ("bad_url", url),
            ("bad_text", licence),
        ):
            if not has_utf8(text):
                self._refuse_all(RowError(reason, f"{_EXPECTED_UTF8}: {text[:200]!a}"))
        image, url, licence = _escaped(image), _escaped(url), _escaped(licence)
        sample = Sample(
            key=key,
            source=self._source.name,
            split=self._source.split,
            ids=tuple(sorted(set(ids))),
            width=width,
            height=height,
            licence=licence or self._source.licence,
            url=url,
            sha256="",
            texts=tuple(self._texts),
        )
        return Candidate(sample, image, tuple(self._rows), tuple(self._refused))

    def _refuse_all(self, bad: RowError) -> None:
        """Nothing of what was added is kept."""
        for row in self._rows:
            self.refuse(row, bad)
        self._rows, self._texts = [], []

    def _add(self, rows: tuple[str, ...], text: str, phrases: tuple[Phrase, ...]) -> None:
        for phrase in phrases:
            if phrase.stop > len(text):
                raise RowError("bad_span", f"expected a span within {len(text)} characters, found {phrase.stop}")
        made = Text(text, phrases)
        same = self._seen.setdefault(text, [])
        if self._source.role == "eval" or made not in same:
            same.append(made)
            self._texts.append(made)
        self._rows += rows


def check_text(text: object) -> str:
    """`text` when there is one. Raises `RowError` as `empty_text`, or as `bad_text` when it has no UTF-8 form."""
    if not isinstance(text, str) or not text.strip():
        raise RowError("empty_text", f"expected a text, found {text!r:.200}")
    if not has_utf8(text):
        raise RowError("bad_text", f"{_EXPECTED_UTF8}: {text[:80]!a}")
    return text


def has_utf8(text: str) -> bool:
    """Whether `text` can be written; JSON may hold half a character, as "\\ud800", which cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escaped(text: str) -> str:
    """`text`, what has no UTF-8 form in it as `\\ud800`."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
