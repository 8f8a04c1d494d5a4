"""Several tasks on one display: their bytes are added up, and what each is at can be read."""

import logging
import threading

import pytest

from bitgen import progress as shown
from bitgen.progress import Board, StoppedError, Task, progress


class Told:
    """A counter that keeps what it is told."""

    def __init__(self, total: int | None = None) -> None:
        self.total, self.count, self.said = total, 0, ""

    def update(self, n: int) -> None:
        self.count += n

    def set_postfix_str(self, s: str) -> None:
        self.said = s


@pytest.fixture(autouse=True)
def _talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "_REDRAW_EVERY_S", -10.0)
    monkeypatch.setattr(shown, "LINE_EVERY_S", 0.0)


def test_bytes_of_all_tasks_are_added_up() -> None:
    told = Told()
    board = Board(told, 2, "files")
    with board.task("a", 100) as a, board.task("b", 50) as b:
        a.update(30)
        b.update(20)
    assert told.count == 50


def test_what_every_task_is_at_is_said() -> None:
    told = Told()
    board = Board(told, 3, "files")
    board.finish()
    with board.task("a.zip", 100) as a, board.task("b.zip") as b:
        a.update(30)
        b.begin("unpacking", 50)
        b.update(10)
        assert told.said == "1 of 3 files; a.zip 30%, unpacking b.zip 20%"


def test_bytes_of_a_step_are_not_those_of_the_board() -> None:
    told = Told()
    with Board(told, 1, "files").task("a", 100) as a:
        a.update(100)
        a.begin("unpacking", 500)
        a.update(400)
    assert told.count == 100


def test_a_task_that_begins_again_gives_its_bytes_back() -> None:
    told = Told(100)
    with Board(told, 1, "files").task("a", 100) as a:
        a.update(60)
        a.begin("checking")
        a.at(0, 100)
        a.update(10)
    assert (told.count, told.total) == (10, 100)


def test_a_size_that_becomes_known_is_added_to_the_total() -> None:
    told = Told()
    with Board(told, 1, "files").task("a") as a:
        a.at(0, 70)
    assert told.total == 70


def test_bytes_of_many_threads_are_not_lost() -> None:
    told = Told()
    board = Board(told, 8, "files")

    def work() -> None:
        with board.task("a") as task:
            for _ in range(500):
                task.update(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told.count == 4000


def test_a_stopped_board_ends_its_tasks() -> None:
    board = Board(Told(), 1, "files")
    with board.task("a") as task:
        board.stop()
        with pytest.raises(StoppedError):
            task.update(1)


def test_a_stopped_board_ends_a_pause() -> None:
    board = Board(Told(), 1, "files")
    board.stop()
    with pytest.raises(StoppedError):
        board.pause(600)


def test_a_task_without_a_board_tells_nobody() -> None:
    task = Task("a", total=10)
    task.update(5)
    assert str(task) == "a 50%"


def test_without_a_terminal_a_line_says_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), progress("downloading", 4_000_000, "B", 1_000_000) as counter:
        counter.set_postfix_str("1 of 3 files")
        counter.update(1_000_000)
    assert caplog.messages[0].startswith("downloading: 2.0 MB (50%), ")
    assert caplog.messages[0].endswith(" MB/s, 1 of 3 files")
