"""Several files at once: all are tried, each once, and what is there is left alone."""

import hashlib
import io
import tomllib
import zipfile
from pathlib import Path

import pytest

from pipeline.downloading import room
from pipeline.downloading.download import DownloadError, Wanted, download, wanted_files
from pipeline.downloading.room import RoomError
from pipeline.downloading.unpack import unpack
from pipeline.downloading.wanted import is_named, needs
from pipeline.files import BusyError, locked
from pipeline.holdout import SHIPPED
from pipeline.locate import Located, locate_for
from pipeline.manifest import File, Manifest, read_manifest
from tests.disk import files_of_at_most
from tests.servers import Page, Server, Slow, Together

BODY = b"annotations" * 20_000
DIGEST = hashlib.sha256(BODY).hexdigest()


def family(folder: Path, *files: File, name: str = "world") -> Manifest:
    """A manifest of these files."""
    return Manifest(name, "CC0", folder / f"{name}.toml", files, (), ())


def get(folder: Path, *files: File, parallel: int = 4) -> list[str]:
    """Downloads `files`; their names, in the order in which they came."""
    wanted = wanted_files([family(folder, *files)], folder / "data", [])
    return [each.file.path for each in download(wanted, folder / "data", parallel)]


def raw(folder: Path) -> Path:
    return folder / "data/raw/world"


def locked_names(folder: Path) -> list[str]:
    path = folder / "data/downloads.lock.toml"
    return sorted(tomllib.loads(path.read_text())) if path.exists() else []


