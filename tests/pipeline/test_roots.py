"""A run's datasets may be at a URL: validation and evaluation find them there."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bitgen.training.config import ConfigError, TrainConfig
from pipeline.roots import open_root
from pipeline.sets import ResultsError, open_sets
from pipeline.validation import validator
from shards.format import ShardError
from tests import fakes
from tests.runs import HOLDOUT, run_config, write_world
from tests.servers import Server
from tests.stores import remember_folder, serve_folder


@pytest.fixture(autouse=True)
def _memory() -> Iterator[None]:
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """Of a run that validates on drawn-phrases, its data in a folder."""
    config = run_config(write_world(tmp_path), tmp_path / "runs")
    data = replace(config.data, validation=("eval/drawn-phrases",), cache=str(tmp_path / "cache"))
    return replace(config, data=data, run=replace(config.run, validate_every=1.0))


def at(config: TrainConfig, root: str) -> TrainConfig:
    return replace(config, data=replace(config.data, root=root))


def test_a_run_validates_on_a_set_at_a_url_as_on_one_in_a_folder(server: Server, config: TrainConfig) -> None:
    there = at(config, serve_folder(server, Path(config.data.root)))
    here, elsewhere = (validator(each, fakes.model().eval(), HOLDOUT) for each in (config, there))
    assert here is not None
    assert elsewhere is not None
    assert here() == elsewhere()


def test_a_set_that_is_not_at_the_url_is_named(server: Server, config: TrainConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"expected eval/drawn-phrases below http://127.*/shards to validate on, found none"
    ):
        validator(at(config, server.url("")), fakes.model(), HOLDOUT)


def test_evaluation_finds_in_a_store_what_it_finds_in_a_folder(config: TrainConfig) -> None:
    there = at(config, remember_folder(Path(config.data.root)))
    here, elsewhere = (open_sets([each], open_root(each.data)) for each in (config, there))
    assert sorted(here.heldout) == sorted(elsewhere.heldout) != []
    assert list(here.train) == list(elsewhere.train) != []


def test_evaluation_takes_the_sets_validated_on_where_a_store_is_not_listed(
    server: Server, config: TrainConfig
) -> None:
    there = at(config, serve_folder(server, Path(config.data.root)))
    assert list(open_sets([there], open_root(there.data)).heldout) == ["eval/drawn-phrases"]


def test_a_url_without_datasets_is_named(server: Server, config: TrainConfig) -> None:
    with pytest.raises(ResultsError, match=r"expected built datasets, found neither .*: http://127.*/shards"):
        open_sets([config], open_root(config.data, server.url("")))


@pytest.mark.parametrize(
    "place", ["s3://key:secret@bucket/data", "https://host/data?sig=secret", "https://host/d#secret"]
)
def test_a_url_with_secrets_is_refused_and_not_shown(config: TrainConfig, place: str) -> None:
    with pytest.raises(
        ConfigError, match=r"expected data\.root to be a URL without user, password and query"
    ) as refused:
        at(config, place)
    assert "secret" not in str(refused.value)


def test_a_damaged_shard_in_a_folder_is_found_where_that_is_asked_for(config: TrainConfig) -> None:
    shard = Path(config.data.root) / "shards/eval/drawn-phrases/000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    index = open_root(replace(config.data, verify_shards=True)).open("eval/drawn-phrases")
    with pytest.raises(ShardError, match="expected sha256"):
        index.read(0)


def test_a_file_url_is_a_folder(config: TrainConfig) -> None:
    root = open_root(config.data, Path(config.data.root).absolute().as_uri())
    assert not root.is_remote
    assert root.open("eval/drawn-phrases").key(0) == open_root(config.data).open("eval/drawn-phrases").key(0)


@pytest.mark.parametrize("url", ["s3://key:word@bucket", "https://host/a?token=1", "zip://a.zip::https://u:pw@host/x"])
def test_a_url_with_a_secret_is_refused_without_a_word_of_it(config: TrainConfig, url: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a URL without user, password and query, found one \(not shown\)$"):
        open_root(config.data, url)
