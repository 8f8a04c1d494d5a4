"""The first glance at a data folder: what was built, what share of the rows was kept, what needs attention."""

from collections.abc import Iterable, Sequence

from bitgen.evaluation.histograms import bar, key, percent, stack
from bitgen.evaluation.page import Html, count, facts, grid, join, paragraph, size, text
from pipeline.ledger import refused
from pipeline.pages.figures import distinct
from pipeline.pages.world import Dataset, World, table_of

NEAR = 0.8
"""Share of a refusal ceiling from which it is said that the refusals come near it."""
KINDS = (("kept", "s2"), ("held out", "s0"), ("duplicate", "s4"), ("refused", "s1"))
"""What becomes of rows, with the colours of the page."""
NAMED = 6
"""Datasets named one by one; of more it is said how many."""


def glance(world: World) -> Html:
    """The head of the page."""
    wanting = attention(world)
    items = join(Html(f"<li>{text(each)}</li>") for each in wanting)
    said = (
        Html(f'<div class="warning"><h3>Needs attention</h3><ul>{items}</ul></div>')
        if wanting
        else paragraph("Nothing needs attention.", "good")
    )
    return join((totals(world), said, overview(world)))


def totals(world: World) -> Html:
    """The whole folder in a few numbers."""
    train, every = world.of(is_eval=False), world.datasets
    kept, rows = sum(each.counts["kept"] for each in train), sum(each.counts.total() for each in train)
    return facts(
        {
            "datasets to train on": count(len(train)),
            "datasets to evaluate on": count(len(every) - len(train)),
            "samples": count(sum(each.figures.images for each in every)),
            "samples to train on": count(sum(each.figures.images for each in train)),
            "photographs to train on": count(distinct([each.figures.photographs for each in train])),
            "rows kept to train on": f"{percent(kept, rows)} of {count(rows)}",
            "texts": count(sum(each.figures.texts.total for each in every)),
            "phrases": count(sum(each.figures.phrases.total for each in every)),
            "boxes": count(sum(each.figures.boxes.total for each in every)),
            "on disk": size(sum(each.size_bytes for each in every)),
        }
    )


def overview(world: World) -> Html:
    """A line for every dataset."""
    header = (
        "dataset",
        "images",
        "texts",
        "boxes",
        "on disk",
        "rows",
        "what became of them",
        "kept",
        "refused",
        "allowed",
    )
    rows = [_line(each) for each in world.datasets]
    return join((key(KINDS), grid([text(name) for name in header], rows, (1, 2, 3, 4, 5, 7, 8, 9))))


def shares(each: Dataset) -> Html:
    """What became of a dataset's rows, as one bar."""
    counts = each.counts
    numbers = (counts["kept"], counts["held_out"], counts["duplicate"], each.refused)
    return stack((name, many, kind) for (name, kind), many in zip(KINDS, numbers, strict=True))


def attention(world: World) -> list[str]:
    """What a person should look at before training, most pressing first; empty where all is well."""
    found: list[str] = []
    for name, reason in world.damaged.items():
        found.append(f"{name} cannot be opened: {reason}.")
    for name, begun in world.unfinished.items():
        said = f"{name} is not finished (shards made: {count(begun.shards)}); building again goes on there."
        if begun.counts:
            worst = _reasons(refused(begun.counts).most_common(3))
            against = percent(refused(begun.counts).total(), begun.counts.total())
            said += f" Its ledger is there: {against} of {count(begun.counts.total())} rows are refused ({worst})."
        found.append(said)
    found += _between(world)
    for each in world.datasets:
        found += _of_one(each)
    found += _missing(world)
    return found


def _between(world: World) -> Iterable[str]:
    """What does not go together."""
    lists: dict[str, list[str]] = {}
    for each in world.datasets:
        lists.setdefault(str(each.index.dataset.get("holdout_sha256")), []).append(each.name)
    if len(lists) > 1:
        sets = "; ".join(f"{digest[:12]}: {names(some)}" for digest, some in lists.items())
        yield (
            "Datasets were built under different hold-out lists: they must not be trained and evaluated together, and "
            f"bitgen-train refuses them ({sets})."
        )
    if not world.is_root:
        return
    train = world.of(is_eval=False)
    others = [
        each.name for each in train if each.index.dataset.get("looks_sha256", world.looks_sha256) != world.looks_sha256
    ]
    if others:
        yield f"Compared with other evaluation images than are here now: {names(others)}. Build them again."
    if train and not world.of(is_eval=True):
        yield "There is no dataset to evaluate on: training images were compared with none by their bytes or looks."


