"""bitgen-train's command line becomes a configuration: every field is a flag, an unknown one is refused."""

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import tyro

from bitgen.tokens import VOCABULARY
from bitgen.training import checkpoint
from bitgen.training.config import ConfigError, ModelConfig, TrainConfig
from bitgen.training.folders import CONFIG
from bitgen.training.phases import PHASES, Phase, Preset, configure
from cli.arguments import unknown_flag

DESCRIPTION = """Train a phase of the curriculum. Beside the fields below:
  --phase {coarse,fine,both,joint}
                          coarse aligns images and texts; fine grounds phrases; both: one after the other, a flag of one of them
                          as --fine.optim.lr; joint: the data and losses of both at once
  --preset {base,demo,small,large,eight}
                          base: DINOv2-base; demo: a small tower of random weights, minutes on two CPU cores; small, large and
                          eight: base with the batch of one GPU of 8 GB, one of 40 GB, eight of 24 GB, as estimated
  --mixture NAME ...      train on these dataset folders below shards/ in place of the phase's; weights by --data.mixture.NAME,
                          and sets to validate on, none by default, by --data.validation
  --init CKPT             start from a run folder, a checkpoint folder or hf://owner/name; its model's shape is taken over
  --trim-vocabulary       rows and classes only for the tokens of the training datasets below shards/, of both phases, and one
                          row for any other; a run that starts from this one has the same
  --resume RUN            go on exactly where a run stopped, of --phase both in either phase; with it go --push alone
  --cache-features        --data.features int8: store the frozen tower's features, and train on them until the adapters thaw
  --push OWNER/NAME       at the end, put the best checkpoint and a card of the run's numbers on the Hugging Face hub, with the
                          token of HF_TOKEN or of its login; into a private repository, unless --public
  --dry-run               print parameters, mixture, steps and memory, and end"""


def read_options(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options beside the configuration, and the other arguments. A wrong value exits with 2."""
    first = argparse.ArgumentParser("bitgen-train", add_help=False, allow_abbrev=False)
    first.add_argument("--phase", choices=(*PHASES, "both"))
    first.add_argument("--preset", choices=get_args(Preset))
    first.add_argument("--mixture", nargs="+")
    first.add_argument("--init", default="")
    first.add_argument("--trim-vocabulary", action="store_true")
    first.add_argument("--resume", default="")
    first.add_argument("--cache-features", action="store_true")
    first.add_argument("--push", default="", metavar="OWNER/NAME")
    first.add_argument("--public", action="store_true")
    first.add_argument("--dry-run", action="store_true")
    return first.parse_known_args(list(arguments))


def read_config(
    options: argparse.Namespace, rest: Sequence[str], phase: Phase, model: ModelConfig | None = None
) -> TrainConfig:
    """The configuration of a phase. Raises `ConfigError`; a wrong flag exits with 2.

    Args:
        rest: arguments that are no options.
        model: what the phase starts with, where `--init` does not say it.
    """
    config = configure(phase, options.preset or "base")
    if model is not None:
        config = replace(config, model=model)
    if options.mixture:
        # Whoever names the data names what to validate on, too: the phase's own sets say nothing about other data.
        data = replace(config.data, mixture=dict.fromkeys(options.mixture, 1.0), validation=())
        config = replace(config, data=data)
    if options.cache_features:
        config = replace(config, data=replace(config.data, features="int8"))
    if options.init:
        built = checkpoint.read_state(checkpoint.find(options.init)).config.model
        config = replace(config, model=built, run=replace(config.run, init=options.init))
    _refuse_unknown(rest, [*(f"--{name}".replace("_", "-") for name in vars(options)), *flags(config)])
    config = tyro.cli(TrainConfig, args=rest, default=config, prog="bitgen-train", description=DESCRIPTION)
    if model is None:
        _check_vocabulary(options, config)
    return config


def _check_vocabulary(options: argparse.Namespace, config: TrainConfig) -> None:
    """Raises `ConfigError` for two vocabularies, and for a number of tokens alone, which is enough for a dry run."""
    size = config.model.vocabulary
    if options.trim_vocabulary and config.run.init:
        raise ConfigError("expected no --trim-vocabulary with --init, whose model's vocabulary is taken over")
    if size == VOCABULARY or config.run.init:
        return
    if options.trim_vocabulary:
        raise ConfigError(f"expected no --model.vocabulary with --trim-vocabulary, which counts it, found {size}")
    if not options.dry_run:
        raise ConfigError(f"expected --trim-vocabulary in place of --model.vocabulary {size}: it says which tokens")


def flags(config: TrainConfig) -> list[str]:
    """Every field as its flag; a switch also has one that turns it off."""
    found = []
    for name, value in _leaves(config, ""):
        flag = f"--{name}".replace("_", "-")
        prefix, dot, last = flag.rpartition(".")
        found += [flag, f"{prefix}{dot}no-{last}"] if isinstance(value, bool) else [flag]
    return found


def _leaves(value: object, name: str) -> Iterator[tuple[str, object]]:
    fields = asdict(value) if isinstance(value, TrainConfig) else value  # pyright: ignore[reportArgumentType]
    if isinstance(fields, dict) and fields:
        for key, inner in fields.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _refuse_unknown(arguments: Sequence[str], known: Sequence[str]) -> None:
    """Raises `ConfigError` with the nearest name: tyro knows no flag of ours, and names none that is a word away."""
    names = [argument.partition("=")[0].replace("_", "-") for argument in arguments]
    if message := unknown_flag("bitgen-train", names, known):
        is_weight = "found --data.mixture." in message
        raise ConfigError(message + "; what the phase does not mix is named by --mixture" * is_weight)


def read_run(path: str) -> TrainConfig:
    """The configuration of a run that may have moved since it started, and may have stopped before its first checkpoint."""
    folder = Path(path).absolute()
    if (folder / CONFIG).is_file() and not checkpoint.list_checkpoints(folder):
        return _where(folder, TrainConfig.from_json((folder / CONFIG).read_text(encoding="utf-8")))
    checkpoint_folder = checkpoint.find(path, last=True).absolute()
    config = checkpoint.read_state(checkpoint_folder).config
    run = checkpoint_folder.parents[1]
    if checkpoint_folder.parent.name != "checkpoints" or checkpoint.find(run, last=True) != checkpoint_folder:
        raise ConfigError(
            f"expected a run's folder or its last checkpoint, found {path}; start from any other by --init"
        )
    return _where(run, config)


def _where(run: Path, config: TrainConfig) -> TrainConfig:
    """The same run in the folder in which it is now."""
    runs = run.parents[len(Path(config.run.name).parts) - 1]
    return replace(config, run=replace(config.run, runs=os.path.relpath(runs), name=str(run.relative_to(runs))))
