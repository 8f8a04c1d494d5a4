"""Two and four ranks compute what one process computes on the joined batch."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgen.training.checkpoint import list_checkpoints
from bitgen.training.distributed import agree, gather, mean_over_ranks, weighted_mean
from tests import ranks
from tests.forks import forks
from tests.trainings import resume

pytestmark = pytest.mark.timeout(300)
"""Ranks wait for each other at every turn: what takes 15 seconds of a quiet machine takes 90 of one with ten other processes."""

Results = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two and four ranks wrote."""
    folder = tmp_path_factory.mktemp("ranks")
    forks()
    start = torch.multiprocessing.start_processes  # pyright: ignore[reportPrivateImportUsage]
    start(ranks.work, (str(folder),), nprocs=4, start_method="forkserver")
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    """What rank 0 and rank 1 of two and one process alone found, and the folder of the runs."""
    first, second = (load_file(folder / f"rank{r}of2.safetensors") for r in range(2))
    return first, second, ranks.everything(folder / "one"), folder


@pytest.fixture(scope="module")
def four(folder: Path) -> list[dict[str, Tensor]]:
    """What each of four ranks found."""
    return [load_file(folder / f"rank{r}of4.safetensors") for r in range(4)]


def _under(found: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in found.items() if name.startswith(prefix)}


@pytest.mark.parametrize("losses", ranks.LOSSES)
@pytest.mark.parametrize("world", [2, 4])
def test_gradients_are_those_of_one_process_on_the_joined_batch(
    results: Results, four: list[dict[str, Tensor]], world: int, losses: str
) -> None:
    found = _under({2: results[0], 4: four[0]}[world], f"{losses}.gradient.")
    expected = _under(results[2], f"{losses}.gradient.")
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-6 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_there_are_gradients_to_compare(results: Results) -> None:
    norms = {name: float(value.norm()) for name, value in _under(results[2], "all.gradient.").items()}
    assert [
        name for name, norm in norms.items() if norm < 1e-7 and "mask_token" not in name and "k_proj.bias" not in name
    ] == []


@pytest.mark.parametrize("world", [2, 4])
def test_queues_are_equal_bit_for_bit_on_all_ranks(results: Results, four: list[dict[str, Tensor]], world: int) -> None:
    first, *others = [_under(r, "all_queue.") for r in {2: results[:2], 4: four}[world]]
    names = [name for name in first if "queue." in name]
    assert len(names) == 4 + 4 + 3
    assert [
        (r, name) for r, other in enumerate(others, 1) for name in names if not other[name].equal(first[name])
    ] == []


