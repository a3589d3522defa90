"""Where independent measurements run: in this process, or on a Dask cluster; the results are the same.

Functions and items must be picklable: a module's function, a frozen dataclass with ``__call__``, a partial of these.
"""

import collections
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from whet.errors import UsageError

__all__ = ["Dask", "Executor", "InProcess", "find_executor"]

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 2
"""Items that are sent for each worker before results are waited for: what they hold is in memory until then."""


class Executor(ABC):
    """Maps a function over items; a context manager that frees what it holds."""

    @abstractmethod
    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in the order of the items, which are taken one by one; errors keep their type."""

    def __enter__(self) -> Self:
        """Start what has to run: nothing, here."""
        return self

    def __exit__(  # noqa: B027 (most have nothing to stop)
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop what was started: nothing, here."""


class InProcess(Executor):
    """One item after the other, here: what is timed is not disturbed."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in the order of the items."""
        yield from map(function, items)


class Dask(Executor):
    """A Dask cluster: the one at ``address`` (``tcp://host:8786``), or ``workers`` single-threaded processes here.

    What is timed on it is timed on machines that are busy: use it for losses and metrics. Needs
    ``pip install whet[dask]``; raises UsageError without it.
    """

    def __init__(self, address: str | None = None, workers: int = 2) -> None:
        """Check that Dask is there; nothing is started before ``with``."""
        if workers < 1:
            raise UsageError(f"workers is {workers}, expected 1 or more")
        _distributed()
        self.address = address
        self.workers = workers
        self._held: list[Any] = []

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in the order of the items; raises UsageError outside ``with``."""
        if not self._held:
            raise UsageError("a Dask executor maps inside 'with' only: with Dask() as executor: …")
        client = self._held[0]
        (shared,) = client.scatter([function], broadcast=True, hash=False)
        most = _AHEAD * max(1, len(client.nthreads()))
        waiting: collections.deque[Any] = collections.deque()
        for item in items:
            (sent,) = client.scatter([item], hash=False)
            waiting.append(client.submit(_call, shared, sent, pure=False, retries=0))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def __enter__(self) -> Self:
        """Connect, or start a cluster of processes on this machine."""
        distributed = _distributed()
        if self.address is not None:
            self._held = [distributed.Client(self.address)]
            return self
        cluster = distributed.LocalCluster(
            n_workers=self.workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            memory_limit=0,
        )
        self._held = [distributed.Client(cluster), cluster]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect, and stop the cluster if it was started here."""
        held, self._held = self._held, []
        for each in held:
            each.close()


def find_executor(where: str) -> Executor:
    """Return the executor that a word names: ``here``, a number of processes, or the address of a Dask scheduler.

    Raises UsageError for anything else, and where Dask is not installed.
    """
    if where == "here":
        return InProcess()
    with contextlib.suppress(ValueError):
        return Dask(workers=int(where))
    if "://" in where:
        return Dask(where)
    raise UsageError(
        f"workers is '{where}', expected 'here', a number of processes, or a scheduler as tcp://host:8786"
    )


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)


def _distributed() -> Any:
    """Import Dask where it is used, or say how to get it."""
    try:
        import distributed
    except ImportError as error:
        raise UsageError(
            f"measuring on a Dask cluster needs a package that is missing ({error.name}): "
            "pip install whet[dask]"
        ) from error
    return distributed
