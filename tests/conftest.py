"""Fixtures for all tests."""

from collections.abc import Iterator

import pytest
import torch

from tests.servers import Server, serve

# Tensors here are tiny: a second thread for each operation costs more than it brings, most of all on a busy machine.
torch.set_num_threads(1)


@pytest.fixture
def server() -> Iterator[Server]:
    """A local HTTP server that misbehaves on request; see tests/servers.py."""
    with serve() as running:
        yield running
