"""Which tokens the corpora of a run use."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bitgen.tokens import EOT, shared_tokenizer
from bitgen.training.config import ConfigError, TrainConfig
from pipeline.roots import open_root
from pipeline.vocabulary import corpora, trimmed, used_tokens
from tests import fakes, runs
from tests.servers import Server
from tests.stores import serve_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions and grounded sentences to train on, others held out."""
    return runs.write_world(tmp_path_factory.mktemp("data"))


def _config(root: str | Path, *names: str, **data: str) -> TrainConfig:
    return fakes.config(data={"root": str(root), "mixture": dict.fromkeys(names, 1.0), **data})


def _tokens(*numbers: int, coarse: bool = True, fine: bool = True) -> list[int]:
    """Of the texts of photographs, one by one."""
    texts = [text for n in numbers for text in (*runs.captions(n) * coarse, *runs.sentences(n) * fine)]
    return sorted({token for text in texts for token in shared_tokenizer().encode(text.text).ids})


def test_tokens_are_those_of_the_training_texts_of_both_phases(world: Path) -> None:
    config, kept = trimmed(_config(world, "coarse/drawn-train"), open_root(_config(world).data), CPU)
    assert list(kept) == _tokens(*range(6))
    assert config.model.vocabulary == len(kept)
    assert not {*_tokens(10, 11)} <= {*kept}


def test_nothing_else_of_the_configuration_changes(world: Path) -> None:
    config = _config(world, "coarse/drawn-train")
    found, _ = trimmed(config, open_root(config.data), CPU)
    assert replace(found, model=config.model) == config


def test_a_dataset_of_the_mixture_counts_wherever_it_is(world: Path, tmp_path: Path) -> None:
    root = open_root(_config(tmp_path).data)
    runs.write_set(tmp_path, "mine/drawn", [runs.sample(7, runs.captions(7))])
    assert list(corpora(root, ["mine/drawn", "coarse/absent"])) == ["mine/drawn"]


def test_evaluation_data_does_not_count_wherever_it_is(tmp_path: Path) -> None:
    for role in ("train", "eval"):
        runs.write_set(tmp_path, f"coarse/{role}", [runs.sample(7, runs.captions(7))], role=role)
    assert list(corpora(open_root(_config(tmp_path).data), [])) == ["coarse/train"]


def test_parts_of_the_samples_have_all_tokens_together(world: Path) -> None:
    indexes = corpora(open_root(_config(world).data), [])
    parts = [used_tokens(indexes, rank, 3) for rank in range(3)]
    assert torch.stack(parts).any(dim=0).equal(used_tokens(indexes))
    assert not all(part.equal(used_tokens(indexes)) for part in parts)


def test_end_of_text_counts_without_a_sample() -> None:
    assert used_tokens({}).nonzero().flatten().tolist() == [EOT]


def test_no_dataset_is_no_vocabulary(tmp_path: Path) -> None:
    config = _config(tmp_path, "coarse/absent")
    with pytest.raises(ConfigError, match=f"expected datasets to take a vocabulary from, found none: {tmp_path}"):
        trimmed(config, open_root(config.data), CPU)


def test_where_nothing_can_be_listed_the_mixture_counts(
    server: Server, world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = _config(serve_folder(server, world), "coarse/drawn-train", cache=str(tmp_path))
    root = open_root(config.data)
    with caplog.at_level(logging.WARNING):
        _, kept = trimmed(config, root, CPU)
    root.close()
    assert list(kept) == _tokens(*range(6), fine=False)
    assert "cannot be listed: words of other datasets than the mixture's are left out" in caplog.text
