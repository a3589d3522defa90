"""Both executors give the same results, and the same errors."""

import builtins
import functools
import importlib.util
import os
from collections.abc import Iterator

import pytest

from whet.errors import CalibrationError, UsageError
from whet.solve.executor import Dask, Executor, InProcess

installed = importlib.util.find_spec("distributed") is not None
needs_dask = pytest.mark.skipif(
    not installed, reason="dask is not installed: pip install whet[dask]"
)


def power(exponent: int, base: int) -> tuple[int, int]:
    return base**exponent, os.getpid()


def refuse(item: int) -> int:
    if item == 2:
        raise CalibrationError(f"sample {item} is not finite")
    return item


def use(executor: Executor) -> list[tuple[int, int]]:
    """Fail the type check, and not only the test, if an executor lacks a method."""
    with executor as running:
        return list(running.map(functools.partial(power, 3), [3, 1, 2, 3]))


@pytest.fixture(scope="module")
def dask() -> Iterator[Executor]:
    with Dask(workers=2) as running:
        yield running


def test_in_process_is_in_order_and_here() -> None:
    assert use(InProcess()) == [
        (27, os.getpid()),
        (1, os.getpid()),
        (8, os.getpid()),
        (27, os.getpid()),
    ]
    with pytest.raises(CalibrationError, match="sample 2 is not finite"):
        list(InProcess().map(refuse, [1, 2, 3]))
    assert next(InProcess().map(refuse, [1, 2, 3])) == 1


@needs_dask
def test_dask_gives_the_same_elsewhere(dask: Executor) -> None:
    found = list(dask.map(functools.partial(pow, 2), [5, 1, 5, 3]))
    assert found == list(InProcess().map(functools.partial(pow, 2), [5, 1, 5, 3]))
    assert os.getpid() not in dask.map(
        functools.partial(eval, "__import__('os').getpid()"), [{}, {}]
    )
    assert list(dask.map(abs, [])) == []


@needs_dask
def test_dask_raises_what_was_raised(dask: Executor) -> None:
    with pytest.raises(ZeroDivisionError, match="division"):
        list(dask.map(functools.partial(divmod, 1), [1, 0]))


@needs_dask
def test_dask_maps_inside_with_only() -> None:
    with pytest.raises(UsageError, match="inside 'with' only"):
        list(Dask().map(abs, [1]))
    with pytest.raises(UsageError, match="workers is 0"):
        Dask(workers=0)


def test_without_dask_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "distributed":
            raise ModuleNotFoundError("No module named 'distributed'", name="distributed")
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"missing \(distributed\): pip install whet\[dask\]"):
        Dask()
