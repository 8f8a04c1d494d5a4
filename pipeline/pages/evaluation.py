"""What bitgen-eval leaves beside results.json: a page, every figure of it as PNG, and what each item scored."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bitgen.evaluation.attention import Looked
from bitgen.evaluation.attention_figures import attention_cards, attention_png
from bitgen.evaluation.bootstrap import PERCENT
from bitgen.evaluation.breakdown import breakdown_table
from bitgen.evaluation.caption_cards import Captioned, caption_card, caption_png
from bitgen.evaluation.inside_tables import (
    Sets,
    attention_table,
    efficiency_table,
    forgetting_table,
    heads_table,
    memory_table,
    naming_table,
    size_table,
    vectors_table,
)
from bitgen.evaluation.items import write_items
from bitgen.evaluation.page import Html, count, document, facts, join, paragraph, table, text
from bitgen.evaluation.raster import png
from bitgen.evaluation.tables import Table, captioning_table, grounding_table, retrieval_table
from pipeline.files import replacing, write_text
from pipeline.measuring import Beside, file_name

PAGE = "index.html"


def folder_of(out: Path) -> Path:
    """Beside `out`, results.json, the folder results.page. Raises `OSError` where something else has that name."""
    folder = out.with_suffix(".page")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(f"expected a folder for the page or nothing, found something else: {folder}")
    return folder


_INSIDE: Mapping[str, tuple[Callable[[Sets], Table], ...]] = {
    "memory": (memory_table, naming_table, forgetting_table),
    "attention": (attention_table,),
    "vectors": (vectors_table,),
}


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Every table that the results have rows for, in the order of the tasks."""
    found = [retrieval_table(results), grounding_table(results), breakdown_table(results), captioning_table(results)]
    for task, makers in _INSIDE.items():
        found += [make(_sets(results, task)) for make in makers]
    found.append(heads_table([(label, entry["heads"]) for label, entry in _sets(results, "attention")]))
    if "efficiency" in results:
        found += [efficiency_table(results["efficiency"]), size_table(results["efficiency"])]
    return [each for each in found if each.rows]


def write_beside(folder: Path, results: Mapping[str, Any], beside: Beside) -> None:
    """`index.html`, NAME.png and SET-KIND.parquet into `folder`, in place of those of an earlier evaluation.

    The page goes first and comes last: where it is, the rest is whole.
    """
    clear(folder)
    for name, figures in beside.figures.items():
        for kind, figure in figures.items():
            _write(folder / f"{file_name(name)}-{kind}.png".removeprefix("-"), png(figure))
    for number, looked in enumerate(beside.looked):
        if looked.may_leave:
            _write(folder / f"attention-{number}.png", attention_png(looked))
    for name, cards in beside.captions.items():
        for number, card in enumerate(cards):
            if card.may_leave:
                _write(folder / f"{file_name(name)}-caption-{number}.png", caption_png(card))
    for (name, kind), items in beside.items.items():
        with replacing(folder / f"{file_name(name)}-{kind}.parquet") as path:
            write_items(path, items)
    write_text(folder / PAGE, page(results, beside))


def clear(folder: Path) -> None:
    """An empty folder, but for what is not of an earlier page's kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder / PAGE, *folder.glob("*.png"), *folder.glob("*.parquet")):
        path.unlink(missing_ok=True)


def page(results: Mapping[str, Any], beside: Beside) -> str:
    about = {name: results[name] for name in ("run", "checkpoint", "phase", "seed")}
    about |= {name: count(results[name]) for name in ("step", "parameters")}
    about["held out by"] = str(results["holdout_sha256"])[:12]
    notes = [paragraph(note, "warning") for note in results["notes"]]
    lead = paragraph(
        f"Rows set back are the ends of {PERCENT}% intervals (of the row above them, by drawing photographs anew), and chance "
        "levels and controls: what a model scores that has not learnt this.",
        "muted",
    )
    drawn = [table(each.header, each.rows, each.lesser) for each in tables(results)]
    sections = [("Summary", join((facts(about), *notes))), ("Results", join((lead, *drawn)))]
    if beside.figures:
        charts = [
            Html(f'<h3>{text(name or "the model")}</h3><div class="charts">{join(figures.values())}</div>')
            for name, figures in beside.figures.items()
        ]
        sections.append(("Figures", join(charts)))
    if beside.looked:
        sections.append(("Where heads look", join((_kept(beside.looked), attention_cards(beside.looked)))))
    cards = [card for each in beside.captions.values() for card in each]
    if cards:
        sections.append(("Captions, from the best to the worst", join((_kept(cards), *map(caption_card, cards)))))
    return document(f"Evaluation: {results['run']}", f"{results['checkpoint']}", sections, "made by bitgen-eval")


def _kept(cards: Sequence[Captioned | Looked]) -> Html:
    """How many of them `write_beside` makes no PNG of."""
    kept = sum(not card.may_leave for card in cards)
    said = f"{kept:,} of these are no PNG: their licence does not let everybody pass the picture on."
    return paragraph(said, "muted") if kept else Html("")


def _sets(results: Mapping[str, Any], task: str) -> Sets:
    sets = results.get("heldout", {}).get("datasets", {})
    return [(name, entry[task]) for name, entry in sets.items() if task in entry]


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as to:
        to.write_bytes(data)
