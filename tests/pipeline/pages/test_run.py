"""The report of a run: the pages that it wrote while it trained."""

from pathlib import Path

from pipeline.pages.run import shown_steps


def test_pages_of_pictures_are_linked_a_dozen_of_many(tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    for step in range(10, 1000, 10):
        (tmp_path / f"shown/step-{step:08d}.html").touch()
    ((_, section),) = shown_steps(tmp_path)
    assert section.count("<a ") == 12
    assert 'href="shown/step-00000010.html">step 10</a>' in section
    assert 'href="shown/step-00000990.html">step 990</a>' in section
    assert "99 times" in section


def test_a_run_without_pages_of_pictures_has_no_section_of_them(tmp_path: Path) -> None:
    assert shown_steps(tmp_path) == []
