"""A URL becomes a file, whatever the server and the process do."""

import errno
import hashlib
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitgen.disk import FullDiskError
from bitgen.remote import USER_AGENT
from pipeline import fetch as fetching
from pipeline.downloading import room
from pipeline.downloading.room import RoomError
from pipeline.fetch import Expected, FetchError, arrived, fetch, is_right, share, tidy
from pipeline.files import digest_of
from tests.disk import files_of_at_most
from tests.servers import Cut, Drop, Lie, Page, Redirect, Server, Status, WrongBytes, serve

BODY = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(BODY).hexdigest()
RIGHT = Expected(len(BODY), DIGEST)


def get(server: Server, target: Path, expected: Expected = RIGHT, *paths: str) -> list[float]:
    """Fetches the mirrors `paths` (default: /a) and returns how long it would have waited between tries."""
    waited: list[float] = []
    fetch([server.url(p) for p in paths or ("/a",)], target, expected, sleep=waited.append)
    return waited


def leave_part(server: Server, target: Path, beginning: bytes, validator: str) -> None:
    """What a process leaves that is killed in the middle."""
    target.with_name(f"{target.name}.part").write_bytes(beginning)
    note = {
        "url_sha256": hashlib.sha256(server.url("/a").encode()).hexdigest(),
        "validator": validator,
        "total": len(BODY),
    }
    target.with_name(f"{target.name}.part.json").write_text(json.dumps(note))


