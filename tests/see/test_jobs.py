"""One job after another, with progress, and stopped when asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from convforge.errors import UserError
from convforge.see.jobs import Jobs, Progress
from convforge.see.turns import Turns


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    queue = Jobs(kept=3, waiting=2)
    yield queue
    queue.close()


class Steps:
    """Work of many steps, each of which the test lets go on."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()
        self.steps = 0

    def __call__(self, progress: Progress) -> int:
        for step in range(10_000):
            progress(step, 10_000, f"step {step}")
            self.steps = step
            self.began.set()
            assert self.go_on.wait(10)
            time.sleep(0.001)
        return self.steps


def test_a_result_is_kept_and_progress_is_told(jobs: Jobs) -> None:
    steps = Steps()
    id = jobs.start(steps, "counting")
    assert steps.began.wait(10)
    status = jobs.status(id)
    assert (status.state, status.done, status.total, status.what) == ("running", 0, 10_000, "step 0")
    assert "result" not in status.to_dict()
    assert "error" not in status.to_dict()
    jobs.cancel(id)
    steps.go_on.set()
    assert jobs.wait(id).state == "cancelled"
    answer = jobs.start(lambda progress: {"answer": 42}, "thinking")
    assert jobs.wait(answer).to_dict() == {
        "id": answer, "state": "done", "done": 0, "total": 0, "what": "thinking", "result": {"answer": 42},
    }  # fmt: skip


def test_a_running_job_ends_at_its_next_step(jobs: Jobs) -> None:
    steps = Steps()
    steps.go_on.set()
    id = jobs.start(steps, "counting")
    assert steps.began.wait(10)
    jobs.cancel(id)
    assert jobs.wait(id, seconds=10).state == "cancelled"
    assert steps.steps < 9_999


def test_a_waiting_job_says_so_and_ends_at_once(jobs: Jobs) -> None:
    steps = Steps()
    first = jobs.start(steps, "the first")
    assert steps.began.wait(10)
    ran: list[int] = []
    second = jobs.start(lambda progress: ran.append(1), "the second")
    assert jobs.status(second).what == "the second: waiting for another job to end"
    assert jobs.cancel(second).state == "cancelled"
    jobs.cancel(first)
    steps.go_on.set()
    jobs.wait(first)
    assert jobs.wait(jobs.start(lambda progress: None, "the third")).state == "done"
    assert ran == []


def test_what_is_being_done_is_not_begun_twice(jobs: Jobs) -> None:
    steps = Steps()
    first = jobs.start(steps, "counting", key=("top", 3))
    assert jobs.start(steps, "counting", key=("top", 3)) == first
    assert jobs.start(steps, "counting", key=("top", 4)) != first
    jobs.cancel(first)
    assert jobs.start(steps, "counting", key=("top", 3)) != first, "a job that is ending is of no use to anybody"
    steps.go_on.set()


def test_too_many_that_wait_are_refused(jobs: Jobs) -> None:
    steps = Steps()
    jobs.start(steps, "a")
    assert steps.began.wait(10)
    for name in "bc":
        jobs.start(steps, name)
    with pytest.raises(UserError, match="2 jobs are waiting already"):
        jobs.start(steps, "d")
    steps.go_on.set()


def raising(error: BaseException) -> Callable[[Progress], None]:
    def work(progress: Progress) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("a plain sentence."), "a plain sentence."),
        (MemoryError(), "there was not enough memory for looking: use fewer or smaller images."),
        (ZeroDivisionError("by zero\nand more"), "looking failed: ZeroDivisionError: by zero."),
        (KeyError(), "looking failed: KeyError."),
    ],
)
def test_a_failure_is_one_plain_sentence_and_the_next_job_runs(jobs: Jobs, error: Exception, sentence: str) -> None:
    status = jobs.wait(jobs.start(raising(error), "looking"))
    assert (status.state, status.error, status.result) == ("failed", sentence, None)
    assert jobs.wait(jobs.start(lambda progress: 1, "next")).result == 1


def test_ended_jobs_are_forgotten_the_oldest_first(jobs: Jobs) -> None:
    ids = [jobs.start(lambda progress: None, "nothing") for _ in range(1)]
    for _ in range(4):
        jobs.wait(ids[-1])
        ids.append(jobs.start(lambda progress: None, "nothing"))
    jobs.wait(ids[-1])
    ids.append(jobs.finished({"known": "already"}))
    assert [jobs.status(id).state for id in ids[-3:]] == ["done"] * 3
    for id in [*ids[:-3], "never"]:
        with pytest.raises(UserError, match="there is no job"):
            jobs.status(id)


def test_a_result_that_was_known_is_done_at_once(jobs: Jobs) -> None:
    assert jobs.status(jobs.finished([1, 2])).to_dict()["result"] == [1, 2]


def test_closing_ends_everything() -> None:
    jobs = Jobs()
    steps = Steps()
    steps.go_on.set()
    ids = [jobs.start(steps, "a"), jobs.start(steps, "b")]
    assert steps.began.wait(10)
    jobs.close()
    assert [jobs.status(id).state for id in ids] == ["cancelled", "cancelled"]
    with pytest.raises(UserError, match="stopping"):
        jobs.start(steps, "c")


def test_a_request_goes_before_the_next_batch() -> None:
    turns, order = Turns(), list[str]()
    begun, asked = threading.Event(), threading.Event()

    def batches() -> None:
        for number in range(3):
            with turns.background():
                order.append(f"batch {number}")
                begun.set()
                assert asked.wait(10)
                while number == 0 and not turns._requests:  # until the request is really waiting
                    time.sleep(0.001)

    def request() -> None:
        asked.set()
        with turns.request():
            order.append("request")

    worker = threading.Thread(target=batches)
    worker.start()
    assert begun.wait(10)
    clicker = threading.Thread(target=request)
    clicker.start()
    for thread in (clicker, worker):
        thread.join(10)
    assert order == ["batch 0", "request", "batch 1", "batch 2"]


def test_a_job_pauses_while_a_request_computes() -> None:
    turns, order = Turns(), list[str]()
    computing = threading.Event()

    def request() -> None:
        with turns.request():
            computing.set()
            time.sleep(0.05)
            order.append("request")

    clicker = threading.Thread(target=request)
    clicker.start()
    assert computing.wait(10)
    turns.pause()
    order.append("job")
    clicker.join(10)
    assert order == ["request", "job"]
    turns.pause()
    with turns.background():
        turns.pause(seconds=0.01)  # gives up where the turn does not end


def test_a_turn_ends_with_an_error_too() -> None:
    turns = Turns()
    for turn in (turns.request, turns.background):
        with pytest.raises(ZeroDivisionError), turn():
            raise ZeroDivisionError
    with turns.request():
        pass
