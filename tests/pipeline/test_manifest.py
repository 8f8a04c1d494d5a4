"""A manifest is checked in full when it is read, and errors say where."""

from pathlib import Path

import pytest

from pipeline.crawling.manners import Crawling
from pipeline.manifest import ManifestError, read_manifest

GOOD = """
name = "world"
licence = "CC BY 4.0"

[holdout]
lists = ["mine.txt"]

[crawl]
user_agent = "world/1 (+https://example.org)"
timeout_s = 5
opt_outs = ["noai"]

[[file]]
path = "annotations.zip"
urls = ["http://127.0.0.1/annotations.zip", "world/annotations.zip"]
bytes = 12
sha256 = "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268"
unpack = true
folder = "annotations"
sources = ["coco"]

[[source]]
name = "coco"
phase = "coarse"
role = "train"
split = "train"
reader = "coco"
annotations = ["annotations/captions.json"]
images = ["train2017", "../other/train2017"]
options = { splits = "train restval", depth = 3 }
"""


def write(tmp_path: Path, old: str = "", new: str = "") -> Path:
    """The good manifest with `old` replaced by `new`."""
    path = tmp_path / "world.toml"
    path.write_text(GOOD.replace(old, new) if old else GOOD)
    return path


def test_a_good_manifest_is_read(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path))
    file, source = manifest.files[0], manifest.sources[0]
    assert (manifest.name, manifest.holdout_lists) == ("world", (tmp_path / "mine.txt",))
    assert (file.bytes, file.unpack, file.folder, file.sources) == (12, True, "annotations", ("coco",))
    assert (source.images, source.samples_per_shard) == (("train2017", "../other/train2017"), 3000)
    assert source.options == {"splits": "train restval", "depth": 3}


def test_a_source_has_its_manifests_name_and_licence(tmp_path: Path) -> None:
    source = read_manifest(write(tmp_path)).sources[0]
    assert (source.manifest, source.licence) == ("world", "CC BY 4.0")


def test_a_source_may_state_its_own_licence(tmp_path: Path) -> None:
    source = read_manifest(write(tmp_path, 'reader = "coco"', 'reader = "coco"\nlicence = "CC0"')).sources[0]
    assert source.licence == "CC0"


def test_a_source_is_crawled_as_its_manifest_says(tmp_path: Path) -> None:
    crawling = read_manifest(write(tmp_path)).sources[0].crawling
    assert crawling == Crawling(user_agent="world/1 (+https://example.org)", timeout_s=5, opt_outs=("noai",))


def test_a_manifest_may_leave_out_how_to_crawl(tmp_path: Path) -> None:
    path = tmp_path / "world.toml"
    path.write_text(GOOD[: GOOD.index("[crawl]")] + GOOD[GOOD.index("[[file]]") :])
    assert read_manifest(path).sources[0].crawling == Crawling()


@pytest.mark.parametrize(
    ("user_agent", "names"),
    [("bitgen (+https://example.org)", True), ("bitgen (me@example.org)", True), ("bitgen/0.1 (crawler)", False)],
)
def test_a_contact_is_a_page_or_a_mailbox(user_agent: str, names: bool) -> None:
    assert Crawling(user_agent=user_agent).names_contact is names


def test_shards_of_a_training_source_go_to_its_phase(tmp_path: Path) -> None:
    assert read_manifest(write(tmp_path)).sources[0].dataset == "coarse/coco-train"