@pytest.mark.parametrize("world", [2, 4])
def test_queues_are_those_of_one_process(results: Results, four: list[dict[str, Tensor]], world: int) -> None:
    found, alone = (_under(r, "all_queue.") for r in ({2: results[0], 4: four[0]}[world], results[2]))
    assert found["queue.count"].item() == 3 * 8
    for name in (name for name in alone if "queue." in name):
        torch.testing.assert_close(found[name], alone[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("step", range(ranks.STEPS))
def test_draws_do_not_depend_on_the_number_of_ranks(results: Results, step: int) -> None:
    first, second, alone = (r[f"all.draws.{step}"] for r in results[:3])
    assert torch.cat([first, second]).equal(alone)


@pytest.mark.parametrize("phase", ranks.phases())
def test_a_run_ends_with_the_same_weights_on_both_ranks(results: Results, phase: str) -> None:
    first, second = (_under(r, f"{phase}.") for r in results[:2])
    assert len(first) > 50
    assert [name for name in first if not first[name].equal(second[name])] == []


def test_pictures_that_one_rank_makes_change_nothing_on_either(results: Results) -> None:
    for found in results[:2]:
        with_them, without = _under(found, "shown."), _under(found, "fine.")
        assert with_them.pop("step").item() == 4
        assert with_them.keys() == without.keys()
        assert [name for name in without if not with_them[name].equal(without[name])] == []
    assert [path.name for path in sorted((results[3] / "two" / "shown" / "shown").iterdir())] == [
        "step-00000002.html",
        "step-00000004.html",
    ]


def _losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{n: v for n, v in line.items() if n not in ("images_per_s", "data_wait", "mfu", "event")} for line in lines]


@pytest.mark.parametrize("phase", ranks.phases())
def test_a_runs_figures_are_those_of_one_process(results: Results, phase: str) -> None:
    two, one = _losses(results[3] / "two" / phase), _losses(results[3] / "one" / phase)
    assert [line.keys() for line in two] == [line.keys() for line in one]
    assert two[0] == pytest.approx(one[0], rel=1e-4)
    assert [line["loss"] for line in two if "loss" in line] == pytest.approx(
        [x["loss"] for x in one if "loss" in x], rel=1e-2
    )


def test_rows_are_gathered_in_the_order_of_ranks(results: Results) -> None:
    expected = [[0, 1, 2], [3, 4, 5], [10, 11, 12], [13, 14, 15]]
    assert [r["gathered"].tolist() for r in results[:2]] == [expected] * 2
    assert results[0]["gathered_bool"].tolist() == [[value > 3 for value in row] for row in expected]


def test_a_weighted_mean_is_of_all_ranks_rows(results: Results) -> None:
    values, weights = (1.0, 2.0, 11.0, 12.0), (1.0, 0.0, 1.0, 3.0)
    expected = sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
    assert (results[0]["mean"] + results[1]["mean"]).item() / 2 == pytest.approx(expected)


def test_all_ranks_take_the_first_ones_word_for_a_validation(results: Results) -> None:
    assert [r["impatient"].item() for r in results[:2]] == [3, 3]


@pytest.mark.parametrize("reason", ["not_finite", "left_out"])
def test_all_ranks_end_for_the_figure_of_one(results: Results, reason: str) -> None:
    assert [bool(r[f"ended.{reason}"]) for r in results[:2]] == [True, True]


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("a checkpoint, 0", "CheckpointError"),
        ("the first figures, 0", "IsADirectoryError"),
        ("figures, 0", "OSError"),
        ("validation, 0", "LostError"),
        ("pictures, 0", "LostError"),
        ("a batch, 1", "LostError"),
        ("the end of the batches, 1", "TrainingError"),
    ],
)
def test_all_ranks_end_where_one_fails_alone(folder: Path, what: str, error: str) -> None:
    found = [json.loads((folder / f"ends{r}.json").read_text())[what] for r in range(2)]
    assert found == ([error, "RankError"] if what.endswith("0") else ["RankError", error])


def test_all_ranks_stop_and_save_when_one_is_asked_to(folder: Path) -> None:
    assert [json.loads((folder / f"ends{r}.json").read_text())["asked"] for r in range(2)] == ["stopped at 3"] * 2
    assert [path.name for path in list_checkpoints(folder / "asked")] == ["step-00000003"]


def test_a_run_that_two_ranks_began_goes_on_in_one_process(folder: Path, results: Results) -> None:
    run = Path(shutil.copytree(folder / "asked", folder / "gone on"))
    assert resume(run, ranks.phases()["fine"]).reason == "done"
    found, whole = _losses(run), _losses(folder / "one" / "fine")
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in whole], rel=1e-2)


def test_all_ranks_stop_when_one_does(results: Results) -> None:
    assert [r["agreed"].tolist() for r in results[:2]] == [[True, False]] * 2


def test_what_is_true_on_any_rank_is_true_on_all(results: Results) -> None:
    assert [r["any"].tolist() for r in results[:2]] == [[True, True, False]] * 2


def test_alone_everything_is_the_identity() -> None:
    rows = torch.arange(4.0)
    assert gather(rows) is rows
    assert mean_over_ranks(rows).equal(rows)
    assert agree(True, rows.device)
    assert not agree(False, rows.device)


@pytest.mark.parametrize(("weights", "mean"), [([1.0, 1.0, 2.0], 2.25), ([0.0, 0.0, 1.0], 3.0), ([0.0, 0.0, 0.0], 0.0)])
def test_rows_weigh_what_they_are_given(weights: list[float], mean: float) -> None:
    assert weighted_mean(torch.tensor([1.0, 2.0, 3.0]), torch.tensor(weights)).item() == pytest.approx(mean)
