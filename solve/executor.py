"""Where independent measurements run: in this process, or on a Dask cluster; the results are the same.

Functions and items must be picklable: a module's function, a frozen dataclass with ``__call__``, a partial of these.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from whet.errors import UsageError

__all__ = ["Dask", "Executor", "InProcess"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Maps a function over items; a context manager that frees what it holds."""

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return the results in the order of the items; what ``function`` raises is raised here, same type."""
        ...

    def __enter__(self) -> Self:
        """Start what has to run."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop what was started."""
        ...


class InProcess:
    """One item after the other, here: what is timed is not disturbed."""

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return the results in the order of the items."""
        return [function(item) for item in items]

    def __enter__(self) -> Self:
        """Start nothing."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop nothing."""


class Dask:
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

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return the results in the order of the items; raises UsageError outside ``with``."""
        if not self._held:
            raise UsageError("a Dask executor maps inside 'with' only: with Dask() as executor: …")
        client = self._held[0]
        waiting = client.map(function, list(items), pure=False, retries=0)
        return list(client.gather(waiting))

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
            dashboard_address=None,
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
