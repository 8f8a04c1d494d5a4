"""Fixtures for all tests."""

from collections.abc import Iterator

import pytest

from tests.servers import Server, serve


@pytest.fixture
def server() -> Iterator[Server]:
    """A local HTTP server that misbehaves on request; see tests/servers.py."""
    with serve() as running:
        yield running
