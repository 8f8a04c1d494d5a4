"""bitgen-train: phases of the curriculum, from shards to a checkpoint. The one place that joins the stream to the trainer."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from bitgen.batch import BatchError
from bitgen.deploy import hub
from bitgen.model.vision import VisionError
from bitgen.tokens import VOCABULARY
from bitgen.training import checkpoint, distributed, summary
from bitgen.training.checkpoint import CheckpointError, State
from bitgen.training.config import ConfigError, TrainConfig
from bitgen.training.distributed import RankError
from bitgen.training.folders import CONFIG, HOLDOUT, is_pair
from bitgen.training.loop import Result, TrainingError, train
from bitgen.training.schedule import Schedule
from bitgen.workers import WorkerError
from cli.batches import batches
from cli.curriculum import parse
from cli.preparing import check_datasets, check_ranks, check_side, check_together, open_stream, prepare
from pipeline.cached import check_rooms, open_cached
from pipeline.holdout import copy_list
from pipeline.publish import published
from pipeline.roots import open_root
from pipeline.sets import ResultsError
from pipeline.showing import shower
from pipeline.validation import validator
from pipeline.vocabulary import trimmed
from shards.format import NoDatasetError, ShardError
from shards.mixture import BLOCK, Mixture
from shards.remote.patience import StoreError

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong use."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        options, stages = parse(sys.argv[1:] if arguments is None else arguments)
        if options.dry_run:
            if options.trim_vocabulary:
                first, _ = trimmed(stages[0], open_root(stages[0].data), torch.device("cpu"), stages[1:])
                stages = [replace(config, model=first.model) for config in stages]
            print("\n\n".join(map(dry_run, stages)))
            return 0
        if options.push:
            hub.check(options.push)
        return run(stages, options)
    except (ConfigError, hub.HubError) as error:
        print(f"bitgen-train: {error}", file=sys.stderr)
        return 2
    except (
        ShardError,
        CheckpointError,
        VisionError,
        BatchError,
        WorkerError,
        TrainingError,
        RankError,
        OSError,
    ) as error:
        print(f"bitgen-train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bitgen-train: stopped; the same command, or --resume with a run's folder, goes on", file=sys.stderr)
        return 1


def dry_run(config: TrainConfig) -> str:
    """What the run would be, as text; needs neither weights nor shards."""
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


@distributed.answered()
def run(stages: Sequence[TrainConfig], options: argparse.Namespace) -> int:
    """Train one run after the other, and say what was made; the exit code."""
    resumed: str = options.resume
    device = choose_device(stages[0])
    distributed.join(device)
    for config in stages:
        if not resumed and checkpoint.list_checkpoints(_folder(config)):
            raise ConfigError(
                f"expected a new run, found checkpoints: {_folder(config)}; --resume it, or give --run.name another"
            )
    check_together(stages)
    of_two = len(stages) > 1 or (bool(resumed) and is_pair(Path(resumed)))
    again = _folder(stages[0]).parent if of_two else _folder(stages[0])
    asked: list[int] = []
    is_stopped = False
    for number, config in enumerate(stages, 1):
        if number > 1:  # the first run's model, as it turned out to be
            model = checkpoint.read_state(checkpoint.find(config.run.init)).config.model
            config = replace(config, model=model)
        result = train_run(config, stages[number:], asked, device, options.trim_vocabulary)
        # Ranks go on together: the next run starts from what rank 0 has now written.
        is_stopped = result.reason == "stopped" or (distributed.agree(bool(asked), device) and number < len(stages))
        if distributed.rank() == 0:
            pushing = f" --push {options.push}{' --public' * options.public}" if options.push else ""
            following = f"bitgen-train --resume {again}{pushing}" if is_stopped else _next(config)
            print(report(result) + f"\nnext: {following}" * (is_stopped or number == len(stages)), flush=True)
        if is_stopped:
            break
    leads = distributed.rank() == 0
    distributed.leave()
    return share(stages[-1], options) if options.push and leads and not is_stopped else 0


def share(config: TrainConfig, options: argparse.Namespace) -> int:
    """Push a run that has ended; the exit code. A push that fails changes nothing in the run."""
    folder = _folder(config)
    try:
        files = published(checkpoint.find(folder), options.push)
        url = hub.push(options.push, files, f"{config.run.name}: {config.phase} phase", is_private=not options.public)
    except (hub.HubError, CheckpointError, ResultsError, ShardError, OSError) as error:
        again = f"bitgen-train --resume {folder} --push {options.push}{' --public' * options.public}"
        print(f"bitgen-train: the run is whole but was not pushed: {error}\nnext: {again}", file=sys.stderr)
        return 1
    print(f"pushed {len(files)} files: {url}")
    return 0


def _folder(config: TrainConfig) -> Path:
    return Path(config.run.runs) / config.run.name


def train_run(
    config: TrainConfig, to_come: Sequence[TrainConfig], asked: list[int], device: torch.device, trim_vocabulary: bool
) -> Result:
    """Train a run, anew or from its last checkpoint.

    Args:
        to_come: the runs after it, whose configurations are there before its first step.
        asked: `listen_for_stop`'s.
    """
    folder = _folder(config)
    root = open_root(config.data)
    stream = open_stream(config, root)
    check_ranks(stream, device)
    holdout = check_datasets(stream, config)
    is_begun = bool(checkpoint.list_checkpoints(folder))
    if not is_begun and not config.run.init and (trim_vocabulary or config.model.vocabulary != VOCABULARY):
        config, kept = trimmed(
            config, root, device, to_come
        )  # also where a kill came between it and the first checkpoint
    else:
        kept = None
    objective, state, resume_from = prepare(config, stream.mixture, holdout, folder if is_begun else None, kept)
    for each in (config, *to_come):
        check_side(each, objective.model)
    tower = objective.to(device).model.vision
    if to_come and not is_begun:
        check_rooms((config, *to_come), tower, device)
    cached = open_cached(config, tower, state, stream, root, device)
    validate = validator(config, objective.model, holdout, root)
    if validate is None and distributed.rank() == 0:
        log.info("no validation: the last checkpoint is the result")
    if distributed.rank() == 0:
        for each in (*to_come, config):  # its own comes last: where that is, all are
            _folder(each).mkdir(parents=True, exist_ok=True)
            checkpoint.write_file(_folder(each) / CONFIG, each.to_json() + "\n")
        copy_list(holdout, root.folder, folder / HOLDOUT)
        log.info("%s: step %d of %d, on %s", folder, state.step, _steps(state), device)
    folder.mkdir(parents=True, exist_ok=True)
    result = train(
        objective,
        state,
        batches(stream, config, state.position, device, cached),
        folder,
        resume_from=resume_from,
        validate=validate,
        show=shower(config, objective.model, holdout, root),
        should_stop=listen_for_stop(asked),
    )
    root.close()
    return result


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


def listen_for_stop(asked: list[int]) -> Callable[[], bool]:
    """True once SIGTERM or Ctrl-C asked to stop, this run or, as `asked` then says, one before it; the second Ctrl-C ends it
    at once."""

    def remember(number: int, frame: object) -> None:
        asked.append(number)
        # A cluster and torchrun may each send a SIGTERM for one end of time: only Ctrl-C means more when it comes again.
        signal.signal(number, signal.SIG_IGN if number == signal.SIGTERM else signal.default_int_handler)
        log.info("stopping after this step; the run can be resumed")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, remember)
    return lambda: bool(asked)


def report(result: Result) -> str:
    """What was made."""
    step, steps, config = result.state.step, _steps(result.state), result.state.config
    if result.reason == "stopped":
        return f"stopped at step {step} of {steps}: {result.checkpoint}"
    ended = f"no better figure in {config.run.patience} validations, " if result.reason == "patience" else ""
    return f"{config.phase} phase: {ended}{step} steps: {result.checkpoint}"


def _next(config: TrainConfig) -> str:
    """What to run after the end of a run."""
    folder = _folder(config)
    return f"bitgen-train --phase fine --init {folder}" if config.phase == "coarse" else f"bitgen-eval {folder}"


def _steps(state: State) -> int:
    return Schedule.of(state.config, state.samples_per_epoch).steps


if __name__ == "__main__":
    # Where torchrun started this rank, it ends with a list of those that failed: with their errors, where they left them to it.
    sys.exit(record(main)())
