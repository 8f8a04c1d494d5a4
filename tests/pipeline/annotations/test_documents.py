import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotations import documents
from pipeline.annotations.documents import Document, elements, lines, strings
from pipeline.annotations.places import Files, Run
from pipeline.rows import AnnotationError


def written(folder: Path, content: bytes) -> Path:
    path = folder / "rows.json"
    path.write_bytes(content)
    return path


def parts(folder: Path, content: bytes, *lists: str) -> list[tuple[str, Any]]:
    return [(key, found) for key, _, _, found in Document(written(folder, content), *lists)]


def test_elements_come_with_the_bytes_they_stand_at(tmp_path: Path) -> None:
    path = written(tmp_path, b'[{"a": 1} ,\n {"b": 22}]')
    assert list(elements(path)) == [(1, 9, {"a": 1}), (13, 22, {"b": 22})]


def test_an_element_is_read_back_with_its_letters(tmp_path: Path) -> None:
    rows = [{"a": "ä€𝄞"}, {"b": "ß"}]
    path = written(tmp_path, json.dumps(rows, ensure_ascii=False).encode())
    with Files([path]) as files:
        assert [files.rows(Run(0, 0, start, stop, 1)) for start, stop, _ in elements(path)] == [[rows[0]], [rows[1]]]


def test_an_element_comes_with_its_letters(tmp_path: Path) -> None:
    rows = [{"a": "ä€𝄞"}, {"é": 1}]
    path = written(tmp_path, json.dumps(rows, ensure_ascii=False).encode())
    assert [row for _, _, row in elements(path)] == rows


def test_elements_longer_than_a_piece_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_PIECE_BYTES", 3)
    rows = [{"a": "x" * 50}, {}, {"b": [1, 2, 3]}]
    assert [row for _, _, row in elements(written(tmp_path, json.dumps(rows).encode()))] == rows


def test_an_element_may_not_be_larger_than_memory_is_given_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_PIECE_BYTES", 8)
    monkeypatch.setattr(documents, "_ELEMENT_BYTES", 20)
    with pytest.raises(AnnotationError, match=r"expected whole JSON, found .* at byte 6"):
        list(elements(written(tmp_path, b'[{"a":"' + b"x" * 100 + b'"}]')))


def test_an_empty_list_has_no_elements(tmp_path: Path) -> None:
    assert list(elements(written(tmp_path, b" [ ] "))) == []


@pytest.mark.parametrize("content", [b"", b"[", b'[{"a": 1}', b'[{"a": 1', b'[{"a": 1}, ', b"[{]", b"[{}]]", b"[{},]"])
def test_json_that_does_not_end_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(AnnotationError, match="expected"):
        list(elements(written(tmp_path, content)))


@pytest.mark.parametrize("content", [b'{"a": [1]}', b"[1]", b"x"])
def test_what_is_no_list_of_objects_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(AnnotationError, match="expected"):
        list(elements(written(tmp_path, content)))