def packed(**members: bytes) -> bytes:
    """A zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def pages(server: Server, count: int, fault: Together) -> list[File]:
    """Files under two names of one server, of known size; each has the fault once."""
    found = []
    for i in range(count):
        server.pages[f"/{i}"], server.faults[f"/{i}"] = Page(BODY + bytes([i])), [fault]
        host = "localhost" if i % 2 else "127.0.0.1"
        found.append(File(f"{i}", (f"http://{host}:{server.port}/{i}",), len(BODY) + 1))
    return found


def test_four_files_of_two_servers_come_at_once(server: Server, tmp_path: Path) -> None:
    get(tmp_path, *pages(server, 4, Together(4)))
    assert server.most_at_once == 4


def test_no_more_files_come_at_once_than_are_asked_for(server: Server, tmp_path: Path) -> None:
    get(tmp_path, *pages(server, 4, Together(4, wait_s=0.2)), parallel=3)
    assert server.most_at_once <= 3


def test_one_server_gives_no_more_than_two_files_at_once(server: Server, tmp_path: Path) -> None:
    files = pages(server, 6, Together(3, wait_s=0.2))
    get(tmp_path, *files[::2])
    assert server.most_at_once <= 2


def test_files_begin_in_the_order_of_the_manifest(server: Server, tmp_path: Path) -> None:
    get(tmp_path, *pages(server, 4, Together(1)), parallel=1)
    assert [path for path, _ in server.requests] == ["/0", "/1", "/2", "/3"]


def test_an_archive_is_unpacked_while_another_file_comes(server: Server, tmp_path: Path) -> None:
    server.pages["/slow"], server.faults["/slow"] = Page(BODY), [Slow()]
    server.pages["/z"] = Page(packed(x=b"1"))
    files = [File("slow", (server.url("/slow"),)), File("z.zip", (server.url("/z"),), unpack=True)]
    wanted = wanted_files([family(tmp_path, *files)], tmp_path / "data", [])
    coming = download(wanted, tmp_path / "data")
    assert next(coming).file.path == "z.zip"
    assert (raw(tmp_path) / "x").read_bytes() == b"1"
    server.release.set()
    assert next(coming).file.path == "slow"


def test_one_file_that_fails_stops_no_other(server: Server, tmp_path: Path) -> None:
    server.pages["/b"] = Page(BODY)
    files = [File(name, (server.url(f"/{name}"),)) for name in ("a", "b", "c")]
    with pytest.raises(DownloadError) as failed:
        get(tmp_path, *files)
    assert (raw(tmp_path) / "b").read_bytes() == BODY
    assert str(failed.value).splitlines() == [
        f"world/a: expected a from one of 1 mirrors, found {server.url('/a')}: status 404",
        f"world/c: expected c from one of 1 mirrors, found {server.url('/c')}: status 404",
    ]


def test_where_no_mirror_gives_a_file_a_person_is_told_how_to_get_it(server: Server, tmp_path: Path) -> None:
    file = File("a", (server.url("/gone"),), manual="ask at example.org")
    with pytest.raises(DownloadError, match=rf"status 404; or ask at example.org \(put it at {raw(tmp_path)}/a\)$"):
        get(tmp_path, file)


def test_the_same_bytes_by_sha256_are_fetched_once(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    files = [File("a", (server.url("/a"),), len(BODY), DIGEST), File("b", (server.url("/b"),), 0, DIGEST)]
    assert sorted(get(tmp_path, *files)) == ["a", "b"]
    assert (raw(tmp_path) / "b").read_bytes() == BODY
    assert [path for path, _ in server.requests] == ["/a"]


def test_the_same_url_is_fetched_once(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    manifests = [family(tmp_path, File("a", (server.url("/a"),)), name=name) for name in ("one", "two")]
    list(download(wanted_files(manifests, tmp_path / "data", []), tmp_path / "data"))
    assert (tmp_path / "data/raw/two/a").read_bytes() == BODY
    assert len(server.requests) == 1
    assert locked_names(tmp_path) == ["one/a", "two/a"]


def test_a_file_that_another_manifest_has_brought_is_not_fetched(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    one, two = (family(tmp_path, File("a", (server.url("/a"),), 0, DIGEST), name=name) for name in ("one", "two"))
    list(download(wanted_files([one], tmp_path / "data", []), tmp_path / "data"))
    list(download(wanted_files([one, two], tmp_path / "data", []), tmp_path / "data"))
    assert (tmp_path / "data/raw/two/a").read_bytes() == BODY
    assert len(server.requests) == 1


def test_a_size_that_no_manifest_states_is_asked_for(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = server.pages["/b"] = Page(BODY)
    get(tmp_path, File("a", (server.url("/a"),)), File("b", (server.url("/b"),), len(BODY)))
    assert server.heads == ["/a"]


def test_too_little_room_is_said_before_the_first_byte(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["/a"] = Page(BODY)
    monkeypatch.setattr(room, "FREE_BYTES", 1 << 60)
    with pytest.raises(RoomError, match=rf"expected 1,152,921,504\.\d GB free, found .* GB: {tmp_path}/data/raw"):
        get(tmp_path, File("a", (server.url("/a"),)))
    assert server.requests == []
    assert [p.name for p in raw(tmp_path).parent.iterdir()] == [".lock"]


def test_room_is_needed_for_an_archive_and_what_it_holds(tmp_path: Path) -> None:
    files = [File("a.zip", ("a",), 1000, unpack=True, folder="in"), File("b", ("b",), 300), File("c", ("c",))]
    assert needs(wanted_files([family(tmp_path, *files)], tmp_path / "data", [])) == [
        (raw(tmp_path) / "a.zip", 1000),
        (raw(tmp_path) / "in", 1000),
        (raw(tmp_path) / "b", 300),
        (raw(tmp_path) / "c", 0),
    ]


def test_what_has_arrived_needs_no_room(tmp_path: Path) -> None:
    raw(tmp_path).mkdir(parents=True)
    (raw(tmp_path) / "a.part").write_bytes(bytes(400))
    assert needs(wanted_files([family(tmp_path, File("a", ("a",), 1000))], tmp_path / "data", [])) == [
        (raw(tmp_path) / "a", 600)
    ]


def test_an_archive_that_is_there_needs_room_for_what_it_says_it_holds(tmp_path: Path) -> None:
    raw(tmp_path).mkdir(parents=True)
    (raw(tmp_path) / "a.zip").write_bytes(packed(x=bytes(3000), y=bytes(500)))
    file = File("a.zip", ("a",), unpack=True)
    assert sum(size for _, size in needs(wanted_files([family(tmp_path, file)], tmp_path / "data", []))) == 3500


def test_the_same_bytes_need_room_once(tmp_path: Path) -> None:
    files = [File(name, ("a",), 1000, DIGEST) for name in ("a", "b")]
    assert sum(size for _, size in needs(wanted_files([family(tmp_path, *files)], tmp_path / "data", []))) == 1000


def test_a_damaged_archive_without_a_checksum_is_fetched_again_by_the_next_run(server: Server, tmp_path: Path) -> None:
    server.pages["/z"] = Page(packed(x=b"1" * 1000)[:-40])
    file = File("z.zip", (server.url("/z"),), unpack=True)
    with pytest.raises(
        DownloadError, match=r"expected a whole zip or tar, found .*; deleted, the next run gets it again"
    ):
        get(tmp_path, file)
    assert locked_names(tmp_path) == []
    server.pages["/z"] = Page(packed(x=b"1" * 1000), etag='"2"')
    assert get(tmp_path, file) == ["z.zip"]


def test_an_archive_of_the_right_bytes_is_kept_though_it_is_refused(server: Server, tmp_path: Path) -> None:
    archive = packed(**{"../x": b"1"})
    server.pages["/z"] = Page(archive)
    file = File("z.zip", (server.url("/z"),), len(archive), hashlib.sha256(archive).hexdigest(), unpack=True)
    with pytest.raises(DownloadError, match=r"found member '../x': .*z.zip$"):
        get(tmp_path, file)
    assert (raw(tmp_path) / "z.zip").exists()


def test_a_damaged_archive_that_a_person_put_there_is_kept(tmp_path: Path) -> None:
    raw(tmp_path).mkdir(parents=True)
    (raw(tmp_path) / "z.zip").write_bytes(b"PK no more")
    with pytest.raises(DownloadError, match="delete it, and the next run gets it again"):
        get(tmp_path, File("z.zip", ("nowhere.zip",), unpack=True))
    assert (raw(tmp_path) / "z.zip").read_bytes() == b"PK no more"


def test_a_wrong_file_that_a_person_put_there_is_named_with_what_is_expected(tmp_path: Path) -> None:
    raw(tmp_path).mkdir(parents=True)
    (raw(tmp_path) / "m").write_bytes(b"wrong")
    expected = rf"world/m: expected 220,000 bytes of sha256 {DIGEST}, found other bytes: {raw(tmp_path)}/m; ask"
    with pytest.raises(DownloadError, match=expected):
        get(tmp_path, File("m", (), len(BODY), DIGEST, manual="ask at example.org"))
    assert (raw(tmp_path) / "m").read_bytes() == b"wrong"


def test_a_file_that_was_not_recorded_before_a_kill_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    raw(tmp_path).mkdir(parents=True)
    (raw(tmp_path) / "a").write_bytes(BODY)
    assert get(tmp_path, File("a", (server.url("/a"),))) == ["a"]
    assert server.requests == []
    assert locked_names(tmp_path) == ["world/a"]


def test_an_archive_that_was_not_recorded_before_a_kill_is_not_unpacked_again(server: Server, tmp_path: Path) -> None:
    server.pages["/z"] = Page(packed(x=b"1"))
    get(tmp_path, File("z.zip", (server.url("/z"),), unpack=True))
    (tmp_path / "data/downloads.lock.toml").unlink()
    before = (raw(tmp_path) / "x").stat().st_ino
    assert get(tmp_path, File("z.zip", (server.url("/z"),), unpack=True)) == ["z.zip"]
    assert (raw(tmp_path) / "x").stat().st_ino == before


def test_what_a_kill_left_behind_is_swept_away(tmp_path: Path) -> None:
    (raw(tmp_path) / "in").mkdir(parents=True)
    (raw(tmp_path) / "in/a").write_bytes(BODY)
    (raw(tmp_path) / "in/a.part.json").write_text("{}")
    (raw(tmp_path) / "in/..a.sha256.json.4194305.tmp").write_text("{")  # a process number beyond the largest
    (tmp_path / "data/.downloads.lock.toml.4194305.tmp").write_text("[")
    get(tmp_path, File("in/a", ("nowhere",), len(BODY), DIGEST))
    assert sorted(p.name for p in (raw(tmp_path) / "in").iterdir()) == [".a.sha256.json", "a"]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["raw"]


def test_a_full_disk_is_named_for_each_file_and_the_next_run_goes_on(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    file = File("a", (server.url("/a"),), len(BODY))
    with files_of_at_most(150_000), pytest.raises(DownloadError, match=r"^world/a: .*File too large"):
        get(tmp_path, file)
    assert get(tmp_path, file) == ["a"]
    assert server.asked("/a", "Range") == [None, "bytes=150000-"]


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path / "data/raw"), pytest.raises(BusyError):
        get(tmp_path, File("a", ("a",)))


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("base/model.safetensors", True),
        ("base", True),
        ("base/", True),
        ("base/*", True),
        ("*.safetensors", True),
        ("model.safetensors", False),
        ("bas", False),
        ("*", True),
    ],
)
def test_a_file_is_named_by_its_path_its_folder_or_a_pattern(pattern: str, named: bool) -> None:
    assert is_named(File("base/model.safetensors", ("x",)), pattern) is named


@pytest.mark.parametrize("inside", ["flickr30k-images/", "flickr30k_images/", ""])
def test_photographs_of_flickr30k_are_found_in_whatever_folder_the_mirror_packed_them(
    tmp_path: Path, inside: str
) -> None:
    assert found_in(tmp_path, "flickr30k", 0, inside) == b"a photograph"


@pytest.mark.parametrize("inside", ["images/", ""])
def test_photographs_of_gqa_are_found_in_whatever_folder_they_are_packed(tmp_path: Path, inside: str) -> None:
    assert found_in(tmp_path, "mixed", 1, inside) == b"a photograph"


def found_in(folder: Path, family: str, file: int, inside: str) -> bytes:
    """What the family's first source finds of an image, when its archive has it in the folder `inside`."""
    manifest = read_manifest(SHIPPED.parent / f"{family}.toml")
    archive = manifest.files[file]
    (folder / "a.zip").write_bytes(packed(**{f"{inside}12.jpg": b"a photograph"}))
    unpack(folder / "a.zip", folder / family / archive.folder, "s")
    found = locate_for(manifest.sources[0], folder)("12.jpg")
    assert isinstance(found, Located), found
    return Path(found.path).read_bytes()


