"""Kernels in a process of their own: same, wrong, crashing, hanging, refused."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from tuning import Fake

from whet.backends.tvm.api import T, tirx
from whet.backends.tvm.epilogue import Ending
from whet.backends.tvm.kernels.writing import function
from whet.backends.tvm.machine import Machine, find_machine
from whet.backends.tvm.processor import Processor
from whet.backends.tvm.schedules import Schedule
from whet.backends.tvm.tuning.stand import Stand
from whet.backends.tvm.works.dense import Dense
from whet.ir.execute import CannotRun


class Odd(Fake):
    """Doubles eight numbers; with a=0 it is wrong by a little, a=2 crashes, a=3 hangs."""

    def function(self, schedule: Schedule) -> Any:
        def body(x: Any, y: Any) -> None:
            if schedule["a"] > 1:
                T.evaluate(tirx.call_extern("int32", "abort" if schedule["a"] == 2 else "pause"))
            with T.serial(0, 8) as i:
                factor = 2.0 if schedule["a"] else 2.001
                T.buffer_store(y, x[i] * tirx.FloatImm("float32", factor), [i])

        return function("odd", [((8,), "float32")] * 2, body)

    def operands(self, draw: np.random.Generator) -> Sequence[np.ndarray]:
        return [draw.standard_normal(8).astype(np.float32)]

    def packed(self, operands: Sequence[np.ndarray], schedule: Schedule) -> Sequence[np.ndarray]:
        return operands

    @property
    def result(self) -> tuple[tuple[int, ...], str]:
        return (8,), "float32"


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    machine = find_machine(Processor("", "", "", 1))
    with Stand(machine, cold=1 << 12, block_seconds=0.0005, patience=20) as made:
        yield made


def test_equal_kernels_agree_and_wrong_ones_do_not(stand: Stand) -> None:
    same = stand.race(Odd(), {"a": 1, "b": 1}, 3)
    assert same.error == 0
    assert same.usual.runs == same.other.runs == 3
    assert min(same.usual.low, same.other.low) > 0
    wrong = stand.race(Odd(), {"a": 0, "b": 0}, 1)
    assert 1e-5 < wrong.error < 1e-2


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pause")
def test_what_hangs_or_crashes_ends_that_race_alone(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.race(Odd(), {"a": 1, "b": 1}, 1)
    with monkeypatch.context() as patch:
        patch.setattr(stand, "_patience", 1.0)
        with pytest.raises(CannotRun, match=r"a=3 b=0 took more than 1 s"):
            stand.race(Odd(), {"a": 3, "b": 0}, 1)
    with pytest.raises(CannotRun, match=r"process died \(SIGABRT\)"):
        stand.race(Odd(), {"a": 2, "b": 0}, 1)
    assert stand.race(Odd(), {"a": 1, "b": 1}, 1).error == 0


def test_weights_are_packed_for_each_schedule(stand: Stand) -> None:
    work = Dense((5, 24), 40, Ending(), Machine(threads=1))
    other = {"rows": 2, "vectors": 3, "parts": 2, "depth": 8, "unrolled": 4, "turned": 1}
    found = stand.race(work, other, 1)
    assert found.error <= 1e-6


def _unreadable(text: str) -> Callable[..., str]:
    return lambda *_: text


def test_what_tvm_does_not_build_is_refused(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whet.backends.tvm.tuning.stand._text", _unreadable("{}"))
    with pytest.raises(CannotRun, match="TVM does not build it"):
        stand.race(Odd(), {"a": 1, "b": 1}, 1)