def test_a_file_is_fetched_whole(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_nothing_but_the_file_and_its_digest_stays(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    get(server, tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.sha256.json", "a"]


def test_a_right_file_is_known_without_asking_the_server(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BODY)
    assert is_right(tmp_path / "a", RIGHT)


def test_a_file_with_a_changed_byte_is_not_right(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" + BODY[1:])
    assert not is_right(tmp_path / "a", RIGHT)


def test_a_file_that_is_changed_after_it_was_checked_is_not_right(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    get(server, tmp_path / "a")
    (tmp_path / "a").write_bytes(b"x" + BODY[1:])
    os.utime(tmp_path / "a", (1, 1))
    assert not is_right(tmp_path / "a", RIGHT)


def test_the_tool_names_itself(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    get(server, tmp_path / "a")
    assert server.asked("/a", "User-Agent") == [USER_AGENT]
    assert "bitgen" in USER_AGENT


def test_a_cut_connection_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Cut(300_000)]
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.asked("/a", "Range") == [None, "bytes=300000-"]


def test_without_a_checksum_the_rest_of_the_same_version_is_asked_for(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Cut(300_000)]
    get(server, tmp_path / "a", Expected())
    assert server.asked("/a", "If-Range") == [None, '"1"']


def test_with_a_checksum_the_rest_of_any_version_is_asked_for(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Cut(300_000)]
    get(server, tmp_path / "a")
    assert server.asked("/a", "If-Range") == [None, None]


def test_a_connection_that_is_dropped_without_a_word_is_tried_again(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Drop(), Drop()]
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.mark.parametrize("sent", [0, 1, 65_535, 65_536, 65_537, len(BODY) - 1])
def test_a_connection_may_be_lost_at_any_byte(server: Server, tmp_path: Path, sent: int) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Cut(sent)]
    get(server, tmp_path / "a", Expected())
    assert (tmp_path / "a").read_bytes() == BODY
    assert sum(int((asked or "=0-").split("=")[1][:-1]) for asked in server.asked("/a", "Range")) == sent


@pytest.mark.parametrize("arrived", [1, 2, 255, 65_536, len(BODY) - 1])
def test_a_later_process_goes_on_from_any_byte(server: Server, tmp_path: Path, arrived: int) -> None:
    server.pages["/a"] = Page(BODY)
    leave_part(server, tmp_path / "a", BODY[:arrived], '"1"')
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.asked("/a", "Range") == [f"bytes={arrived}-"]


def test_a_part_larger_than_the_file_is_begun_anew(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    leave_part(server, tmp_path / "a", BODY + b"more", '"1"')
    get(server, tmp_path / "a")
    assert server.asked("/a", "Range") == [None]


def test_a_complete_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    leave_part(server, tmp_path / "a", BODY, '"1"')
    get(server, tmp_path / "a", Expected())
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.requests == []


def test_a_file_that_changed_on_the_server_is_fetched_from_its_start(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY, etag='"2"')
    leave_part(server, tmp_path / "a", b"old" * 1000, '"1"')
    get(server, tmp_path / "a", Expected())
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_change_that_the_server_does_not_look_for_is_seen_by_its_etag(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY, etag='"2"', has_if_range=False)
    leave_part(server, tmp_path / "a", b"old" * 1000, '"1"')
    get(server, tmp_path / "a", Expected())
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.asked("/a", "Range") == ["bytes=3000-", None]


def test_the_rest_from_another_byte_is_not_taken(server: Server, tmp_path: Path) -> None:
    other = Status(206, {"Content-Range": f"bytes 5-1048575/{len(BODY)}"})
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Cut(300_000), other]
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.asked("/a", "Range") == [None, "bytes=300000-", None]


def test_a_part_is_whole_where_the_server_has_no_byte_more(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    leave_part(server, tmp_path / "a", BODY, '"1"')
    note = json.loads((tmp_path / "a.part.json").read_text())
    (tmp_path / "a.part.json").write_text(json.dumps(note | {"total": 0}))
    get(server, tmp_path / "a", Expected())
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.asked("/a", "Range") == [f"bytes={len(BODY)}-"]


def test_a_body_shorter_than_stated_is_whole_when_the_server_says_so(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Lie(10)]
    get(server, tmp_path / "a", Expected())
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.mark.parametrize("lie", [10, -10])
def test_a_stated_length_that_is_not_the_known_one_is_refused(server: Server, tmp_path: Path, lie: int) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Lie(lie)]
    with pytest.raises(FetchError, match=f"expected 1,048,576 bytes, found {len(BODY) + lie:,}"):
        get(server, tmp_path / "a", Expected(len(BODY)))
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_html_is_not_taken_for_a_file(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(b"please sign in", content_type="text/html; charset=utf-8")
    with pytest.raises(FetchError, match="expected a file, found a page of HTML"):
        get(server, tmp_path / "a.zip", Expected())
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_html_is_known_by_its_first_bytes(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(b"\n<!DOCTYPE html><title>error</title>")
    with pytest.raises(FetchError, match="expected a file, found a page of HTML"):
        get(server, tmp_path / "a.zip", Expected())
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_html_in_the_place_of_the_rest_leaves_what_had_arrived(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(b"<html>closed for today", content_type="text/html", has_ranges=False)
    leave_part(server, tmp_path / "a", BODY[:1000], '"1"')
    with pytest.raises(FetchError, match="found a page of HTML"):
        get(server, tmp_path / "a", Expected())
    assert arrived(tmp_path / "a") == 1000


def test_a_page_of_html_that_is_asked_for_is_fetched(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(b"<html>", content_type="text/html")
    get(server, tmp_path / "a.html", Expected())
    assert (tmp_path / "a.html").read_bytes() == b"<html>"


def test_a_server_without_ranges_sends_the_file_again(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY, has_ranges=False), [Cut(300_000)]
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_without_validator_and_checksum_a_beginning_is_not_trusted(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY, etag="")
    leave_part(server, tmp_path / "a", b"old" * 1000, "")
    get(server, tmp_path / "a", Expected())
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.asked("/a", "Range") == [None]


def test_a_wrong_beginning_is_found_by_the_checksum_and_fetched_again(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    leave_part(server, tmp_path / "a", b"wrong", '"1"')
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_failures_of_the_server_are_waited_out(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Status(500), Status(502), Status(503)]
    assert get(server, tmp_path / "a") == [1.0, 2.0, 4.0]


def test_the_server_says_how_long_to_wait(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Status(429, {"Retry-After": "17"})]
    assert get(server, tmp_path / "a") == [17.0]


def test_a_date_to_wait_for_that_has_passed_is_no_wait(server: Server, tmp_path: Path) -> None:
    late = Status(503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    server.pages["/a"], server.faults["/a"] = Page(BODY), [late]
    assert get(server, tmp_path / "a") == [0.0]


def test_a_server_that_always_fails_is_given_up(server: Server, tmp_path: Path) -> None:
    server.faults["/a"] = [Status(500)] * 20
    with pytest.raises(FetchError, match="status 500, 10 times in a row"):
        get(server, tmp_path / "a")
    assert len(server.requests) == fetching.TRIES


def test_tries_are_not_used_up_while_bytes_arrive(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [Cut(50_000)] * 10
    assert get(server, tmp_path / "a") == [1.0] * 10


def test_a_redirect_is_followed(server: Server, tmp_path: Path) -> None:
    server.pages["/b"], server.faults["/a"] = Page(BODY), [Redirect("/b")]
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_the_next_mirror_is_asked_when_the_first_has_no_file(server: Server, tmp_path: Path) -> None:
    server.pages["/b"] = Page(BODY)
    get(server, tmp_path / "a", RIGHT, "/gone", "/b")
    assert (tmp_path / "a").read_bytes() == BODY
    assert len(server.requests) == 2


def test_with_a_checksum_a_mirror_goes_on_with_what_another_began(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = server.pages["/b"] = Page(BODY)
    server.faults["/a"] = [Cut(300_000), Status(404)]
    get(server, tmp_path / "a", RIGHT, "/a", "/b")
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.asked("/b", "Range") == ["bytes=300000-"]


def test_a_mirror_that_is_gone_does_not_cost_what_the_next_one_gave(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    leave_part(server, tmp_path / "a", BODY[:1000], '"1"')
    get(server, tmp_path / "a", Expected(), "/gone", "/a")
    assert server.asked("/a", "Range") == ["bytes=1000-"]


def test_redirects_without_end_are_refused_at_once(server: Server, tmp_path: Path) -> None:
    server.faults["/a"] = [Redirect("/a")] * 100
    with pytest.raises(FetchError, match="found redirects without end"):
        get(server, tmp_path / "a")
    assert len(server.requests) == 31


def test_a_server_without_tls_is_tried_again_then_named(server: Server, tmp_path: Path) -> None:
    waited: list[float] = []
    url = server.url("/a").replace("http:", "https:")
    with pytest.raises(FetchError, match=r"https://127.0.0.1:\d+/a: connection failed: .*SSL.*, 10 times in a row"):
        fetch([url], tmp_path / "a", RIGHT, sleep=waited.append)
    assert waited == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(URL of `BODY` on a TLS server, its certificate, which nobody vouches for)."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([*make, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serve(context) as server:
        server.pages["/a"] = Page(BODY)
        yield f"https://localhost:{server.port}/a", certificate


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(secure: tuple[str, Path], tmp_path: Path) -> None:
    waited: list[float] = []
    with pytest.raises(FetchError, match="expected a certificate that can be trusted, found"):
        fetch([secure[0]], tmp_path / "a", RIGHT, sleep=waited.append)
    assert waited == []


def test_a_certificate_that_the_user_trusts_is_accepted(
    secure: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(secure[1]))
    fetch([secure[0]], tmp_path / "a", RIGHT)
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_mirror_with_other_bytes_of_the_same_size_is_passed_over(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.pages["/b"], server.faults["/a"] = Page(BODY), Page(BODY), [WrongBytes()]
    get(server, tmp_path / "a", RIGHT, "/a", "/b")
    assert (tmp_path / "a").read_bytes() == BODY


def test_wrong_bytes_name_both_digests_and_leave_no_file(server: Server, tmp_path: Path) -> None:
    server.pages["/a"], server.faults["/a"] = Page(BODY), [WrongBytes()]
    zeros = hashlib.sha256(bytes(len(BODY))).hexdigest()
    with pytest.raises(FetchError, match=f"expected sha256 {DIGEST}, found {zeros}"):
        get(server, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_file_of_another_size_is_refused_before_it_is_fetched(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    with pytest.raises(FetchError, match="expected 7 bytes, found 1,048,576"):
        get(server, tmp_path / "a", Expected(7))


def test_a_body_without_a_stated_length_is_cut_off_at_the_expected_size(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY, has_length=False)
    with pytest.raises(FetchError, match="expected 7 bytes, found more"):
        get(server, tmp_path / "a", Expected(7))


def test_a_body_without_a_stated_length_is_fetched(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY, has_length=False)
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_compressed_bytes_are_refused(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY, headers={"Content-Encoding": "gzip"})
    with pytest.raises(FetchError, match="expected plain bytes, found Content-Encoding gzip"):
        get(server, tmp_path / "a")


def test_a_closed_port_is_tried_again_then_named(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"http://127.0.0.1:9/a: connection failed"):
        fetch(["http://127.0.0.1:9/a"], tmp_path / "a", RIGHT, sleep=lambda s: None)


def test_a_local_file_is_copied(tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(BODY)
    fetch([tmp_path / "from"], tmp_path / "deep" / "a", RIGHT)
    assert (tmp_path / "deep" / "a").read_bytes() == BODY


def test_a_local_folder_is_copied_whole(tmp_path: Path) -> None:
    (tmp_path / "from" / "in").mkdir(parents=True)
    (tmp_path / "from" / "in" / "x").write_text("1")
    fetch([tmp_path / "from"], tmp_path / "a", Expected())
    assert (tmp_path / "a" / "in" / "x").read_text() == "1"


def test_a_local_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="nowhere: no such file or folder"):
        fetch([tmp_path / "nowhere"], tmp_path / "a", RIGHT)


def test_too_little_room_is_said_before_anything_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["/a"] = Page(BODY)
    monkeypatch.setattr(room, "FREE_BYTES", 1 << 60)
    with pytest.raises(RoomError, match=r"expected 1,152,921,504\.\d GB free, found .* GB: /"):
        get(server, tmp_path / "a")
    assert not (tmp_path / "a.part").exists()


def test_a_disk_that_fills_up_costs_nothing_that_has_arrived(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = Page(BODY)
    with files_of_at_most(300_000), pytest.raises(OSError, match="File too large"):
        get(server, tmp_path / "a")
    get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.asked("/a", "Range") == [None, "bytes=300000-"]


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "from").write_bytes(BODY)
    monkeypatch.setattr(shutil, "copyfile", fill)
    with pytest.raises(FullDiskError, match=r"expected room on the disk, found it full; .*: .*/out/a$"):
        fetch([tmp_path / "from"], tmp_path / "out" / "a", RIGHT)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_is_shared_with_its_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BODY)
    share(tmp_path / "a", tmp_path / "deep/b")
    assert (tmp_path / "deep/b").stat().st_ino == (tmp_path / "a").stat().st_ino
    assert json.loads((tmp_path / "deep/.b.sha256.json").read_text())["sha256"] == DIGEST


def test_a_file_is_copied_where_it_cannot_be_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    (tmp_path / "a").write_bytes(BODY)
    monkeypatch.setattr(os, "link", refuse)
    share(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == BODY
    assert (tmp_path / "b").stat().st_ino != (tmp_path / "a").stat().st_ino


def test_what_a_killed_process_left_beside_a_file_is_removed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BODY)
    leave_part(server, tmp_path / "a", BODY, '"1"')
    tidy(tmp_path / "a", True)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_a_later_process_goes_on_from_is_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"wrong")
    leave_part(server, tmp_path / "a", BODY[:10], '"1"')
    tidy(tmp_path / "a", False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "a.part", "a.part.json"]


def test_a_digest_is_taken_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BODY)
    digest_of(tmp_path / "a")
    note = json.loads((tmp_path / ".a.sha256.json").read_text())
    (tmp_path / ".a.sha256.json").write_text(json.dumps(note | {"sha256": "as noted"}))
    assert digest_of(tmp_path / "a") == "as noted"


def test_a_file_of_another_size_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BODY)
    assert not is_right(tmp_path / "a", Expected(7, DIGEST))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_no_password_of_a_url_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with pytest.raises(
        FetchError, match=r"found http://127\.0\.0\.1:9/a: connection failed: ConnectionError"
    ) as failed:
        fetch(["http://user:TOKEN@127.0.0.1:9/a?key=TOKEN"], tmp_path / "a", RIGHT, sleep=lambda s: None)
    assert "TOKEN" not in str(failed.value) + caplog.text


def test_no_signature_of_a_redirect_is_told(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    server.faults["/a"] = [Redirect("http://127.0.0.1:9/b?X-Amz-Signature=SECRET")] * 10
    with pytest.raises(FetchError, match=r"/a: connection failed: ConnectionError.* 10 times") as failed:
        get(server, tmp_path / "a")
    assert "SECRET" not in str(failed.value) + caplog.text


def test_no_secret_of_a_url_is_noted(server: Server, tmp_path: Path) -> None:
    server.pages["/a?key=SECRET"], server.faults["/a?key=SECRET"] = Page(BODY), [Cut(1000), Status(404)]
    with pytest.raises(FetchError, match="status 404"):
        get(server, tmp_path / "a", Expected(), "/a?key=SECRET")
    assert "SECRET" not in (tmp_path / "a.part.json").read_text()