def test_shards_of_an_evaluation_source_go_to_eval(tmp_path: Path) -> None:
    assert read_manifest(write(tmp_path, '"train"\nsplit', '"eval"\nsplit')).sources[0].dataset == "eval/coco-train"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("phase =", "phaze =", r"found 'phaze' \(did you mean 'phase'\?\): .*world.toml: \[\[source\]\] 1"),
        ("bytes =", "byte =", r"found 'byte' \(did you mean 'bytes'\?\): .*\[\[file\]\] 1"),
        ("[holdout]", "[hold]", r"expected one of name, licence, file, source, holdout, crawl, found 'hold'"),
        ('phase = "coarse"', "", r"expected a field 'phase', found none: .*\[\[source\]\] 1"),
        ('"coarse"', '"corse"', r"expected phase of coarse or fine, found 'corse' \(did you mean 'coarse'\?\)"),
        ('role = "train"', 'role = "test"', r"expected role of train or eval, found 'test'"),
        ("bytes = 12", 'bytes = "12"', r"expected int, found '12': .*\[\[file\]\] 1: bytes"),
        ("bytes = 12", "bytes = true", r"expected int, found True"),
        ("bytes = 12", "bytes = -1", r"expected bytes of 0 or more, found -1"),
        ("113a", "xyz", r"expected sha256 of 64 hexadecimal digits"),
        ("unpack = true", "unpack = 1", r"expected bool, found 1"),
        ('["annotations/captions.json"]', '"a.json"', r"expected a list of strings, found 'a.json': .*annotations"),
        ('["annotations/captions.json"]', "[]", r"expected one or more annotations and images, found none"),
        ("depth = 3", "depth = [3]", r"expected a table of strings, numbers and booleans"),
        ('path = "annotations.zip"', 'path = "../x.zip"', r"expected path relative to raw/<manifest> and within it"),
        ('path = "annotations.zip"', 'path = "."', r"expected the path of a file, found '\.'"),
        ('path = "annotations.zip"', 'path = "/x.zip"', r"found '/x.zip'"),
        ('"../other/train2017"', '"../../x"', r"expected images relative to raw/<manifest>"),
        ('"http://127.0.0.1/annotations.zip"', '"gopher://a/b"', r"expected urls of http, https or what fsspec opens"),
        ('sources = ["coco"]', 'sources = ["cocoa"]', r"found 'cocoa' \(did you mean 'coco'\?\)"),
        ('name = "coco"', 'name = "Co co"', r"expected a name of a-z 0-9 _ \+ \. -, found 'Co co'"),
        ('name = "world"', 'name = "../w"', r"expected a name"),
        ('licence = "CC BY 4.0"', "", r"expected a licence, found none"),
        ("[[source]]", "[source]", r"expected tables \[\[source\]\], found dict"),
        ('split = "train"', 'split = "train"\nsamples_per_shard = 0', r"expected samples_per_shard of 1 or more"),
        ('split = "train"', 'split = "train"\nrefusal_ceiling = 1.5', r"expected refusal_ceiling in 0..1, found 1.5"),
        ('split = "train"', 'split = "train"\nrefusal_ceiling = nan', r"expected a finite number, found nan"),
        ('split = "train"', 'split = "train"\nmanifest = "x"', r"found 'manifest'"),
        ("timeout_s =", "time_out_s =", r"found 'time_out_s' \(did you mean 'timeout_s'\?\): .*world.toml: \[crawl\]"),
        ("timeout_s = 5", 'timeout_s = "5"', r"expected float, found '5': .*\[crawl\]: timeout_s"),
        ("timeout_s = 5", "timeout_s = 0", r"expected timeout_s above 0, found 0: .*\[crawl\]"),
        ("timeout_s = 5", "deadline_s = -1", r"expected deadline_s above 0, found -1"),
        ("timeout_s = 5", "retries = -1", r"expected retries of 0 or more, found -1"),
        ("timeout_s = 5", "retries = 1.5", r"expected int, found 1.5"),
        ("timeout_s = 5", "back_off_s = nan", r"expected a finite number, found nan"),
        ("timeout_s = 5", "threads = 0", r"expected threads of 1 or more, found 0"),
        ("timeout_s = 5", "per_shard = 0", r"expected per_shard of 1 or more, found 0"),
        ("timeout_s = 5", "max_pixels = 0", r"expected max_pixels of 1 or more, found 0"),
        ("timeout_s = 5", "max_bytes = 0", r"expected max_bytes above 0, found 0"),
        ("timeout_s = 5", "per_host = 0", r"expected per_host above 0, found 0"),
        (
            "timeout_s = 5",
            'private = ["127.0.0.1:80"]',
            r"expected one of user_agent, .*, found 'private': .*\[crawl\]",
        ),
        ('"world/1 (+https://example.org)"', '"a\\nb"', r"expected a user_agent of printable ASCII, found 'a\\nb'"),
        ('["noai"]', '["NoAI"]', r"expected opt_outs in lower case, found 'NoAI': .*\[crawl\]"),
        ("[crawl]", "[[crawl]]", r"expected dict, found \[.*\]: .*\[crawl\]"),
        ("name", "name = ", r"expected TOML, found Invalid"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_manifest(write(tmp_path, old, new))


def test_a_file_needs_a_url_or_instructions(tmp_path: Path) -> None:
    path = write(tmp_path, 'urls = ["http://127.0.0.1/annotations.zip", "world/annotations.zip"]')
    with pytest.raises(ManifestError, match="expected urls, or manual instructions, found neither"):
        read_manifest(path)


def test_two_sources_of_one_folder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "world.toml"
    path.write_text(GOOD + GOOD[GOOD.index("[[source]]") :])
    with pytest.raises(ManifestError, match=r"expected distinct sources .* found 'coarse/coco-train' twice"):
        read_manifest(path)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"expected a manifest, found No such file or directory: .*none.toml"):
        read_manifest(tmp_path / "none.toml")


def test_every_shipped_manifest_is_good() -> None:
    paths = sorted((Path(__file__).parents[2] / "manifests").glob("*.toml"))
    assert [read_manifest(path).name for path in paths] == [path.stem for path in paths]


def test_crawled_images_are_turned_upright_unless_said_otherwise(tmp_path: Path) -> None:
    source = read_manifest(write(tmp_path, 'split = "train"', 'split = "train"\ncrawl = true')).sources[0]
    assert source.orientation == "apply"


def test_annotated_images_are_left_as_they_are_unless_said_otherwise(tmp_path: Path) -> None:
    assert read_manifest(write(tmp_path)).sources[0].orientation == "ignore"
