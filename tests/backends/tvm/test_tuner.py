"""The search for schedules, with times that are made up."""

from pathlib import Path

import pytest
from tuning import Clock, Known, asked_for, database

from whet.backends.tvm.tuning.tuner import Tuned, Tuner

FAST = {"a=2 b=0": 0.9, "a=2 b=1": 0.8, "a=3 b=0": 0.95}


def tune(folder: Path, timer: Known, *keys: str, seconds: float = 1000) -> Tuned:
    tuner = Tuner(timer, database(folder), seconds, clock=timer.clock)
    return tuner.run(asked_for(*keys or ("fake",)))


def test_the_best_of_one_group_is_the_base_of_the_next(tmp_path: Path) -> None:
    found = tune(tmp_path, Known(FAST))
    record = database(tmp_path).find("fake")
    assert record is not None
    assert (record.best, record.best_ms, record.usual_ms) == ("a=2 b=1", 0.8, 1.0)
    assert record.done
    assert (found.before, found.after, found.kernels, found.done) == (1.0, 0.8, 1, 1)
    assert "a=0 b=1" not in record.trials  # slow by itself: never combined


@pytest.mark.parametrize(("ms", "spread"), [(0.985, 0.0001), (0.9, 0.08), (1.2, 0.0001)])
def test_nothing_is_taken_for_noise(tmp_path: Path, ms: float, spread: float) -> None:
    found = tune(tmp_path, Known({"a=2 b=0": ms}, spread=spread))
    assert database(tmp_path).best("fake")[0] == ""
    assert found.after == found.before


def test_a_wrong_result_is_never_taken(tmp_path: Path) -> None:
    tune(tmp_path, Known(FAST, errors={"a=2 b=1": 2e-3, "a=2 b=0": 9e-6}))
    record = database(tmp_path).find("fake")
    assert record is not None
    assert record.best == "a=2 b=0"
    assert record.trials["a=2 b=1"] == "its result is off by 2.0e-03, 1e-05 is allowed"


def test_a_crash_is_survived_and_noted(tmp_path: Path) -> None:
    tune(tmp_path, Known({**FAST, "a=2 b=1": -1}))
    record = database(tmp_path).find("fake")
    assert record is not None
    assert record.best == "a=2 b=0"
    assert record.trials["a=2 b=1"] == "the runtime's process died (SIGSEGV)"


def test_a_kernel_that_cannot_be_timed_is_said(tmp_path: Path) -> None:
    found = tune(tmp_path, Known({"a=1 b=0": -1}))
    assert found.failures == ("fake was not timed: the runtime's process died (SIGSEGV)",)
    assert found.kernels == 0


def test_what_costs_most_comes_first(tmp_path: Path) -> None:
    timer = Known(FAST)
    schedules = asked_for("once", "often", "never", calls=(2, 9, 0))
    Tuner(timer, database(tmp_path), 1000, clock=timer.clock).run(schedules)
    order = list(dict.fromkeys(key for key, _, rounds in timer.asked if rounds > 1))
    assert order == ["often", "once"]  # what is not called is not worth a second


@pytest.mark.parametrize("seconds", [1.0, 4.0, 6.0, 9.0])
def test_the_time_is_kept(tmp_path: Path, seconds: float) -> None:
    timer = Known(FAST)
    found = tune(tmp_path, timer, "one", "two", "three", seconds=seconds)
    assert timer.clock.now <= seconds + 0.5
    assert found.done < 3


def test_the_next_one_goes_on_where_the_last_stopped(tmp_path: Path) -> None:
    whole = Known(FAST)
    tune(tmp_path / "whole", whole)
    trials: list[str] = []
    for _ in range(20):
        timer = Known(FAST, clock=Clock())
        found = tune(tmp_path, timer, seconds=4.6)
        trials += [text for _, text, rounds in timer.asked if rounds == 3]
    assert found.idle
    assert not timer.asked
    assert sorted(trials) == sorted(text for _, text, rounds in whole.asked if rounds == 3)
    assert len(trials) == len(set(trials))
    assert database(tmp_path).best("fake") == database(tmp_path / "whole").best("fake")


def test_an_interrupt_keeps_what_was_found(tmp_path: Path) -> None:
    def stop(number: int) -> None:
        if number == 4:
            raise KeyboardInterrupt

    found = tune(tmp_path, Known(FAST, before=stop))
    assert found.interrupted
    record = database(tmp_path).find("fake")
    assert record is not None
    assert len(record.trials) == 3
    assert not record.done
    tune(tmp_path, Known(FAST))
    assert database(tmp_path).best("fake") == ("a=2 b=1", 1.0, 0.8)


def test_progress_says_what_is_left(tmp_path: Path) -> None:
    said: list[str] = []
    timer = Known(FAST)
    tuner = Tuner(timer, database(tmp_path), 100, clock=timer.clock, progress=said.append)
    tuner.run(asked_for("fake | Relu"))
    assert said[0] == "tune ░░░░░░░░░░░░ 1:40 left: time kernel 1 of 1"
    assert said[1] == "tune ░░░░░░░░░░░░ 1:39 left: fake, schedule 1"
