import json
import os
import re
from pathlib import Path

import pytest

from bitgen.record import Text
from cli.show import main
from tests.runs import captions, photo, run_config, sample, write_run, write_set, write_world

SCRIPT = "<script>alert(1)</script>"
QUOTES = "\"><img src=x onerror='alert(2)'>"
METRICS = (
    {"step": 2, "epoch": 0.5, "loss": 3.0, "itc": 2.0, "lr": 0.001, "gate_image_0": 0.0, "images_per_s": 8.0},
    {"step": 4, "event": "LoRA thawed at step 4"},
    {"step": 4, "epoch": 1.0, "loss": 2.0, "itc": 1.0, "lr": 0.002, "gate_image_0": 0.1, "images_per_s": 8.0},
    {"step": 4, "validation_acc50": 0.25},
)


def page_of(path: Path, *arguments: str) -> str:
    out = path.parent / "page.html"
    assert main([str(path), "--out", str(out), *arguments]) == 0
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(write_world(tmp_path_factory.mktemp("world") / "data"), "--samples", "4")


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    root = write_world(folder / "data")
    first = write_run(run_config(root, folder / "runs", "first"), lines=METRICS)
    second = write_run(run_config(root, folder / "runs", "second", init=str(first)), lines=METRICS)
    return page_of(second, "--samples", "4")


def test_a_data_page_counts_every_dataset(data_page: str):
    assert "coarse/drawn-train" in data_page
    assert "eval/drawn-phrases" in data_page
    assert "<dt>samples</dt><dd>20</dd>" in data_page
    assert "<dt>phrases</dt><dd>30</dd>" in data_page


def test_a_data_page_shows_refusals_by_reason(data_page: str):
    assert "66.7% of 9 rows kept" in data_page
    assert "shows an evaluation image: never trained on" in data_page


def test_a_data_page_shows_as_many_thumbnails_of_each_dataset_as_are_asked_for(data_page: str):
    assert data_page.count('<figure class="thumb"') == 16


def test_a_data_page_shows_one_sample_of_each_dataset_as_the_model_sees_it(data_page: str):
    assert data_page.count("data:image/png;base64,") == 4


def test_a_page_loads_nothing_and_runs_nothing(data_page: str, run_page: str):
    for page in (data_page, run_page):
        sources = re.findall(r'(?:src|href|action|data|srcset)\s*=\s*"([^"]*)"', page)
        assert all(source.startswith(("data:image/", "#part-")) for source in sources)
        assert "<script" not in page
        assert "url(" not in page
        assert "default-src 'none'" in page


def test_the_page_of_one_dataset_folder_is_about_it(tmp_path: Path):
    folder = write_set(tmp_path / "data", "coarse/drawn-train", [sample(1, captions(1))])
    assert "<title>Data: coarse/drawn-train</title>" in page_of(folder)


def test_a_caption_that_is_a_script_is_shown_as_text(tmp_path: Path):
    write_set(tmp_path / "data", "coarse/bad-train", [sample(1, [Text(SCRIPT)])])
    page = page_of(tmp_path / "data")
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3


def test_a_source_and_an_outcome_that_hold_quotes_are_shown_as_text(tmp_path: Path):
    odd = sample(1, captions(1), source=QUOTES)
    write_set(tmp_path / "data", "coarse/bad-train", [odd], counts={"kept": 1, QUOTES: 2}, phase=QUOTES)
    page = page_of(tmp_path / "data")
    assert "<img src=x" not in page
    assert "&quot;&gt;&lt;img src=x onerror=&#x27;alert(2)&#x27;&gt;" in page


def test_equal_seeds_give_equal_pages(tmp_path: Path):
    root = write_world(tmp_path / "data")
    assert page_of(root, "--samples", "4", "--seed", "3") == page_of(root, "--samples", "4", "--seed", "3")


def test_a_damaged_image_gives_a_line_and_the_rest_is_shown(tmp_path: Path):
    broken = b"\xff\xd8\xff\xe0 not a photograph"
    samples = [sample(1, captions(1)), sample(2, captions(2), image=broken)]
    write_set(tmp_path / "data", "coarse/drawn-train", samples, images=[photo(1), broken])
    page = page_of(tmp_path / "data")
    assert "sample drawn-2 cannot be shown: expected" in page
    assert "two rectangles, number 1" in page


def test_an_unfinished_dataset_is_named(tmp_path: Path):
    write_set(tmp_path / "data", "coarse/drawn-train", [sample(1, captions(1))])
    (tmp_path / "data/shards/coarse/half-train").mkdir()
    assert "coarse/half-train is not finished (shards made: 0)" in page_of(tmp_path / "data")


def test_datasets_under_different_holdouts_are_warned_of(tmp_path: Path):
    write_set(tmp_path / "data", "coarse/one-train", [sample(1, captions(1))])
    write_set(tmp_path / "data", "coarse/two-train", [sample(2, captions(2))], holdout_sha256="cd" * 32)
    assert "built under different hold-out lists" in page_of(tmp_path / "data")


def test_a_run_page_has_the_curves_of_its_whole_lineage(run_page: str):
    assert "first (fine)" in run_page
    assert "second (fine) starts" in run_page
    assert "LoRA thawed at step 4" in run_page
    assert run_page.count("<polyline") >= 8


