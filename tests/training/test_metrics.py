"""A run's figures: whole lines, and none from after the step that a run goes on from."""

import json
import math
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bitgen.training.metrics import Meter, MetricsLog, Shown
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


def test_perplexity_is_that_of_the_mean_over_steps() -> None:
    meter = Meter({})
    for step, nats in enumerate((1.0, 3.0)):
        meter.add(step, {"token_nats": torch.tensor(nats)}, ("a",))
    assert meter.read()["perplexity"] == pytest.approx(math.exp(2.0))


def test_a_perplexity_beyond_all_floats_is_no_fault() -> None:
    meter = Meter({})
    meter.add(1, {"token_nats": torch.tensor(1e6)}, ("a",))
    assert math.isfinite(meter.read()["perplexity"])


def test_pictures_of_a_step_lie_in_the_run(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, fakes.config(), 0) as log:
        log.show(12, Shown("all", "some"))
    assert (tmp_path / "shown/step-00000012.html").read_text() == "all"
    assert _lines(tmp_path) == []


def test_weights_and_biases_has_the_figures_and_the_pictures_that_may_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = fakes.config(run={"wandb": True})
    with MetricsLog(tmp_path, config, 0) as log:
        log.write(1, loss=0.5, acc_t2i=0.25)
        log.show(1, Shown("kept here", "may leave"))
        log.write(2, event="thawed")
    (run,) = tmp_path.glob("wandb/offline-run-*")
    assert [path.read_text() for path in run.glob("files/media/html/*")] == ["may leave"]
    logged = _logged(next(run.glob("*.wandb")))
    ends = time.monotonic() + 20
    while not logged and time.monotonic() < ends:  # its own process goes on writing for a moment after `finish`
        time.sleep(0.05)
        logged = _logged(next(run.glob("*.wandb")))
    assert [(row["_step"], row["loss"], row["acc_t2i"]) for row in logged if "loss" in row] == [(1, 0.5, 0.25)]
    assert {name for row in logged for name in row if not name.startswith("_")} == {"loss", "acc_t2i", "shown"}
    assert not any(b"kept here" in path.read_bytes() for path in tmp_path.glob("wandb/**/*") if path.is_file())


def test_weights_and_biases_is_off_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type] (as where it is not installed)
    with MetricsLog(tmp_path, fakes.config(), 0) as log:
        log.write(1, loss=0.5)
        log.show(1, Shown("", ""))


def _logged(path: Path) -> list[dict[str, Any]]:
    """What a file of an offline run holds of its history. Its form is LevelDB's log: blocks of 32 KiB of records, each after 7
    bytes of checksum, length and kind (whole, first, middle, last); the first 7 bytes of the file are its own."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue] (made at run time)

    content, parts, rows = path.read_bytes(), b"", list[dict[str, Any]]()
    at = 7
    while at + 7 <= len(content):
        if 0 < -at % 32768 < 7:  # no room for a record
            at += -at % 32768
            continue
        size, kind = struct.unpack_from("<HB", content, at + 4)
        parts, at = parts + content[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):
            record = Record.FromString(parts)
            items = record.history.item
            if items:
                rows.append({"_step": record.history.step.num} | {_name(i): json.loads(i.value_json) for i in items})
            parts = b""
    return rows


def _name(item: Any) -> str:
    return item.key or item.nested_key[0]
