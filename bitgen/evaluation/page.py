"""The parts of a self-contained HTML page: no script, nothing loaded, every string from data escaped here.

Functions whose names end in nothing special take plain text and escape it; what they return is `Html`, and only `Html`
is put into a page as it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isfinite
from typing import NewType

from bitgen.evaluation.style import STYLE

Html = NewType("Html", str)
"""Markup of ours, in which everything from data has been escaped."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The browser runs and fetches nothing, even if an escape were missing somewhere."""

TINY_IMAGES = 1000
"""Training images below which held-out figures say nothing."""


def document(title: str, lead: str, sections: Sequence[tuple[str, Html]], footer: str = "") -> str:
    """A whole page.

    Args:
        lead: one line under the title.
        sections: heading and body of each; the headings become links at the top.
    """
    links = "".join(f'<a href="#part-{n}">{text(heading)}</a>' for n, (heading, _) in enumerate(sections))
    body = "".join(f'<h2 id="part-{n}">{text(heading)}</h2>{part}' for n, (heading, part) in enumerate(sections))
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n"
        f'<body><header><h1>{text(title)}</h1><p class="muted">{text(lead)}</p><nav>{links}</nav></header>\n'
        f"<main>{body}</main>\n<footer>{text(footer)}</footer></body></html>\n"
    )


def text(value: object) -> Html:
    """Anything as text, quotes escaped too, so that it is safe within an attribute. Control characters are shown as �."""
    plain = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(value))
    return Html(escape(plain, quote=True))


def join(parts: Iterable[Html]) -> Html:
    return Html("".join(parts))


def paragraph(words: str, kind: str = "") -> Html:
    """Plain text as a paragraph; `kind` is one of our classes: muted, warning."""
    return Html(f'<p class="{text(kind)}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>")


def warning_of_size(train_images: int) -> Html:
    """What a reader must know before reading held-out figures of a tiny training set; nothing for a larger one."""
    if train_images >= TINY_IMAGES:
        return Html("")
    return paragraph(size_warning(train_images), "warning")


def size_warning(train_images: int) -> str:
    """The same, as plain text."""
    return (
        f"This model was trained on {train_images:,} images. At this size it can only learn them by heart: its figures "
        "on training images show that every part learns, and its figures on held-out images mean nothing."
    )


def facts(values: Mapping[str, object]) -> Html:
    """Labelled values in a grid."""
    return Html(
        '<dl class="facts">'
        + "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in values.items())
        + "</dl>"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], lesser: Iterable[int] = ()) -> Html:
    """Columns whose cells are all numbers are aligned to the right.

    Args:
        lesser: numbers of the rows that stand back, such as controls.
    """
    numeric = [bool(rows) and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    kinds = [' class="number"' if right else "" for right in numeric]
    faint = set(lesser)
    head = "".join(f'<th scope="col"{kind}>{text(name)}</th>' for name, kind in zip(header, kinds, strict=True))
    lines = [
        (
            ' class="lesser"' if n in faint else "",
            "".join(f"<td{k}>{text(c)}</td>" for c, k in zip(row, kinds, strict=True)),
        )
        for n, row in enumerate(rows)
    ]
    body = "".join(f"<tr{kind}>{cells}</tr>" for kind, cells in lines)
    return Html(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def grid(header: Sequence[Html], rows: Sequence[Sequence[Html]], right: Iterable[int] = (), kind: str = "") -> Html:
    """A table whose cells are markup of ours.

    Args:
        right: numbers of the columns that are aligned to the right.
        kind: one of our classes.
    """
    to_right = set(right)
    kinds = [' class="number"' if column in to_right else "" for column in range(len(header))]
    head = "".join(f'<th scope="col"{k}>{name}</th>' for name, k in zip(header, kinds, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{k}>{cell}</td>' for cell, k in zip(row, kinds, strict=True))}</tr>" for row in rows
    )
    return Html(
        f'<div class="scroll"><table class="grid {kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def fold(summary: Html, body: Html, is_open: bool) -> Html:
    """A part of the page that the reader can open and close."""
    return Html(f"<details{' open' if is_open else ''}><summary>{summary}</summary>{body}</details>")


def count(value: int) -> str:
    return f"{value:,}"


def size(size_bytes: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:,.0f} {unit}" if unit == "bytes" else f"{size_bytes:,.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.2f} TB"


def share(value: float | None) -> str:
    """A fraction as a percentage."""
    return figure(None if value is None else 100 * value, ".1f")


def figure(value: float | None, form: str) -> str:
    """A number in the format `form`; a dash for what is not finite, which is None where it comes from JSON."""
    return "–" if value is None or not isfinite(value) else f"{value:{form}}"


def _is_number(cell: str) -> bool:
    return cell in ("", "–") or (cell[0] in "0123456789+-" and cell[-1] in "0123456789%B")