def test_a_file_that_is_there_and_right_is_not_yielded(tmp_path: Path) -> None:
    raw(tmp_path).mkdir(parents=True)
    (raw(tmp_path) / "a").write_bytes(BODY)
    assert get(tmp_path, File("a", ("nowhere",), len(BODY), DIGEST)) == []


def wanted(folder: Path, file: File) -> Wanted:
    return wanted_files([family(folder, file)], folder / "data", [])[0]


@pytest.mark.parametrize(
    ("url", "resolved"),
    [
        ("own/a", Path("/m/own/a")),
        ("file:///x/a%20b", Path("/x/a b")),
        ("HTTPS://example.org/a", "HTTPS://example.org/a"),
        ("s3://bucket/a", "s3://bucket/a"),
    ],
)
def test_a_url_is_of_a_server_or_of_this_machine(url: str, resolved: str | Path) -> None:
    assert wanted(Path("/m"), File("a", (url,))).urls == [resolved]


def test_the_replacement_of_a_wrong_file_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    raw(tmp_path).mkdir(parents=True)
    (raw(tmp_path) / "a").write_bytes(b"wrong")
    (raw(tmp_path) / "a.part").write_bytes(BODY[:1000])
    get(tmp_path, File("a", (server.url("/a"),), len(BODY), DIGEST))
    assert (raw(tmp_path) / "a").read_bytes() == BODY
    assert server.asked("/a", "Range") == ["bytes=1000-"]
