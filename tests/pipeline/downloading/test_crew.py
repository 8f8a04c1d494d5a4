"""Jobs in threads of their own: what they give and raise comes back, and nobody waits for one that hangs."""

import threading
import time

import pytest

from pipeline.downloading.crew import Crew


def test_results_come_back_in_the_order_in_which_jobs_end() -> None:
    crew, go = Crew[str, int](), threading.Event()
    crew.start("late", lambda: int(go.wait(10)))
    crew.start("soon", lambda: 7)
    assert crew.wait() == ("soon", 7)
    go.set()
    assert crew.wait() == ("late", 1)


def test_what_a_job_raises_is_raised_where_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)  # which would print it as well
    crew = Crew[str, float]()
    crew.start("a", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        crew.wait()
    crew.leave(10)


def test_many_jobs_run_so_many_at_once() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work() -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1
        return 1

    assert sum(result for _, result in Crew[int, int]().each(((i, work) for i in range(50)), 3)) == 50
    assert most <= 3


def test_nobody_waits_long_for_a_job_that_hangs() -> None:
    crew, go = Crew[str, bool](), threading.Event()
    crew.start("a", lambda: go.wait(60))
    began = time.monotonic()
    crew.leave(0.05)
    assert time.monotonic() - began < 10
    go.set()
