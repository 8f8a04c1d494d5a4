"""How long the texts are, how many words they hold, and what that is of the BabyLM budgets."""

from collections.abc import Sequence
from dataclasses import dataclass

from bitgen.evaluation.histograms import bar, percent, short
from bitgen.evaluation.page import Html, count, grid, join, paragraph, text
from bitgen.tokens import MAX_TOKENS
from pipeline.pages.distributions import chart_of, middle_of, read_of, sampled, shown_of, side_by_side, spark_column
from pipeline.pages.figures import TOKENS_AXIS, many_axis
from pipeline.pages.world import Dataset, World

BUDGETS = (
    ("strict-small", 10_000_000, "all words of the training texts"),
    ("strict", 100_000_000, "all words of the training texts"),
    ("multimodal, words of captions", 50_000_000, "beside 50M words of text alone, which no dataset here holds"),
)
"""BabyLM's tracks. Source: babylm.github.io"""


@dataclass(frozen=True)
class Words:
    """Of some datasets together."""

    words: int
    error: int
    """How far off `words` may be in 19 of 20 samples; 0 where all are counted."""
    distinct: int
    """Among the records that were read."""


def words_in(some: Sequence[Dataset]) -> Words:
    """Adds up datasets; their samples are independent, so the squares of their errors add up."""
    error = sum(each.records.error**2 for each in some) ** 0.5
    vocabulary = set().union(*(each.records.vocabulary for each in some))
    return Words(sum(each.records.all_words for each in some), round(error), len(vocabulary))


def texts_section(world: World) -> Html:
    """Texts and their tokens, words, budgets."""
    some = shown_of(world)
    charts = (
        chart_of("Tokens of a text", some, lambda f: f.tokens, TOKENS_AXIS, "texts"),
        chart_of("Texts of an image", some, lambda f: f.texts, many_axis("texts"), "images"),
    )
    lead = (
        f"Tokens are GPT-2's, two end-of-texts included, of every text; longer ones are cut at {MAX_TOKENS}. Words are what "
        f"stands between white space, as BabyLM counts them, from {sampled(world, world.datasets)}; distinct words are "
        "without case and outer punctuation, and only of the records read."
    )
    return join(
        (paragraph(lead, "muted"), side_by_side(charts), _table(world), Html("<h3>BabyLM budgets</h3>"), budgets(world))
    )


def budgets(world: World) -> Html:
    """The words of the training texts as shares of BabyLM's budgets."""
    train = world.of(is_eval=False)
    if not train:
        return paragraph("No dataset to train on is here.", "muted")
    sets = {phase: [each for each in train if each.name.startswith(f"{phase}/")] for phase in ("coarse", "fine")}
    columns = {phase: words_in(some) for phase, some in sets.items() if some}
    if len(columns) > 1:
        columns["all"] = words_in(train)
    rows = [
        [text("in all"), text(""), *(text(_about(each)) for each in columns.values())],
        [text("distinct, in the records read"), text(""), *(text(count(each.distinct)) for each in columns.values())],
    ]
    for name, budget, said in BUDGETS:
        lead = Html(f"{text(name)}<br><small class='muted'>{text(said)}</small>")
        rows.append([lead, text(short(budget)), *(_against(each.words, budget) for each in columns.values())])
    header = [text("budget"), text("words"), *(text(f"{phase} texts") for phase in columns)]
    lead = "Each text counted once, however many epochs see it and however many datasets hold its photograph."
    return join((grid(header, rows, range(1, len(header))), paragraph(lead, "muted")))


def _table(world: World) -> Html:
    tokens, texts = (
        spark_column(world, lambda f: f.tokens, TOKENS_AXIS),
        [each.figures.texts for each in world.datasets],
    )
    header = [text("dataset"), text("texts"), text("mean of an image"), tokens[0], text("median, 5 to 95 of 100")]
    header += [
        text(f"cut at {MAX_TOKENS}"),
        text("words"),
        text("mean of a text"),
        text("distinct"),
        text("records read"),
    ]
    rows = []
    for n, each in enumerate(world.datasets):
        f, records = each.figures, each.records
        rows.append(
            [
                text(each.name),
                text(count(texts[n].total)),
                text(f"{texts[n].total / f.images:.1f}" if f.images else "–"),
                tokens[1][n],
                middle_of(f.tokens),
                text(count(f.cut)),
                text(_about(words_in([each]))),
                text(f"{records.words / records.texts:.1f}" if records.texts else "–"),
                text(count(len(records.vocabulary))),
                text(read_of(each)),
            ]
        )
    return grid(header, rows, (1, 2, 4, 5, 6, 7, 8, 9))


def _about(found: Words) -> str:
    return f"{short(found.words)} ± {short(found.error)}" if found.error else count(found.words)


def _against(words: int, budget: int) -> Html:
    """How much of a budget that is."""
    times = words / budget
    said = percent(words, budget) if times <= 1 else f"{times:.1f} times" if times < 10 else f"{times:,.0f} times"
    return Html(f'<span class="ceiling">{bar(words, budget, "s1" if times > 1 else "s2")}{text(said)}</span>')
