"""Fixtures for all tests."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from tests.servers import Server, serve

# Tensors here are tiny: a second thread for each operation costs more than it brings, most of all on a busy machine.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start


@pytest.fixture
def server() -> Iterator[Server]:
    """A local HTTP server that misbehaves on request; see tests/servers.py."""
    with serve() as running:
        yield running


@pytest.fixture
def own_switches() -> Iterator[None]:
    """This process's own signal handlers and PyTorch's switches, put back after a test that trains in it."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    torch.use_deterministic_algorithms(False)
    for number, handler in handlers.items():
        signal.signal(number, handler)