def test_a_run_page_shows_predicted_boxes_beside_the_true_ones(run_page: str):
    assert 'class="edge dashed"' in run_page
    assert "heat-map of" in run_page
    assert "trained on, fine/drawn-train" in run_page
    assert "held out, eval/drawn-phrases" in run_page


def test_a_run_page_shows_captions_and_the_three_nearest_texts(run_page: str):
    assert run_page.count("<h4>Generated caption</h4>") == 2
    assert len(re.findall(r"<ol>(?:<li>.*?</li>){3}</ol>", run_page)) == 2


def test_a_run_page_says_that_held_out_figures_mean_nothing_at_this_size(run_page: str):
    assert "its figures on held-out images mean nothing" in run_page


def test_a_run_without_results_says_how_to_make_them(run_page: str):
    assert "None yet: bitgen-eval" in run_page


@pytest.fixture
def bare_run(tmp_path: Path) -> Path:
    """A run that has not come to its first checkpoint."""
    config = run_config(tmp_path / "data", tmp_path / "runs")
    folder = tmp_path / "runs/tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json())
    return folder


def test_a_run_without_a_checkpoint_still_has_a_page(bare_run: Path):
    page = page_of(bare_run)
    assert "Not shown: the run has no checkpoint yet" in page
    assert "No metrics have been written yet." in page


def test_damaged_metrics_are_left_out_and_counted(bare_run: Path):
    (bare_run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n[1]\n{"step": 2, "lo')
    assert "2 damaged lines of metrics.jsonl were left out." in page_of(bare_run)


def test_metrics_that_are_not_finite_are_not_drawn(bare_run: Path):
    (bare_run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": Infinity}\n')
    assert "1 values cannot be drawn" in page_of(bare_run)


def test_an_event_and_a_field_that_hold_markup_are_shown_as_text(bare_run: Path):
    lines = [{"step": 1, SCRIPT: 1.0, "loss": 1.0}, {"step": 1, "event": QUOTES}]
    (bare_run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(bare_run)
    assert "<script" not in page.lower()
    assert "<img src=x" not in page


def test_results_of_another_shape_are_said_to_be_unreadable(bare_run: Path):
    (bare_run / "results.json").write_text('{"train": {"datasets": {"x": {"retrieval": 3}}}}')
    assert "results.json cannot be read" in page_of(bare_run)


def test_a_run_page_goes_into_the_run_unless_told_otherwise(bare_run: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(bare_run)]) == 0
    assert (bare_run / "report.html").is_file()
    assert f"wrote {bare_run / 'report.html'}" in capsys.readouterr().out


def test_the_page_of_a_dataset_goes_beside_it_and_not_into_it(tmp_path: Path):
    folder = write_set(tmp_path / "data", "coarse/drawn-train", [sample(1, captions(1))])
    before = sorted(folder.iterdir())
    assert main([str(folder)]) == 0
    assert sorted(folder.iterdir()) == before
    assert (folder.parent / "drawn-train.html").is_file()


def test_datasets_may_lie_elsewhere_than_where_the_run_was_trained(tmp_path: Path):
    run = write_run(run_config(tmp_path / "gone", tmp_path / "runs"))
    root = write_world(tmp_path / "data")
    assert "heat-map of" in page_of(run, "--data", str(root), "--samples", "1")


def test_a_run_whose_datasets_are_gone_still_has_a_page(tmp_path: Path):
    run = write_run(run_config(tmp_path / "gone", tmp_path / "runs"))
    assert "Not shown: expected built datasets" in page_of(run)


def test_a_page_that_cannot_be_written_leaves_nothing_behind(bare_run: Path, capsys: pytest.CaptureFixture[str]):
    (bare_run / "report.html").mkdir()
    assert main([str(bare_run)]) == 1
    assert "bitgen-show:" in capsys.readouterr().err
    assert sorted(path.name for path in bare_run.iterdir()) == ["config.json", "report.html"]


def test_a_run_whose_configuration_is_damaged_is_refused(bare_run: Path, capsys: pytest.CaptureFixture[str]):
    (bare_run / "config.json").write_text("{")
    assert main([str(bare_run)]) == 1
    assert "expected the configuration of a run" in capsys.readouterr().err
    assert not (bare_run / "report.html").exists()


def test_a_folder_with_neither_data_nor_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path)]) == 1
    assert "expected a dataset folder, a folder with shards/, or a run folder" in capsys.readouterr().err


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path / "missing")]) == 1
    assert "expected a run folder, a dataset folder or a data folder" in capsys.readouterr().err


def test_a_run_page_is_not_put_in_the_place_of_a_pipe(bare_run: Path):
    os.mkfifo(bare_run / "page.html")
    assert main([str(bare_run), "--out", str(bare_run / "page.html")]) == 1
    assert (bare_run / "page.html").is_fifo()


@pytest.mark.parametrize("flag", ["--seed=-1", "--samples=-5", "--samples=0"])
def test_a_number_out_of_range_is_wrong_use(capsys: pytest.CaptureFixture[str], flag: str):
    with pytest.raises(SystemExit) as stopped:
        main(["runs/any", flag])
    assert stopped.value.code == 2
    assert f"expected {flag.partition('=')[0]} of" in capsys.readouterr().err


def test_another_data_folder_for_datasets_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path), "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("bitgen-show: expected --data with a run only")


def test_a_stopped_page_has_failed(bare_run: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.show.run_page", stop)
    assert main([str(bare_run)]) == 1