@pytest.mark.parametrize("read", [lambda path: list(elements(path)), lambda path: list(Document(path, "a"))])
def test_a_missing_file_is_an_error(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(AnnotationError, match=r"No such file or directory: .*rows\.json"):
        read(tmp_path / "rows.json")


@pytest.mark.parametrize("read", [lambda path: list(elements(path)), lambda path: list(Document(path, "a"))])
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"a":[{"a":', b'{"a":[{"b":['])
def test_json_of_too_many_levels_is_an_error(tmp_path: Path, read: Callable[[Path], object], opening: bytes) -> None:
    with pytest.raises(AnnotationError, match=r"expected .*rows\.json"):
        read(written(tmp_path, opening * 200_000))


def test_the_lists_of_an_object_come_element_by_element(tmp_path: Path) -> None:
    found = parts(tmp_path, b'{"b": [{"x": 1}], "a": [{"y": 2}, {}]}', "a", "b")
    assert found == [("b", {"x": 1}), ("a", {"y": 2}), ("a", {})]


def test_what_is_neither_list_nor_object_comes_as_it_is(tmp_path: Path) -> None:
    found = parts(tmp_path, b'{"dataset": "coco", "a": [], "n": 1.5, "t": null}', "a")
    assert found == [("dataset", "coco"), ("n", 1.5), ("t", None)]


def test_lists_and_objects_that_nobody_asks_for_are_passed_over(tmp_path: Path) -> None:
    assert parts(tmp_path, b'{"info": {"a": [1, {"b": {}}]}, "categories": [1, "x"], "a": [{}]}', "a") == [("a", {})]


def test_an_element_of_an_object_stands_at_its_bytes(tmp_path: Path) -> None:
    content = '\ufeff{"é": [{}], "a":\r\n[ {"b": "ß"} ]}'.encode()
    ((_, start, stop, _),) = Document(written(tmp_path, content), "a")
    assert content[start:stop].decode() == '{"b": "ß"}'


def test_lists_are_counted_and_their_places_noted(tmp_path: Path) -> None:
    document = Document(written(tmp_path, b'{"a": [1, 2], "b": ["x"]}'), expected="lists")
    assert (list(document), document.counts, document.starts) == ([], {"a": 2, "b": 1}, {"a": 6, "b": 19})


def test_a_list_is_read_from_its_place(tmp_path: Path) -> None:
    assert list(strings(written(tmp_path, b'{"a": [1, 2], "b": ["x", "\xc3\xa4"]}'), 19)) == ["x", "ä"]


def test_a_key_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"expected 'a' once, found it again at byte 16: .*rows\.json"):
        parts(tmp_path, b'{"a": [{}], "a":[{}]}', "a")


def test_a_list_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"expected a list of objects under 'a', found '\{\}\}'"):
        parts(tmp_path, b'{"a": {}}', "a")


def test_an_element_that_is_no_object_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="expected a list of objects under 'a', found 7 at byte 11"):
        parts(tmp_path, b'{"a": [{}, 7]}', "a")


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    document = Document(written(tmp_path, b'{"images": [], "info": {}}'), "images", "annotations")
    list(document)
    with pytest.raises(AnnotationError, match=r"expected a list of objects under 'annotations', .* with images, info"):
        document.require("images", "annotations")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": [{"b": 1}', "found no comma at byte 15"),
        (b'{"a": [{"b": 1} {}]}', "found no comma at byte 16"),
        (b'{"a": [{"b": "x', "found Unterminated string starting at at byte 13"),
        (b'{"a" [{}]}', "found no colon at byte 5"),
        (b'{"a": [{}],}', "found no value at byte 11"),
        (b"{7: [{}]}", "found no key at byte 1"),
        (b'{"a": [{}]} x', "found more after its end at byte 12"),
        (b'{"a": [{"b": "\xff"}]}', "expected UTF-8, found .* after byte 7"),
        (b'{"a": [{"b": ' + b"1" * 5000 + b"}]}", "digits"),
        (b"[{}]", "expected a list of objects under 'a', found '\\[{}\\]'"),
    ],
)
def test_an_error_says_where(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        parts(tmp_path, content, "a")


def test_lines_come_without_their_ends(tmp_path: Path) -> None:
    assert list(lines(written(tmp_path, b"\xef\xbb\xbfa\r\n\nb"))) == ["a", "", "b"]


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
rows = st.lists(st.dictionaries(st.text(max_size=4), values, max_size=3), max_size=5)
whole = st.dictionaries(st.text(max_size=3), values, max_size=3).flatmap(
    lambda more: st.permutations([*more.items(), ("images", None), ("annotations", None)]).flatmap(
        lambda order: st.tuples(rows, rows).map(
            lambda two: dict(order) | dict(zip(("images", "annotations"), two, strict=True))
        )
    )
)
forms = st.tuples(
    st.sampled_from([None, 0, 1]),  # indent
    st.booleans(),  # escapes
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.sampled_from([b"\n", b"\r\n", b" \t\n"]),
)


def dumped(document: object, form: tuple[int | None, bool, bytes, bytes]) -> bytes:
    indent, escapes, start, end = form
    text = json.dumps(document, indent=indent, ensure_ascii=escapes)
    return start + text.encode("utf-8", "surrogatepass").replace(b"\n", end)


def gone_through(content: bytes, piece_bytes: int) -> list[tuple[str, Any, Any]]:
    """(key, element, the same read again by its bytes) of the two lists."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_PIECE_BYTES", piece_bytes)
        found = Document(written(Path(folder), content), "images", "annotations")
        return [
            (key, value, json.loads(content[start:stop].decode("utf-8", "surrogatepass")))
            for key, start, stop, value in found
            if key in ("images", "annotations")
        ]


@settings(deadline=None, max_examples=100)
@given(document=whole, form=forms, piece_bytes=st.integers(3, 40))
def test_a_file_in_pieces_says_what_it_says_as_a_whole(document: dict[str, Any], form: Any, piece_bytes: int) -> None:
    expected = [(key, row, row) for key, some in document.items() if key in ("images", "annotations") for row in some]
    assert gone_through(dumped(document, form), piece_bytes) == expected


@settings(deadline=None, max_examples=150)
@given(
    document=whole,
    form=forms,
    piece_bytes=st.integers(3, 40),
    at=st.floats(0, 1),
    cut=st.integers(0, 3),
    put=st.sampled_from([b"", b",", b"]", b"}", b"[", b"{", b'"', b"\\", b":", b"1", b"e", b"\xff", b"\xc3\xa4", b" "]),
)
def test_a_damaged_file_means_what_it_means_as_a_whole(
    document: dict[str, Any], form: Any, piece_bytes: int, at: float, cut: int, put: bytes
) -> None:
    content = dumped(document, form)
    place = int(at * len(content))
    damaged = content[:place] + put + content[place + cut :]
    try:
        found = [(key, row) for key, row, _ in gone_through(damaged, piece_bytes)]
    except AnnotationError:
        found = None
    assert found == meant(damaged)


def meant(content: bytes) -> list[tuple[str, Any]] | None:
    """The slow way: the elements of the two lists, None where it is no such file."""
    try:
        text = content.decode("utf-8-sig", "surrogatepass")
        document, pairs = json.loads(text), json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except ValueError:
        return None
    if not isinstance(document, dict) or len(document) < len(pairs):
        return None
    lists = [(key, document[key]) for key in document if key in ("images", "annotations")]
    if not all(isinstance(some, list) and all(isinstance(row, dict) for row in some) for _, some in lists):
        return None
    return [(key, row) for key, some in lists for row in some]
