"""A run on disk becomes its report: what it was, its curves, its results, and what it makes of some images."""

import logging
from dataclasses import dataclass
from pathlib import Path

from bitgen.evaluation.curves import curves, read_log, training_time_s
from bitgen.evaluation.page import (
    Html,
    count,
    document,
    facts,
    join,
    paragraph,
    table,
    text,
    warning_of_size,
)
from bitgen.model.bitgen import BitGen
from bitgen.training.checkpoint import CheckpointError, State, list_checkpoints, load_model
from bitgen.training.config import ConfigError, TrainConfig
from bitgen.training.folders import CHECKPOINTS, CONFIG, SHOWN, latest_run
from pipeline.pages.data import PageError, counts, refusals, sample_cards
from pipeline.pages.predictions import predictions
from pipeline.pages.results import result_sections
from pipeline.roots import open_root
from pipeline.sets import ResultsError, Sets, open_sets
from pipeline.wholes import spaced
from shards.format import ShardError
from shards.remote.patience import StoreError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    folder: Path
    config: TrainConfig

    @property
    def label(self) -> str:
        name, phase = self.config.run.name, self.config.phase
        return name if phase in name else f"{name} ({phase})"


def is_run(path: Path) -> bool:
    """A run folder, or a checkpoint folder within one."""
    return (run_of(path) / CONFIG).is_file()


def run_of(path: Path) -> Path:
    """The run folder that a run or checkpoint folder belongs to; of two in a row the later."""
    path = path.resolve()
    return path.parent.parent if path.parent.name == CHECKPOINTS else latest_run(path)


def run_page(path: Path, root: str | Path | None, samples: int, seed: int) -> str:
    """The report of a run. Raises `PageError` where it has no readable configuration.

    What is missing (checkpoints, results, datasets) is said on the page; the rest is shown.

    Args:
        path: a run folder, or one of its checkpoint folders.
        root: the data folder or URL, which holds shards/; by default that of the run's configuration.
        samples: images shown, half of them trained on.
        seed: which images.
    """
    chain = chain_of(run_of(path))
    run = chain[-1]
    model, state, missing = _model(path)
    sets, lost = _sets(chain, root)
    sections = [
        ("Summary", join((_warning(sets), summary(chain, model, state, sets), lineage_table(chain)))),
        ("Curves", curves([read_log(r.label, r.folder / "metrics.jsonl") for r in chain])),
        *shown_steps(run.folder),
        *result_sections(run.folder),
    ]
    if model is not None and sets is not None:
        sections += predictions(model, run.config, sets, samples, seed)
        sections += data_sections(run.config, sets, samples, seed)
    else:
        sections.append(("Predictions", paragraph(f"Not shown: {missing or lost}.", "muted")))
    return document(f"Run: {run.config.run.name}", f"{run.folder}, seed {seed}", sections, "made by bitgen-show")


def shown_steps(folder: Path) -> list[tuple[str, Html]]:
    """Links to the pages that the run wrote while it trained, of which a long one has many."""
    pages = sorted(page.name for page in folder.glob(f"{SHOWN}/step-*.html"))
    if not pages:
        return []
    chosen = [pages[n] for n in spaced(len(pages), 12)]
    links = [
        Html(f'<a class="part" href="{SHOWN}/{text(page)}">step {int(page[5:-5]):,}</a>')
        for page in chosen
        if page[5:-5].isdecimal()
    ]
    lead = paragraph(f"What the model made of the same samples, {len(pages)} times; in {folder / SHOWN}.", "muted")
    return [("Shown while it trained", join((lead, *links)))]


def data_sections(config: TrainConfig, sets: Sets, samples: int, seed: int) -> list[tuple[str, Html]]:
    """What the run was trained and is evaluated on: counts, refusals, and samples as stored and as training sees them."""
    indexes = {**sets.train, **sets.heldout}
    number = max(1, samples // 2 // max(1, len(sets.train)))
    sections = [("Data", counts(indexes)), ("Refusals", refusals(indexes))]
    sections += [
        (f"Samples of {name}", sample_cards(index, number, seed, config.data)) for name, index in sets.train.items()
    ]
    return sections


def chain_of(folder: Path) -> list[Run]:
    """The run and those that it started from, oldest first, as far as they are on this machine."""
    chain = [read_run(folder)]
    while init := chain[0].config.run.init:
        # Where it was, else beside this run: both may have moved together.
        found = [p for p in (Path(init), folder.parent / run_of(Path(init)).name) if is_run(p)]
        ancestor = run_of(found[0]) if found else None
        if ancestor is None or ancestor in [run.folder for run in chain]:
            break
        try:
            chain.insert(0, read_run(ancestor))
        except PageError as error:
            log.warning("left out of the report: %s", error)
            break
    return chain


def read_run(folder: Path) -> Run:
    try:
        return Run(folder, TrainConfig.from_json((folder / CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, ConfigError) as error:
        raise PageError(f"expected the configuration of a run, found {error}: {folder / CONFIG}") from error


def summary(chain: list[Run], model: BitGen | None, state: State | None, sets: Sets | None) -> Html:
    run = chain[-1]
    config = run.config
    seconds = sum(
        training_time_s(
            read_log(r.label, r.folder / "metrics.jsonl"), r.config.optim.batch * r.config.optim.accumulation
        )
        for r in chain
    )
    values: dict[str, object] = {"phase": config.phase, "step": "–" if state is None else count(state.step)}
    if model is not None:
        values["parameters"] = count(sum(p.numel() for p in model.parameters()))
    if sets is not None and sets.train:
        values["training photographs"] = count(len(sets.train_photographs()))
    values["time in steps" + (", whole lineage" if len(chain) > 1 else "")] = _duration(seconds)
    vision = config.model.vision
    values["vision tower"] = (
        f"{vision.model} ({vision.mode})" if vision.weights == "stock" else f"random ({vision.mode})"
    )
    values["image side"] = f"{config.data.image_px} px"
    values["seed"] = config.run.seed
    return facts(values)


def lineage_table(chain: list[Run]) -> Html:
    rows = [
        (
            run.config.run.name,
            run.config.phase,
            ", ".join(f"{name} × {weight:g}" for name, weight in run.config.data.mixture.items()),
            count(run.config.optim.epochs),
            count(run.config.optim.batch * run.config.optim.accumulation),
            f"{run.config.optim.lr:g}",
            run.config.run.init or "–",
        )
        for run in chain
    ]
    return table(("run", "phase", "mixture", "epochs", "images a step", "learning rate", "started from"), rows)


def _model(path: Path) -> tuple[BitGen | None, State | None, str]:
    if not list_checkpoints(run_of(path)):
        return None, None, "the run has no checkpoint yet"
    try:
        return *load_model(path), ""
    except CheckpointError as error:
        return None, None, str(error)


def _sets(chain: list[Run], root: str | Path | None) -> tuple[Sets | None, str]:
    configs = [run.config for run in reversed(chain)]
    try:
        return open_sets(configs, open_root(configs[0].data, root)), ""
    except (ResultsError, ShardError, StoreError) as error:
        return None, str(error)


def _warning(sets: Sets | None) -> Html:
    return warning_of_size(len(sets.train_photographs())) if sets is not None and sets.train else Html("")


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {left:02} s"
