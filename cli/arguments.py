"""What the commands' arguments have in common: numbers, and the nearest name of an unknown flag."""

import argparse
from collections.abc import Sequence

from pipeline.nearest import nearest


def positive(value: str) -> int:
    """A whole number of 1 or more, for argparse."""
    if not value.isdigit() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, found {value!r}")
    return int(value)


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed arguments, in any order; a flag that `parser` does not know ends the command with 2 and the nearest name."""
    known = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    if message := unknown_flag(parser.prog, arguments, known):
        parser.error(message)
    return parser.parse_intermixed_args(arguments)


def unknown_flag(command: str, arguments: Sequence[str], known: Sequence[str]) -> str:
    """What is wrong with the first argument that looks like a flag and is none, and the nearest one; empty without."""
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag.startswith("--") and flag not in {*known, "--help", "--"}:
            found = nearest(flag, known, cutoff=0.0)
            return f"expected a flag of {command}, found {flag}; the nearest is {found} (see --help)"
    return ""
