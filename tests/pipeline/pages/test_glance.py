from pathlib import Path

from pipeline.ledger import Line, write_ledger
from pipeline.pages.glance import attention
from tests.folders import rows, state, train, world


def test_a_folder_in_order_needs_no_attention(tmp_path: Path):
    train(tmp_path)
    train(tmp_path, "eval/drawn-val")
    assert attention(world(tmp_path)) == []


def test_an_unfinished_dataset_says_how_far_it_is_and_what_was_refused(tmp_path: Path):
    train(tmp_path)
    train(tmp_path, "eval/drawn-val")
    parts = tmp_path / "shards/coarse/half-train/.parts"
    parts.mkdir(parents=True)
    (parts / "000000.tar").write_bytes(b"")
    write_ledger(
        parts / "ledger.parquet", [Line("half", str(n), None, ("kept", "http_404")[n % 2], "") for n in range(4)]
    )
    assert attention(world(tmp_path)) == [
        "coarse/half-train is not finished (shards made: 1); building again goes on there. Its ledger is there: 50% of 4 "
        "rows are refused (http_404 2)."
    ]


def test_a_dataset_that_cannot_be_opened_is_named_and_the_rest_is_shown(tmp_path: Path):
    train(tmp_path)
    train(tmp_path, "eval/drawn-val")
    state(train(tmp_path, "coarse/old-train"), format_version=99)
    found = world(tmp_path)
    assert [each.name for each in found.datasets] == ["coarse/drawn-train", "eval/drawn-val"]
    assert attention(found)[0].startswith("coarse/old-train cannot be opened: expected format_version 2, found 99")


def test_refusals_near_their_ceiling_are_named_with_their_reasons(tmp_path: Path):
    train(tmp_path, "eval/drawn-val")
    folder = state(train(tmp_path), refusal_ceiling=0.5)
    rows(folder, [("kept", "")] * 6 + [("http_404", "")] * 3 + [("timeout", "")])
    assert attention(world(tmp_path)) == [
        "coarse/drawn-train: 40% of the rows are refused, and 50% is where its build stops (http_404 3, timeout 1)."
    ]


def test_refusals_well_below_their_ceiling_are_not_named(tmp_path: Path):
    train(tmp_path, "eval/drawn-val")
    rows(state(train(tmp_path), refusal_ceiling=0.5), [("kept", "")] * 7 + [("http_404", "")] * 3)
    assert attention(world(tmp_path)) == []


def test_rows_held_out_are_no_refusals(tmp_path: Path):
    train(tmp_path, "eval/drawn-val")
    rows(state(train(tmp_path), refusal_ceiling=0.1), [("kept", "")] + [("held_out", "coco:1")] * 9)
    assert attention(world(tmp_path)) == []


def test_published_counts_that_differ_are_named(tmp_path: Path):
    train(tmp_path)
    published = {"images": 5000, "rows": 2}
    state(train(tmp_path, "eval/drawn-val"), published=published, counted={"images": 4998, "rows": 2})
    assert attention(world(tmp_path)) == ["eval/drawn-val: 5,000 images are published, 4,998 found."]


def test_training_without_an_evaluation_set_is_named(tmp_path: Path):
    train(tmp_path)
    assert attention(world(tmp_path))[0].startswith("There is no dataset to evaluate on")


def test_a_dataset_compared_with_other_evaluation_images_is_named(tmp_path: Path):
    train(tmp_path, looks_sha256="12" * 32)
    train(tmp_path, "eval/drawn-val")
    expected = "Compared with other evaluation images than are here now: coarse/drawn-train. Build them again."
    assert attention(world(tmp_path)) == [expected]


def test_a_ledger_that_differs_from_dataset_json_is_named(tmp_path: Path):
    train(tmp_path, "eval/drawn-val")
    state(train(tmp_path), counts={"kept": 3})
    expected = "coarse/drawn-train: the ledger has 2 rows of which 2 are kept, its dataset.json says 3 and 3."
    assert attention(world(tmp_path)) == [expected]


def test_a_build_with_a_limit_or_without_a_look_at_the_pixels_is_named(tmp_path: Path):
    train(tmp_path, "eval/drawn-val")
    state(train(tmp_path), limit=2, check="header")
    assert attention(world(tmp_path)) == [
        "coarse/drawn-train: built with a limit of 2 images: not the whole source.",
        "coarse/drawn-train: only headers were read: damage is unseen, and no image was compared by its look.",
    ]


def test_kept_rows_that_look_like_an_evaluation_image_are_named(tmp_path: Path):
    rows(train(tmp_path), [("kept", ""), ("kept", "looks like eval/drawn-val drawn-2")])
    train(tmp_path, "eval/drawn-val")
    expected = "coarse/drawn-train: 1 rows were kept although their image looks like an evaluation image."
    assert attention(world(tmp_path)) == [expected]


def test_evaluation_sets_that_a_shipped_manifest_names_and_nobody_built_are_named(tmp_path: Path):
    train(tmp_path, "coarse/sample-train", manifest="sample")
    train(tmp_path, "eval/sample-val", manifest="sample")
    found = attention(world(tmp_path))
    assert "Evaluation sets that are not built: eval/sample-grounded-val (manifests/sample.toml)." in found


def test_one_dataset_alone_is_not_asked_for_evaluation_sets(tmp_path: Path):
    assert attention(world(train(tmp_path))) == []
