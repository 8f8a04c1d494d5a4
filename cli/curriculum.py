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
    if options.phase != "both":
        return options, [read_config(options, rest, options.phase or "coarse")]
    coarse = read_config(*read_options(_own(arguments, "coarse")), "coarse")
    fine_options, fine_rest = read_options(_own(arguments, "fine"))
    fine_options.init, fine_options.trim_vocabulary = "", False  # the coarse run's
    return options, _linked(coarse, read_config(fine_options, fine_rest, "fine", coarse.model))


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
    for what, (first, second) in (("run.name", names), ("run.runs", (coarse.run.runs, fine.run.runs))):
        if first != second:
            raise ConfigError(f"expected one {what} for both phases, found {first!r} and {second!r}")
    if fine.model != coarse.model:
        raise ConfigError("expected one model for both phases, found flags of another for the fine one")
    coarse = replace(coarse, run=replace(coarse.run, name=f"{names[0]}/coarse"))
    init = str(Path(coarse.run.runs) / coarse.run.name)
    return [coarse, replace(fine, run=replace(fine.run, name=f"{names[0]}/fine", init=init))]


def _resumed(path: str) -> list[TrainConfig]:
    """What is left to do in a run's folder, or in that of two."""
    if not is_pair(Path(path)):
        return [read_run(path)]
    folders = [Path(path) / stage for stage in STAGES]
    coarse, fine = (read_run(str(folder)) for folder in folders)
    fine = replace(fine, run=replace(fine.run, init=str(Path(coarse.run.runs) / coarse.run.name)))
    return [fine] if list_checkpoints(folders[1]) else [coarse, fine]
