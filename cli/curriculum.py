"""bitgen-train's arguments become the runs that it makes: one, or for `--phase both` a coarse one and a fine one after it.

The two share a folder, `runs/NAME/coarse` and `runs/NAME/fine`, each a run like any other; the fine one starts from the coarse
one's best checkpoint. Both configurations are there from the start, so that the folder alone says how to go on.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bitgen.training.checkpoint import list_checkpoints
from bitgen.training.config import ConfigError, TrainConfig
from bitgen.training.folders import STAGES, is_pair
from bitgen.training.phases import Phase
from cli.flags import read_config, read_options, read_run

_OF_BOTH = ("phase", "trim-vocabulary", "resume", "push", "public", "dry-run")
"""Options that no phase has for itself."""


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[TrainConfig]]:
    """The options beside the configuration, and the runs to make, in their order. Raises `ConfigError`, and what reading a
    checkpoint raises; a wrong flag exits with 2."""
    options, rest = read_options(arguments)
    if options.resume:
        names = ("phase", "preset", "mixture", "init", "trim_vocabulary", "cache_features")
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
        if rest or given:
            raise ConfigError(f"expected no other flag with --resume, found {' '.join(given + rest)}")
        return options, _resumed(options.resume)
    if options.public and not options.push:
        raise ConfigError("expected --push OWNER/NAME with --public, found none")
    if options.phase != "both":
        return options, [read_config(options, rest, options.phase or "coarse")]
    _refuse_split(arguments)
    coarse = read_config(*read_options(_own(arguments, "coarse")), "coarse")
    fine_options, fine_rest = read_options(_own(arguments, "fine"))
    fine_options.init, fine_options.trim_vocabulary = "", False  # the coarse run's
    return options, _linked(coarse, read_config(fine_options, fine_rest, "fine", coarse.model))


def _refuse_split(arguments: Sequence[str]) -> None:
    """Raises `ConfigError` for an option of one phase that can only be one of both, or of the other."""
    for argument in arguments:
        stage, _, name = argument.partition("=")[0].removeprefix("--").partition(".")
        if stage in STAGES and argument.startswith("--") and (name in _OF_BOTH or (stage, name) == ("fine", "init")):
            found = f"--{stage}.{name}"
            instead = "the coarse run is what the fine one starts from" if name == "init" else f"--{name} is for both"
            raise ConfigError(f"expected no {found} with --phase both: {instead}")


def _own(arguments: Sequence[str], phase: Phase) -> list[str]:
    """Those for both phases and then, so that they prevail, those for `phase` without its prefix."""
    for_both, own = [], []
    into: list[str] | None = for_both
    for argument in arguments:
        if argument.startswith("--"):
            prefix, dot, name = argument[2:].partition(".")
            is_of_one = bool(dot) and prefix in STAGES
            into = for_both if not is_of_one else own if prefix == phase else None
            argument = f"--{name}" if is_of_one else argument
        if into is not None:
            into.append(argument)
    return for_both + own


def _linked(coarse: TrainConfig, fine: TrainConfig) -> list[TrainConfig]:
    """The two runs in one folder, the second from the first."""
    names = [config.run.name for config in (coarse, fine)]
    if names == list(STAGES):  # what the phases call themselves
        names = ["both", "both"]
    shared = {"run.name": names, "run.runs": (coarse.run.runs, fine.run.runs)}
    for what, (first, second) in (shared | {"run.device": (coarse.run.device, fine.run.device)}).items():
        if first != second:
            raise ConfigError(f"expected one {what} for both phases, found {first!r} and {second!r}")
    if fine.model != coarse.model:
        raise ConfigError("expected one model for both phases, found flags of another for the fine one")
    coarse = replace(coarse, run=replace(coarse.run, name=f"{names[0]}/coarse"))
    init = str(Path(coarse.run.runs) / coarse.run.name)
    return [coarse, replace(fine, run=replace(fine.run, name=f"{names[0]}/fine", init=init))]


def _resumed(path: str) -> list[TrainConfig]:
    """What is left to do in a run's folder, or in that of two."""
    run = Path(path)
    if not is_pair(run):
        waits = run.name == STAGES[1] and is_pair(run.parent) and not list_checkpoints(run)
        return _resumed(str(run.parent)) if waits else [read_run(path)]
    folders = [Path(path) / stage for stage in STAGES]
    coarse, fine = (read_run(str(folder)) for folder in folders)
    fine = replace(fine, run=replace(fine.run, init=str(Path(coarse.run.runs) / coarse.run.name)))
    return [fine] if list_checkpoints(folders[1]) else [coarse, fine]
