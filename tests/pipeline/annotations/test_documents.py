import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.annotations import documents
from pipeline.annotations.documents import Document, elements
from pipeline.annotations.places import Files, Run
from pipeline.rows import AnnotationError


def written(folder: Path, content: bytes) -> Path:
    path = folder / "rows.json"
    path.write_bytes(content)
    return path


def test_elements_come_with_the_bytes_they_stand_at(tmp_path: Path) -> None:
    path = written(tmp_path, b'[{"a": 1} ,\n {"b": 22}]')
    assert list(elements(path)) == [(1, 9, {"a": 1}), (13, 22, {"b": 22})]


def test_an_element_is_read_back_with_its_letters(tmp_path: Path) -> None:
    rows = [{"a": "ä€𝄞"}, {"b": "ß"}]
    path = written(tmp_path, json.dumps(rows, ensure_ascii=False).encode())
    with Files([path]) as files:
        assert [files.rows(Run(0, 0, start, stop, 1)) for start, stop, _ in elements(path)] == [[rows[0]], [rows[1]]]


def test_elements_longer_than_a_piece_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_PIECE_BYTES", 3)
    rows = [{"a": "x" * 50}, {}, {"b": [1, 2, 3]}]
    assert [row for _, _, row in elements(written(tmp_path, json.dumps(rows).encode()))] == rows


def test_an_empty_list_has_no_elements(tmp_path: Path) -> None:
    assert list(elements(written(tmp_path, b" [ ] "))) == []


@pytest.mark.parametrize("content", [b"", b"[", b'[{"a": 1}', b'[{"a": 1', b'[{"a": 1}, ', b"[{]"])
def test_json_that_does_not_end_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(AnnotationError, match="expected"):
        list(elements(written(tmp_path, content)))


@pytest.mark.parametrize("content", [b'{"a": [1]}', b"[1]", b"x"])
def test_what_is_no_list_of_objects_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(AnnotationError, match="expected"):
        list(elements(written(tmp_path, content)))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"No such file or directory: .*rows\.json"):
        list(elements(tmp_path / "rows.json"))


@pytest.mark.parametrize("read", [lambda path: list(elements(path)), lambda path: list(Document(path, "a"))])
def test_json_of_too_many_levels_is_an_error(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = written(tmp_path, b"[" * 200_000)
    with pytest.raises(AnnotationError, match=r"expected .*rows\.json"):
        read(path)
