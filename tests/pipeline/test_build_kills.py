"""The real command, killed with all its processes while it writes, goes on to the same bytes. `make soak` has fifty."""

import sys
from collections.abc import Mapping

import pytest

from tests.kills import Work, different, digests, finish, kill_at
from tests.noise import coco_noise


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    data = tmp_path_factory.mktemp("kills") / "data"
    manifest = coco_noise(data, images=40, per_shard=8)
    command = [sys.executable, "-m", "cli.build_shards", str(manifest), "--data", str(data), "--workers", "2"]
    return Work(command, data / "shards", data / "log.txt")


@pytest.fixture(scope="module")
def uninterrupted(work: Work) -> tuple[int, Mapping[str, str]]:
    """How far the clock of an uninterrupted build goes, and what it made."""
    return finish(work), digests(work.output)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_killed_build_goes_on_to_the_same_bytes(
    work: Work, uninterrupted: tuple[int, Mapping[str, str]], share: float
) -> None:
    clock, whole = uninterrupted
    kill_at(work, int(share * clock))
    finish(work)
    assert different(whole, digests(work.output)) == []
