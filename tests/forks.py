"""Processes that begin with everything imported: each is forked from one that does nothing but import, once for all of them."""

import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext

import torch

from cli.train import main


def forks() -> ForkServerContext:
    """Its processes have what `tests/ranks.py` and `bitgen-train` import; where that failed, they import it themselves."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ranks", "tests.forks"])
    return context


def train(arguments: Sequence[str]) -> None:
    """`bitgen-train` as a process of its own."""
    torch.set_num_threads(1)
    sys.exit(main(arguments))
