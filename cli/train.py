"""bitgen-train: a phase of the curriculum, from shards to a checkpoint. The one place that joins the stream to the trainer."""

import hashlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bitgen.batch import BatchError
from bitgen.model.bitgen import BitGen
from bitgen.model.vision import VisionError
from bitgen.objectives.total import Objective
from bitgen.training import checkpoint, distributed, summary
from bitgen.training.checkpoint import CheckpointError, State
from bitgen.training.config import ConfigError, TrainConfig
from bitgen.training.loop import Result, TrainingError, train
from bitgen.training.schedule import Schedule
from bitgen.workers import WorkerError
from cli.batches import batches
from cli.flags import parse
from pipeline.cached import open_cached
from pipeline.roots import open_root
from pipeline.validation import validator
from pipeline.vocabulary import trimmed
from shards.format import NoDatasetError, ShardError
from shards.mixture import BLOCK, Mixture
from shards.remote.patience import StoreError
from shards.root import Root
from shards.stream import Stream

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong use."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        options, config = parse(sys.argv[1:] if arguments is None else arguments)
        if options.dry_run:
            print(dry_run(config, options.trim_vocabulary))
            return 0
        return run(config, bool(options.resume), options.trim_vocabulary)
    except ConfigError as error:
        print(f"bitgen-train: {error}", file=sys.stderr)
        return 2
    except (ShardError, CheckpointError, VisionError, BatchError, WorkerError, TrainingError, OSError) as error:
        print(f"bitgen-train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bitgen-train: stopped; the same command, or --resume with a run's folder, goes on", file=sys.stderr)
        return 1


def dry_run(config: TrainConfig, trim_vocabulary: bool = False) -> str:
    """What the run would be, as text; needs neither weights nor, unless they are to give a vocabulary, shards."""
    if trim_vocabulary:
        config, _ = trimmed(config, open_root(config.data), torch.device("cpu"))
    objective = summary.build_shape(config)
    built = _built(config)
    sizes = {name: sum(built.get(name, ())) for name in config.data.mixture}
    weights = {name: weight for name, weight in config.data.mixture.items() if weight and sizes[name]}
    mixture = Mixture(weights, built, config.run.seed, config.data.size_power) if weights else None
    shares = {name: count / BLOCK for name, count in mixture.counts.items()} if mixture else {}
    samples = config.data.samples_per_epoch or (mixture.size if mixture else 0)
    check_side(config, objective.model)
    return "\n\n".join(
        [
            summary.format_parameters(summary.count_parameters(objective)),
            summary.format_run(config, sizes, shares, Schedule.of(config, samples), samples),
            summary.format_memory(summary.estimate_memory(config, objective, distributed.world())),
        ]
    )


def _built(config: TrainConfig) -> dict[str, tuple[int, ...]]:
    """Samples of each shard of the mixture's datasets that are there."""
    root, found = open_root(config.data), {}
    for name in config.data.mixture:
        try:
            found[name] = root.shard_sizes(name)
        except NoDatasetError:
            continue
        except StoreError as error:
            log.warning("%s", error)
    return found


def run(config: TrainConfig, resume: bool, trim_vocabulary: bool) -> int:
    """Train, and say what was made."""
    device = choose_device(config)
    distributed.join(device)
    folder = Path(config.run.runs) / config.run.name
    if not resume and checkpoint.list_checkpoints(folder):
        raise ConfigError(f"expected a new run, found checkpoints: {folder}; --resume it, or give --run.name another")
    root = open_root(config.data)
    stream = open_stream(config, root)
    check_ranks(stream, device)
    holdout = check_datasets(stream, config)
    config, kept = trimmed(config, root, device) if trim_vocabulary else (config, None)
    objective, state, resume_from = prepare(config, stream.mixture, holdout, folder if resume else None, kept)
    check_side(config, objective.model)
    cached = open_cached(config, objective.to(device).model.vision, state, stream, root, device)
    validate = validator(config, objective.model, holdout, root)
    if validate is None and distributed.rank() == 0:
        log.info("no validation: the last checkpoint is the result")
    folder.mkdir(parents=True, exist_ok=True)
    if distributed.rank() == 0:
        checkpoint.write_file(folder / "config.json", config.to_json() + "\n")
        log.info("%s: step %d of %d, on %s", folder, state.step, _steps(state), device)
    result = train(
        objective,
        state,
        batches(stream, config, state.position, device, cached),
        folder,
        resume_from=resume_from,
        validate=validate,
        should_stop=listen_for_stop(),
    )
    root.close()
    if distributed.rank() == 0:
        print(report(result, folder))
    distributed.leave()
    return 0


def choose_device(config: TrainConfig) -> torch.device:
    """The device that `run.device` asks for; this process's own accelerator under torchrun."""
    wanted = config.run.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError("expected an accelerator for --run.device cuda, found none")
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    else:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue] (a property)
    return torch.device(wanted)


def open_stream(config: TrainConfig, root: Root) -> Stream:
    """The mixture's datasets in their order. Raises `ConfigError` where ranks cannot share a micro-batch of them evenly."""
    if config.optim.batch % distributed.world():
        raise ConfigError(
            f"expected optim.batch to be a multiple of {distributed.world()} ranks, found {config.optim.batch}"
        )
    if not config.data.mixture:
        raise ConfigError("expected data.mixture to name a dataset, found none")
    return Stream.open(
        root,
        config.data.mixture,
        seed=config.run.seed,
        texts_per_image=config.data.texts_per_image,
        max_tokens=config.data.max_tokens,
        size_power=config.data.size_power,
    )


