"""A run's figures: whole lines, and none from after the step that a run goes on from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bitgen.training.metrics import Meter, MetricsLog
from tests import fakes
from tests.disk import files_of_at_most


def _lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_figures_are_one_object_a_line(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, fakes.config(), 0) as log:
        log.write(1, loss=0.5, lr=0.1)
        log.write(2, event="thawed")
    assert _lines(tmp_path) == [{"step": 1, "loss": 0.5, "lr": 0.1}, {"step": 2, "event": "thawed"}]


def test_a_line_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, fakes.config(), 0) as log:
        log.write(1, loss=0.5)
        assert _lines(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, fakes.config(), 0) as log:
        for step in range(1, 6):
            log.write(step, loss=float(step))
    with MetricsLog(tmp_path, fakes.config(), 3) as log:
        log.write(4, loss=40.0)
    assert [line["loss"] for line in _lines(tmp_path)] == [1.0, 2.0, 3.0, 40.0]


def test_a_resumed_run_drops_the_event_that_its_first_step_brings_again(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, fakes.config(), 0) as log:
        log.write(3, loss=1.0)
        log.write(3, event="thawed")
    with MetricsLog(tmp_path, fakes.config(), 3):
        assert _lines(tmp_path) == [{"step": 3, "loss": 1.0}]


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    with MetricsLog(tmp_path, fakes.config(), 5) as log:
        log.write(2, loss=3.0)
    assert _lines(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 3.0}]


@pytest.mark.parametrize("line", ["{}", "[]", "7", '{"step": "x"}'])
def test_what_is_no_line_of_ours_ends_the_lines_that_are_kept(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n' + line + "\n")
    with MetricsLog(tmp_path, fakes.config(), 5):
        assert _lines(tmp_path) == [{"step": 1, "loss": 2.0}]


def test_time_in_a_pause_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 9.0, 2.0 + 8.0])
    monkeypatch.setattr("bitgen.training.metrics.time.monotonic", lambda: next(clock))
    meter = Meter({})
    with meter.paused():
        meter.add(1, {"loss": torch.tensor(1.0)}, ("a", "b"))
    assert meter.read()["images_per_s"] == pytest.approx(2 / 2.0)


def test_the_time_that_a_rank_waits_for_batches_is_a_share_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 10.0])  # made at 0, waits from 1 to 4, read at 10
    monkeypatch.setattr("bitgen.training.metrics.time.monotonic", lambda: next(clock))
    meter = Meter({})
    next(meter.watched(fakes.endless()))
    assert meter.read()["data_wait"] == pytest.approx(0.3)


def test_a_new_run_in_an_old_folder_starts_empty(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    with MetricsLog(tmp_path, fakes.config(), 0):
        assert _lines(tmp_path) == []


def test_nothing_but_the_figures_is_left_in_the_folder(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, fakes.config(), 0) as log:
        log.write(1, loss=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_full_disk_is_told_and_named_when_it_is_asked_for(tmp_path: Path) -> None:
    named = pytest.raises(OSError, match=f"File too large: '{tmp_path}/metrics.jsonl'")
    with files_of_at_most(100), MetricsLog(tmp_path, fakes.config(), 0) as log:
        log.write(1, loss=0.5)
        log.check()
        log.write(2, event="x" * 200)
        with named:
            log.check()


def test_figures_that_were_stored_under_other_names_are_left_out() -> None:
    """As a version stored them that had no memory_utilisation."""
    meter = Meter({"loss": torch.tensor([1.0, 2.0])})
    for step in (3, 4):
        meter.add(step, {"loss": torch.tensor(6.0), "new": torch.tensor(1.0)}, ("a",))
    meter.check()
    read = meter.read()
    assert (read["loss"], read["new"]) == (6.0, 1.0)
