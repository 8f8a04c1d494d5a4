from pathlib import Path

from bitgen.evaluation.curves import Log, curves, read_log, training_time_s


def test_a_log_is_read_and_its_damaged_lines_are_counted(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\nnonsense\n{"loss": 1.0}\n{"step": 2, "lo')
    found = read_log("run", path)
    assert found.lines == ({"step": 1, "loss": 2.0},)
    assert found.damaged == 3


def test_a_run_without_metrics_has_an_empty_log(tmp_path: Path):
    assert read_log("run", tmp_path / "metrics.jsonl") == Log("run", (), 0)


def test_training_time_is_images_over_their_speed():
    lines = ({"step": 10, "images_per_s": 20.0}, {"step": 15, "event": "x"}, {"step": 20, "images_per_s": 40.0})
    # 10 steps of 8 images at 20 a second, then 10 at 40.
    assert training_time_s(Log("run", lines, 0), 8) == 4.0 + 2.0


def test_a_run_stands_at_the_end_of_the_one_it_started_from():
    first = Log("first", ({"step": 1, "loss": 3.0}, {"step": 30, "loss": 2.0}), 0)
    second = Log("second", ({"step": 1, "loss": 5.0}, {"step": 30, "loss": 1.0}), 0)
    drawn = curves([first, second])
    assert "second starts" in drawn
    assert drawn.count("<polyline") == 2
    # The axis ends at 60: its last tick is there.
    assert ">60</text>" in drawn


def test_gates_share_a_chart():
    lines = tuple({"step": s, "gate_text_0": 0.1 * s, "gate_text_1": 0.2 * s} for s in (1, 2))
    drawn = curves([Log("run", lines, 0)])
    assert drawn.count("<svg") == 1
    assert drawn.count("<polyline") == 2


def test_fields_that_are_not_known_get_a_chart_too():
    drawn = curves([Log("run", ({"step": 1, "memory_use": 1.0}, {"step": 2, "memory_use": 2.0}), 0)])
    assert "<h4>Memory use</h4>" in drawn


def test_only_what_batches_did_leave_out_has_a_chart() -> None:
    lines = tuple({"step": n, "dropped_replaced": 0.0, "dropped_span_truncated": float(n)} for n in (1, 2))
    drawn = curves([Log("run", lines, 0)])
    assert "Dropped span truncated" in drawn
    assert "Dropped replaced" not in drawn


def test_figures_that_belong_together_share_a_chart() -> None:
    lines = tuple(
        {"step": s, "acc_t2i": 0.1 * s, "acc_i2t": 0.2 * s, "grad_norm": s, "grad_norm_gate": 2 * s} for s in (1, 2)
    )
    drawn = curves([Log("run", lines, 0)])
    assert drawn.count("<svg") == 2
    assert drawn.count("<polyline") == 4
    assert drawn.index("What a step gets right") < drawn.index("Optimisation") < drawn.index("Gradient norm before")


def test_curves_that_lie_on_each_other_are_one() -> None:
    lines = tuple({"step": s, "lr": 0.1 * s, "lr_ternary": 0.1 * s, "lr_gate": s} for s in (1, 2))
    drawn = curves([Log("run", lines, 0)])
    assert drawn.count("<polyline") == 2
    assert "base, ternary</span>" in drawn


def test_no_section_is_without_a_chart() -> None:
    drawn = curves([Log("run", ({"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}), 0)])
    assert drawn.count("<h3>") == drawn.count("<svg") == 1
