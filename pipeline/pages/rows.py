"""What became of every row, by reason and with examples; and of every address that was crawled."""

from collections.abc import Iterable

from bitgen.evaluation.histograms import bar, percent
from bitgen.evaluation.page import Html, count, fold, grid, join, paragraph, text
from pipeline.pages.glance import shares
from pipeline.pages.ledger import Example
from pipeline.pages.world import Dataset, World, is_of_crawl

OPEN = 4
"""Datasets up to which each one's reasons are open to begin with."""
NAMED = 3
"""Reasons named beside the name of a dataset, the most frequent ones."""
LONGEST = 180
"""Characters shown of what the ledger says of a row."""
MEANINGS = {
    "kept": "in the shards",
    "held_out": "shows an evaluation image: never trained on",
    "duplicate": "same bytes as an earlier image of this dataset; its text went there",
    "no_image": "the image is not among the files",
    "no_text": "none of the image's texts is good",
    "empty_text": "nothing but white space",
    "bad_text": "not a text",
    "bad_box": "a box outside its image, or without area",
    "bad_number": "not a number where one belongs",
    "bad_span": "characters outside the text",
    "no_box": "a phrase without a box",
    "no_size": "no width and height are stated",
    "bad_path": "a path that leaves its folder",
    "size_mismatch": "the image is not of the size that its boxes were drawn on",
    "decode_error": "the image is damaged or cut short",
    "unknown_format": "no JPEG, PNG or WebP",
    "too_large": "too many bytes or pixels",
    "too_small": "sides of a few pixels: a placeholder",
    "timeout": "no answer in time",
    "dns_error": "the host's name is not known any more",
    "dns_timeout": "the host's name could not be looked up in time",
    "tls_error": "no secure connection: certificate, protocol",
    "connection_error": "the connection was refused or lost",
    "bad_url": "not an address that can be asked",
    "bad_answer": "not HTTP, or encoded unasked",
    "redirects": "too many redirects, or in a circle",
    "cut_short": "fewer bytes than announced",
    "no_bytes": "an empty answer",
    "opted_out": "the owner does not want it used (X-Robots-Tag)",
    "private_address": "leads into a private network",
    "crawl_error": "another error of the crawl",
    "left_alone": "not asked, because the host rests: bitgen-download asks again",
    "not_crawled": "not asked for yet: bitgen-download goes on",
    "http_400": "the server did not understand",
    "http_401": "needs a login",
    "http_403": "forbidden",
    "http_404": "gone",
    "http_410": "gone for good",
    "http_429": "asked too often",
    "http_451": "withheld for legal reasons",
}


def rows_section(world: World) -> Html:
    """Kept and refused by reason, for every dataset."""
    whole = [each.name for each in world.datasets if set(each.counts) == {"kept"}]
    silent = [each.name for each in world.datasets if not each.counts]
    rest = [each for each in world.datasets if each.counts and each.name not in whole]
    lead = "Every row of every annotation file has one outcome; ledger.parquet beside the shards names each row."
    parts = [paragraph(lead, "muted")]
    if whole:
        parts.append(paragraph(f"Every row was kept of: {', '.join(whole)}.", "wide"))
    if silent:
        parts.append(paragraph(f"These do not say what became of their rows: {', '.join(silent)}.", "muted"))
    for each in rest:
        parts.append(fold(_head(each), _reasons(each), len(rest) <= OPEN))
    return join(parts)


def crawl_section(world: World) -> Html | None:
    """What the addresses gave; None where nothing was crawled."""
    crawled = [each for each in world.datasets if each.is_crawled and each.counts]
    if not crawled:
        return None
    lead = "Of the rows whose image was asked for: without those whose text is empty or whose ids say held out."
    return join((paragraph(lead, "muted"), *(_crawl(each) for each in crawled)))


def meaning(outcome: str) -> str:
    """An outcome in words; empty for one that is not known here."""
    if outcome.startswith("http_5"):
        return "the server failed"
    return MEANINGS.get(outcome, "an answer that holds no image" if outcome.startswith("http_") else "")


def _head(each: Dataset) -> Html:
    kept, rows = each.counts["kept"], each.counts.total()
    lost = [f"{outcome} {percent(many, rows)}" for outcome, many in ordered(each.counts.items()) if outcome != "kept"]
    said = f"{percent(kept, rows)} of {count(rows)} rows kept; {', '.join(lost[:NAMED])}"
    return Html(f'<b>{text(each.name)}</b>{shares(each)}<span class="muted">{text(said)}</span>')


def _reasons(each: Dataset) -> Html:
    counts, rows = each.counts, each.counts.total()
    examples = each.ledger.examples if each.ledger else {}
    lines = [
        [
            Html(f"<code>{text(outcome)}</code><br><small class='muted'>{text(meaning(outcome))}</small>"),
            text(count(many)),
            text(percent(many, rows)),
            bar(many, rows, _kind(outcome)),
            _examples(examples.get(outcome, ())),
        ]
        for outcome, many in ordered(counts.items())
        if outcome != "kept"
    ]
    header = [text(name) for name in ("reason", "rows", "share", "", "for example")]
    return grid(header, lines, (1, 2), "reasons")


def _crawl(each: Dataset) -> Html:
    ids = each.ledger.held_out["id"] + each.ledger.held_out["path or url"] if each.ledger else 0
    asked = {
        outcome: many for outcome, many in each.counts.items() if outcome not in ("empty_text", "no_text", "bad_text")
    }
    asked["held_out"] = asked.get("held_out", 0) - ids
    failed = {outcome: many for outcome, many in asked.items() if is_of_crawl(outcome)}
    total, lost = sum(asked.values()), sum(failed.values())
    unusable = {o: n for o, n in asked.items() if o not in failed and o not in ("kept", "held_out", "duplicate")}
    came = total - lost - sum(unusable.values())
    lines = [("an image came", "kept, or dropped as duplicate or evaluation image", came, "s2")]
    lines += [(outcome, meaning(outcome), many, "s4") for outcome, many in ordered(unusable.items())]
    lines += [(outcome, meaning(outcome), many, "s1") for outcome, many in ordered(failed.items())]
    cells = [
        [
            Html(f"<code>{text(outcome)}</code>" if kind != "s2" else f"<b>{text(outcome)}</b>"),
            text(count(many)),
            text(percent(many, total)),
            bar(many, total, kind),
            text(said),
        ]
        for outcome, said, many, kind in lines
    ]
    header = [text(name) for name in ("outcome", "rows", "share", "", "")]
    head = f"{each.name}: {percent(came, total)} of {count(total)} rows have an image"
    return join((Html(f"<h3>{text(head)}</h3>"), grid(header, cells, (1, 2), "reasons")))


def ordered(counts: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The most frequent first."""
    return sorted((each for each in counts if each[1]), key=lambda each: (-each[1], each[0]))


def shortened(words: str) -> str:
    """At most `LONGEST` characters, and that there are more."""
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"


def _examples(examples: Iterable[Example]) -> Html:
    lines = [
        Html(f"<li><code>{text(shortened(each.row))}</code> {text(shortened(each.detail))}</li>") for each in examples
    ]
    return Html(f'<ul class="plain examples">{join(lines)}</ul>') if lines else text("–")


def _kind(outcome: str) -> str:
    return {"held_out": "s0", "duplicate": "s4"}.get(outcome, "s1")