def check_ranks(stream: Stream, device: torch.device) -> None:
    """Raises `ConfigError` on every rank where the datasets changed between one rank's look at them and another's."""
    mine = float(int(stream.mixture.fingerprint[:12], 16))  # 48 bits, which a float holds
    if distributed.agree(distributed.from_first(mine, device) != mine, device):
        raise ConfigError("expected the same shards on every rank, found others: were they replaced just now?")


def check_side(config: TrainConfig, model: BitGen) -> None:
    """Raises `ConfigError` for images that are no whole number of patches wide."""
    if config.data.image_px % model.vision.patch_px:
        expected = f"a multiple of the vision tower's patch, {model.vision.patch_px}"
        raise ConfigError(f"expected data.image_px to be {expected}, found {config.data.image_px}")


def check_datasets(stream: Stream, config: TrainConfig) -> str:
    """The hold-out hash that all training shards share; of mixed ones, where they are allowed, a hash that no dataset has.

    Raises `ConfigError` for evaluation data and for mixed hashes that are not allowed.
    """
    for name, index in stream.indexes.items():
        absent = [field for field in ("role", "holdout_sha256") if field not in index.dataset]
        if absent:
            raise ShardError(
                f"expected role and holdout_sha256 in dataset.json, found no {absent[0]}: {index.files.place}"
            )
        if index.dataset["role"] == "eval":
            raise ConfigError(f"expected training data in data.mixture, found evaluation data: {name}")
    hashes = {name: str(index.dataset["holdout_sha256"]) for name, index in stream.indexes.items()}
    if len(set(hashes.values())) > 1 and not config.data.allow_other_holdout:
        found = ", ".join(f"{name} {value[:12]}" for name, value in hashes.items())
        raise ConfigError(
            f"expected shards built under one hold-out list, found {found}; build them together, "
            "or pass --data.allow-other-holdout"
        )
    first, *others = sorted(set(hashes.values()))
    return first if not others else hashlib.sha256("".join([first, *others]).encode()).hexdigest()


def prepare(
    config: TrainConfig, mixture: Mixture, holdout: str, resumed_run: Path | None, kept: Sequence[int] | None
) -> tuple[Objective, State, Path | None]:
    """The objective with its weights, where the run stands, and the checkpoint that it goes on from, if any."""
    torch.manual_seed(config.run.seed)
    if resumed_run is not None:
        folder = checkpoint.find(resumed_run, last=True)
        state = replace(checkpoint.read_state(folder), config=config)
        _check_holdout(state, holdout, config)
        if state.stream != mixture.fingerprint:
            log.warning("mixture or shards are not those that the run started with: a new order of samples starts here")
            state = replace(state, position=0, stream=mixture.fingerprint)
        model = checkpoint.build_model(state, folder)
        checkpoint.load_weights(model, folder)
        return Objective(model, config.loss, config.data), state, folder
    if config.run.init:
        folder = checkpoint.find(config.run.init)
        origin = replace(checkpoint.read_state(folder), config=config)
        _check_holdout(origin, holdout, config)
        model = checkpoint.build_model(origin, folder)
        checkpoint.load_weights(model, folder)
    else:
        if config.phase == "fine":
            log.warning("no --init: the fine phase starts from layers that have learned nothing")
        model = BitGen(config.model, kept=kept)
    epoch = config.data.samples_per_epoch or mixture.size
    state = State(0, 0, epoch, config, holdout, model.vision.config_dict(), stream=mixture.fingerprint)
    return Objective(model, config.loss, config.data), state, None


def _check_holdout(state: State, holdout: str, config: TrainConfig) -> None:
    if state.holdout_sha256 != holdout and not config.data.allow_other_holdout:
        raise ConfigError(
            f"expected shards that hold out what the checkpoint did ({state.holdout_sha256[:12]}), found {holdout[:12]}; "
            "build them under the same lists, or pass --data.allow-other-holdout"
        )


def listen_for_stop() -> Callable[[], bool]:
    """True once SIGTERM or Ctrl-C asked the run to stop; the second Ctrl-C ends it at once."""
    asked: list[int] = []

    def remember(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
        log.info("stopping after this step; the run can be resumed")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, remember)
    return lambda: bool(asked)


def report(result: Result, folder: Path) -> str:
    """The last line: what was made and what to run next."""
    step, steps = result.state.step, _steps(result.state)
    if result.reason == "stopped":
        return f"stopped at step {step} of {steps}: {result.checkpoint}\nnext: bitgen-train --resume {folder}"
    ended = (
        f"no better figure in {result.state.config.run.patience} validations, " if result.reason == "patience" else ""
    )
    following = (
        f"bitgen-train --phase fine --init {folder}"
        if result.state.config.phase == "coarse"
        else f"bitgen-eval {folder}"
    )
    return f"{result.state.config.phase} phase: {ended}{step} steps: {result.checkpoint}\nnext: {following}"


def _steps(state: State) -> int:
    return Schedule.of(state.config, state.samples_per_epoch).steps


if __name__ == "__main__":
    sys.exit(main())