def _of_one(each: Dataset) -> Iterable[str]:
    """What is odd about one dataset."""
    counts, rows, ceiling = each.counts, each.counts.total(), each.ceiling
    if ceiling and rows and each.refused >= NEAR * ceiling * rows:
        worst = _reasons(refused(counts).most_common(3))
        yield (
            f"{each.name}: {percent(each.refused, rows)} of the rows are refused, and {percent(ceiling, 1)} is where its "
            f"build stops ({worst})."
        )
    counted = table_of(each.index, "counted")
    for what, published in table_of(each.index, "published").items():
        if counted.get(what) != published:
            found = count(counted[what]) if what in counted else "no count"
            yield f"{each.name}: {count(published)} {what} are published, {found} found."
    if each.ledger is None:
        yield f"{each.name}: its rows cannot be named: {each.problem}."
    elif counts and each.ledger.counts != counts:
        yield (
            f"{each.name}: the ledger has {count(each.ledger.counts.total())} rows of which "
            f"{count(each.ledger.counts['kept'])} are kept, its dataset.json says {count(rows)} and {count(counts['kept'])}."
        )
    if each.ledger is not None and each.ledger.kept_looks:
        yield f"{each.name}: {count(each.ledger.kept_looks)} rows were kept although their image looks like an evaluation image."
    if each.records.damaged:
        yield f"{each.name}: {count(each.records.damaged)} of the records read are damaged; bitgen-shards --verify tells more."
    if limit := each.index.dataset.get("limit"):
        yield f"{each.name}: built with a limit of {limit} images: not the whole source."
    if each.index.dataset.get("check") == "header":
        yield f"{each.name}: only headers were read: damage is unseen, and no image was compared by its look."


def _missing(world: World) -> Iterable[str]:
    """What the manifests know and nobody built."""
    if not world.is_root:
        return
    absent = {manifest: [n for n in some if n.startswith("eval/")] for manifest, some in world.missing.items()}
    if lacking := {manifest: some for manifest, some in absent.items() if some}:
        several = "; ".join(f"{names(some)} (manifests/{manifest}.toml)" for manifest, some in lacking.items())
        yield f"Evaluation sets that are not built: {several}."
    absent = {manifest: [n for n in some if not n.startswith("eval/")] for manifest, some in world.missing.items()}
    if lacking := {manifest: some for manifest, some in absent.items() if some}:
        several = "; ".join(f"{names(some)} (manifests/{manifest}.toml)" for manifest, some in lacking.items())
        yield f"Sets to train on that are not built: {several}."


def _line(each: Dataset) -> list[Html]:
    figures, rows, ceiling = each.figures, each.counts.total(), each.ceiling
    return [
        text(each.name),
        text(count(figures.images)),
        text(count(figures.texts.total)),
        text(count(figures.boxes.total) if figures.boxes.total else "–"),
        text(size(each.size_bytes)),
        text(count(rows) if rows else "–"),
        shares(each),
        text(percent(each.counts["kept"], rows)),
        text(percent(each.refused, rows)),
        _against(each.refused, rows, ceiling),
    ]


def _against(against: int, rows: int, ceiling: float | None) -> Html:
    """The refusal ceiling, with how much of it is used up."""
    if ceiling is None or not rows:
        return text("–")
    used = bar(against, ceiling * rows, "s1") if ceiling else Html("")
    return Html(f'<span class="ceiling">{used}{text(percent(ceiling, 1))}</span>')


def names(some: Sequence[str]) -> str:
    """At most `NAMED` of them, and how many more."""
    more = len(some) - NAMED
    return ", ".join(some[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _reasons(some: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{outcome} {count(many)}" for outcome, many in some)
