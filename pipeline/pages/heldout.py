"""Which rows were held out of training, how that was found, and which images are there more than once."""

import re

import pyarrow as pa

from bitgen.evaluation.page import Html, count, grid, join, paragraph, text
from bitgen.evaluation.sheet import captioned
from bitgen.pixels import DecodeError
from pipeline.building.examine import MAX_IMAGE_BYTES
from pipeline.pages.ledger import BYTES, ID, LOOK, PLACE, Example
from pipeline.pages.rows import shortened
from pipeline.pages.world import Dataset, World
from shards.format import ShardError
from shards.index import INDEX, ShardIndex

PAIRS = 8
"""Images that look alike shown at most, over all datasets."""
_LOOKS_LIKE = re.compile(r"looks like (?P<set>\S+) (?P<key>[A-Za-z0-9_-]+)(?:: (?P<image>.+))?")
"""What the ledger says of one; where it names the image, as a path under raw/, that is shown too."""


def heldout_section(world: World) -> Html:
    """Counts by dataset and way, and examples."""
    train = [each for each in world.of(is_eval=False) if each.counts]
    if not train:
        return paragraph("No dataset to train on is here.", "muted")
    lead = (
        "Rows that never reach training because their image is of an evaluation set, by how that was found; images of "
        "equal bytes within a dataset become one sample, across datasets they are counted and kept."
    )
    header = ("dataset", "held out", "by its id", "by its path or URL", "same bytes", "looks alike")
    header = (*header, "looks alike, kept", "rows joined to an equal image", "images also in an earlier dataset")
    rows = [_line(each) for each in train]
    return join(
        (paragraph(lead, "muted"), grid([text(name) for name in header], rows, range(1, 9)), look_alikes(world))
    )


def look_alikes(world: World) -> Html:
    """Rows that were dropped because their image looks like an evaluation image, beside that image where it is here."""
    found = [(each, example) for each in world.of(is_eval=False) if each.ledger for example in each.ledger.looks]
    if not found:
        return Html("")
    lead = (
        "Found by a hash of 64 bits, so a few of these may be different photographs. bitgen-shards drops them unless "
        "told --keep-lookalikes: look at them, left the training image where it is still here, right the other."
    )
    some = [found[n * len(found) // PAIRS] for n in range(PAIRS)] if len(found) > PAIRS else found
    return join(
        (
            Html("<h3>Images that look like evaluation images</h3>"),
            paragraph(lead, "muted"),
            Html(f'<div class="pairs">{join(_pair(world, each, example) for each, example in some)}</div>'),
        )
    )


def stored_image(world: World, name: str, key: str) -> bytes | None:
    """An image of a dataset; None where the dataset, or the image in it, is not here."""
    index = next((each.index for each in world.datasets if each.name == name), None)
    row = None if index is None else row_of(index, key)
    return None if index is None or row is None else index.read(row)[1]


def row_of(index: ShardIndex, key: str) -> int | None:
    """The number of the sample with that key, found by reading the column of keys."""
    with pa.memory_map(str(index.folder / INDEX)) as file:
        keys = pa.ipc.open_file(file).read_all().column("key")
        row = keys.index(pa.scalar(key, pa.string())).as_py()
    return row if row >= 0 else None


def dropped_image(world: World, named: str) -> bytes | None:
    """The file that `named` names under raw/; None where it is not there, leaves the folder, or is larger than images
    may be."""
    raw = (world.shards.parent / "raw").resolve()
    path = (raw / named).resolve() if "\0" not in named else raw
    if not path.is_relative_to(raw) or not path.is_file() or path.stat().st_size > MAX_IMAGE_BYTES:
        return None
    return path.read_bytes()


def _pair(world: World, each: Dataset, example: Example) -> Html:
    match = _LOOKS_LIKE.fullmatch(example.detail)
    pictures: list[Html] = []
    try:
        if example.key and (kept := stored_image(world, each.name, example.key)):
            pictures.append(captioned(kept, f"kept: {example.key}"))
        elif match and match["image"] and (dropped := dropped_image(world, match["image"])):
            pictures.append(captioned(dropped, "dropped"))
        if match and (other := stored_image(world, match["set"], match["key"])):
            pictures.append(captioned(other, f"{match['set']} {match['key']}"))
    except (DecodeError, ShardError, OSError) as error:
        pictures.append(paragraph(f"cannot be shown: {error}", "muted"))
    return Html(
        f"<div><p><b>{text(each.name)}</b> <code>{text(shortened(example.row))}</code> "
        f'<span class="muted">{text(shortened(example.detail))}</span></p>'
        f'<div class="pair">{join(pictures)}</div></div>'
    )


def _line(each: Dataset) -> list[Html]:
    ways = [_way(each, way) for way in (ID, PLACE, BYTES, LOOK)]
    across = each.index.dataset.get("duplicates_across_sources")
    return [
        text(each.name),
        text(count(each.counts["held_out"])),
        *ways,
        text("–" if each.ledger is None else count(each.ledger.kept_looks)),
        text(count(each.counts["duplicate"])),
        text(count(across) if isinstance(across, int) else "–"),
    ]


def _way(each: Dataset, way: str) -> Html:
    return text("–" if each.ledger is None else count(each.ledger.held_out[way]))
