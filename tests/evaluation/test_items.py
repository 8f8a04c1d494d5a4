from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bitgen.batch import whole
from bitgen.evaluation.items import Items, ItemsError, phrase_keys, read_items, text_keys, write_items
from bitgen.record import Phrase, Text
from bitgen.tokens import shared_tokenizer
from tests import fakes
from tests.runs import LEFT, RIGHT, photo, sample

ITEMS = Items(
    keys=("coco-1.0", "coco-1.1", "coco-2.0"),
    photographs=np.array([-(2**63), -(2**63), 7]),
    values={"r1": np.array([1.0, 0.0, 1.0]), "mean_iou": np.array([0.1, 1 / 3, 1.0])},
)


def test_what_is_written_is_read(tmp_path: Path):
    write_items(tmp_path / "t2i.parquet", ITEMS)
    found = read_items(tmp_path / "t2i.parquet")
    assert found.keys == ITEMS.keys
    assert found.photographs.tolist() == ITEMS.photographs.tolist()
    assert {name: each.tolist() for name, each in found.values.items()} == {
        "r1": [1.0, 0.0, 1.0],
        "mean_iou": [0.1, 1 / 3, 1.0],
    }


def test_a_figure_is_the_mean_of_its_values():
    assert ITEMS.means() == pytest.approx({"r1": 2 / 3, "mean_iou": (0.1 + 1 / 3 + 1) / 3})


def test_a_text_is_named_by_its_image_and_its_number():
    assert text_keys(fakes.fake_batch(2, texts=2, position=5)) == ["fake-5.0", "fake-5.1", "fake-6.0", "fake-6.1"]


def test_a_phrase_is_named_by_its_text_and_its_first_token():
    batch = fakes.fake_batch(1, texts=2, phrases=2)
    spans = torch.tensor([[4, 6], [2, 3], [2, 5], [2, 3]])
    assert phrase_keys(replace(batch, phrase_tokens=spans)) == [
        "fake-0.0.4",
        "fake-0.0.2",
        "fake-0.1.2",
        "fake-0.1.2.1",
    ]


def test_a_phrase_keeps_its_name_where_another_of_its_text_is_cut_off():
    # The second sentence names what comes last first.
    words = "a dog and a cat and a cow"
    phrases = (Phrase(20, 25, (LEFT,)), Phrase(0, 5, (LEFT,)), Phrase(10, 15, (RIGHT,)))
    item = (0, sample(1, (Text(words, phrases),)), photo(1))
    long, short = (phrase_keys(whole([item], 28, shared_tokenizer(), max_tokens=most)) for most in (32, 8))
    assert long == ["drawn-1.0.7", "drawn-1.0.1", "drawn-1.0.4"]
    assert short == ["drawn-1.0.1", "drawn-1.0.4"]


def test_a_value_too_few_is_refused():
    with pytest.raises(ItemsError, match=r"found 2 keys and \{'photograph': \(2,\), 'r1': \(1,\)\}"):
        Items(("a", "b"), np.array([1, 2]), {"r1": np.array([1.0])})


def test_a_photograph_too_few_is_refused():
    with pytest.raises(ItemsError, match=r"found 2 keys and \{'photograph': \(1,\), 'r1': \(2,\)\}"):
        Items(("a", "b"), np.array([1]), {"r1": np.array([1.0, 0.0])})


def test_no_items_are_refused():
    with pytest.raises(ItemsError, match="expected one or more items"):
        Items((), np.array([], dtype=np.int64), {"r1": np.array([])})


def test_no_figures_are_refused():
    with pytest.raises(ItemsError, match="a value of each figure, found 1 keys"):
        Items(("a",), np.array([1]), {})


def test_a_value_that_is_not_a_number_is_refused():
    with pytest.raises(ItemsError, match="expected a finite value of r1 for every item, found nan"):
        Items(("a", "b"), np.array([1, 2]), {"r1": np.array([1.0, np.nan])})


def test_a_figure_by_the_name_of_another_column_is_refused():
    with pytest.raises(ItemsError, match=r"other names than key and photograph, found \['key'\]"):
        Items(("a",), np.array([1]), {"key": np.array([1.0])})


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path):
    (tmp_path / "x").write_text("{}")
    with pytest.raises(ItemsError, match=r"expected a file of items, found another: .*/x$"):
        read_items(tmp_path / "x")


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_items(tmp_path / "x")


def write(path: Path, columns: dict[str, pa.Array], version: str = "1") -> Path:
    pq.write_table(pa.table(columns).replace_schema_metadata({"bitgen_items": version}), path)
    return path


KEY, PHOTOGRAPH, R1 = pa.array(["a"]), pa.array([1]), pa.array([1.0])


def test_another_version_is_refused(tmp_path: Path):
    path = write(tmp_path / "x", {"key": KEY, "photograph": PHOTOGRAPH, "r1": R1}, "2")
    with pytest.raises(ItemsError, match="expected items of version 1, found b'2'"):
        read_items(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"photograph": PHOTOGRAPH, "r1": R1}, "expected columns key and photograph"),
        ({"key": KEY, "r1": R1}, "expected columns key and photograph"),
        ({"key": PHOTOGRAPH, "photograph": PHOTOGRAPH, "r1": R1}, "expected string in every row of key, found int64"),
        ({"key": KEY, "photograph": R1, "r1": R1}, "expected int64 in every row of photograph, found double"),
        ({"key": KEY, "photograph": PHOTOGRAPH, "r1": KEY}, "expected double in every row of r1, found string"),
        (
            {"key": KEY, "photograph": PHOTOGRAPH, "r1": pa.array([None], pa.float64())},
            "expected double in every row of r1, found double, 1 of them missing",
        ),
        ({"key": KEY, "photograph": PHOTOGRAPH}, "a value of each figure, found 1 keys"),
    ],
)
def test_other_columns_are_refused(tmp_path: Path, columns: dict[str, pa.Array], message: str):
    with pytest.raises(ItemsError, match=message):
        read_items(write(tmp_path / "x", columns))
