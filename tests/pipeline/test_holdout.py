"""No evaluation image is trained on, under whatever id, size or quality it comes."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.holdout import (
    SHIPPED,
    BlockList,
    HoldoutError,
    Looks,
    block_list,
    copy_list,
    find_list,
    keep_list,
    kept_in,
    look_of,
    open_kinds,
    read_ids,
)
from pipeline.manifest import Manifest, Source

if TYPE_CHECKING:
    from tests.pipeline.conftest import World

Paint = Callable[..., bytes]


def source(split: str, role: str) -> Source:
    """A source whose annotation file is the folder it lies in."""
    return Source("s", "coarse", role, split, "coco", (".",), (".",), manifest="world")


def blocked(tmp_path: Path, train: list[tuple[str, ...]], evaluation: list[tuple[str, ...]]) -> frozenset[str]:
    """The block list of two sources, whose samples have these ids, beside the shipped list `coco:1`."""
    ids = {"train": train, "val": evaluation}

    (tmp_path / "raw/world").mkdir(parents=True, exist_ok=True)
    (tmp_path / "lists").mkdir(exist_ok=True)
    (tmp_path / "lists/a.txt").write_text("coco:1\n")
    manifest = Manifest("world", "", tmp_path / "m.toml", (), (source("train", "train"), source("val", "eval")), ())
    return block_list([manifest], tmp_path / "raw", lambda each: ids[each.split], tmp_path / "lists").ids


def test_every_image_of_an_evaluation_source_is_blocked(tmp_path: Path) -> None:
    assert blocked(tmp_path, [], [("coco:5", "flickr:7")]) == {"coco:1", "coco:5", "flickr:7"}


def test_an_id_that_a_training_source_links_to_an_evaluation_image_is_blocked(tmp_path: Path) -> None:
    assert blocked(tmp_path, [("coco:5", "vg:9")], [("coco:5",)]) == {"coco:1", "coco:5", "vg:9"}


def test_links_are_followed_to_their_end_in_any_order(tmp_path: Path) -> None:
    links = [("flickr:7", "vg:9"), ("coco:5", "flickr:7"), ("coco:2", "vg:3")]
    assert blocked(tmp_path, links, [("coco:5",)]) == {"coco:1", "coco:5", "flickr:7", "vg:9"}


def test_links_from_a_shipped_id_are_followed(tmp_path: Path) -> None:
    assert blocked(tmp_path, [("coco:1", "vg:4")], []) == {"coco:1", "vg:4"}


def test_an_id_that_is_too_long_for_cocos_may_be_of_none_of_its_lists() -> None:
    assert (open_kinds(["coco:581929"], []), open_kinds(["coco:10000000"], [])) == ({"coco"}, set())


@pytest.mark.parametrize("id", ["coco:-1", "coco:0", "coco:", "vg:None", "flickr:0", "coco:007", "5"])
def test_an_id_that_means_nothing_is_refused(tmp_path: Path, id: str) -> None:
    with pytest.raises(HoldoutError, match=f"expected an id as coco:391895, found '{id}': an image of coarse/s-train"):
        blocked(tmp_path, [(id, "vg:4")], [])


def test_the_hash_is_that_of_the_sorted_ids() -> None:
    expected = hashlib.sha256(b"coco:10\ncoco:9\nvg:1\n").hexdigest()
    assert BlockList(frozenset({"vg:1", "coco:9", "coco:10"})).sha256 == expected


def test_one_blocked_id_blocks_a_sample() -> None:
    assert BlockList(frozenset({"vg:1"})).blocking(("coco:2", "vg:1")) == "vg:1"


def test_a_sample_without_ids_is_not_blocked() -> None:
    assert BlockList(frozenset({"vg:1"})).blocking(()) is None


def test_the_shipped_lists_hold_the_published_numbers_of_images() -> None:
    lists = {path.name: len(set(read_ids(path))) for path in SHIPPED.glob("*.txt")}
    assert lists == {"karpathy_test.txt": 5000, "karpathy_val.txt": 5000, "refcoco_evaluation.txt": 6549}


def test_the_shipped_lists_share_no_image() -> None:
    assert len({i for path in SHIPPED.glob("*.txt") for i in read_ids(path)}) == 16549


def test_without_the_shipped_lists_nothing_is_built(tmp_path: Path) -> None:
    with pytest.raises(HoldoutError, match="expected lists of evaluation images, found none"):
        block_list([], tmp_path, lambda source: iter(()), tmp_path)


def test_a_wrong_line_of_a_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# ids\ncoco:5 # good\n\n391895\n")
    with pytest.raises(HoldoutError, match=r"found '391895': .*a.txt, line 4"):
        read_ids(tmp_path / "a.txt")


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HoldoutError, match=r"expected a list of evaluation images, found .*none.txt"):
        read_ids(tmp_path / "none.txt")


def test_a_missing_file_of_a_source_to_train_on_is_passed_over(world: "World", paint: Paint) -> None:
    source = world.add("train", {1: paint(1)})
    other = world.add("more", {2: paint(2)})
    (world.data / "raw/world/more.json").unlink()
    assert [each.dataset["samples"] for each in world.build([source])] == [1]
    with pytest.raises(HoldoutError, match=r"expected .*more.json for coarse/world-more"):
        world.build([other])


def test_what_a_source_needs_and_has_not_stops_the_build(world: "World", paint: Paint) -> None:
    world.add("train", {1: paint(1)}, needs=("../visual_genome/image_data.json",))
    message = r"visual_genome/image_data.json for coarse/world-train, .* bitgen-download manifests/visual_genome.toml"
    with pytest.raises(HoldoutError, match=message):
        world.build()


def test_a_look_is_a_bit_per_rising_step() -> None:
    image = Image.new("L", (9, 8), 100)
    image.putpixel((1, 0), 200)
    image.putpixel((8, 7), 200)
    assert look_of(image) == (1 << 63) + 1


def picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("L")


def test_a_smaller_copy_of_an_evaluation_image_is_found(paint: Paint) -> None:
    looks = Looks()
    looks.add("a", look_of(picture(paint(4, (90, 80)))), "eval/x 4")
    small = look_of(picture(paint(4, (45, 40), quality=50)))
    assert looks.match("b", small) == "looks like eval/x 4"


def test_another_image_is_not_found(paint: Paint) -> None:
    looks = Looks()
    looks.add("a", look_of(picture(paint(4))), "eval/x 4")
    assert looks.match("b", look_of(picture(paint(5)))) is None


@pytest.mark.parametrize(
    ("bits", "found"), [(0b111, "looks like e"), (0b1111, None), (1 << 63 | 1 << 40 | 1, "looks like e")]
)
def test_looks_may_differ_in_three_bits(bits: int, found: str | None) -> None:
    looks = Looks()
    looks.add("a", 0x0F0F_3333_5555_00FF, "e")
    assert looks.match("b", 0x0F0F_3333_5555_00FF ^ bits) == found


@given(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 63), max_size=5), st.booleans())
def test_what_matches_may_match(look: int, bits: set[int], has_its_bytes: bool) -> None:
    looks = Looks()
    looks.add(f"{7:064x}", look, "e")
    sha256, other = f"{7 if has_its_bytes else 8 << 192:064x}", look ^ sum(1 << bit for bit in bits)
    may = looks.may_match(np.array([int(sha256[:16], 16)], np.uint64), np.array([other], np.uint64))
    assert looks.match(sha256, other) is None or may.tolist() == [True]


def test_most_images_may_not_match(paint: Paint) -> None:
    looks = Looks()
    looks.add("a", look_of(picture(paint(4))), "e")
    others = np.array([look_of(picture(paint(seed))) for seed in range(5, 25)], np.uint64)
    assert looks.may_match(np.arange(20, dtype=np.uint64), others).mean() < 0.5


def test_flat_images_are_known_by_their_bytes_alone() -> None:
    looks = Looks()
    looks.add("a", 0, "e")
    assert looks.match("b", 0) is None
    assert looks.match("a", 0) == "same bytes as e"


def test_a_list_that_a_build_kept_is_found_by_its_hash(tmp_path: Path) -> None:
    kept = keep_list(BlockList(frozenset({"coco:1", "flickr:2"})), tmp_path)
    assert find_list(kept.sha256, [kept_in(tmp_path, kept.sha256)]) == kept
    assert find_list("ab" * 32, [kept_in(tmp_path, kept.sha256)]) is None


def test_a_kept_list_that_is_not_what_its_name_says_is_not_believed(tmp_path: Path) -> None:
    kept = keep_list(BlockList(frozenset({"coco:1", "flickr:2"})), tmp_path)
    kept_in(tmp_path, kept.sha256).write_text("coco:1\nflickr:2\nflickr:3\n")
    assert find_list(kept.sha256, [kept_in(tmp_path, kept.sha256)]) is None


def test_the_lists_that_ship_are_found_where_nothing_was_kept() -> None:
    shipped = BlockList(frozenset(i for path in SHIPPED.glob("*.txt") for i in read_ids(path)))
    assert find_list(shipped.sha256, []) == shipped


def test_a_copied_list_has_the_same_hash(tmp_path: Path) -> None:
    kept = keep_list(BlockList(frozenset({"coco:1", "flickr:2"})), tmp_path)
    copy_list(kept.sha256, tmp_path, tmp_path / "run/holdout.txt")
    assert find_list(kept.sha256, [tmp_path / "run/holdout.txt"]) == kept


def test_an_unknown_list_is_not_copied(tmp_path: Path) -> None:
    copy_list("ab" * 32, tmp_path, tmp_path / "run/holdout.txt")
    assert not (tmp_path / "run").exists()
