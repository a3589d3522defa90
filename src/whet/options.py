"""Everything about a compile that is neither the model nor its data."""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from whet.backends.base import RuntimeOptions, triple_option
from whet.backends.device import Device
from whet.backends.triples import find_place
from whet.budget import Budget, parse_bytes
from whet.errors import UsageError
from whet.ir.values import Array
from whet.passes.recipes import read_recipe
from whet.solve.allocation import Objective

__all__ = ["Data", "Evaluate", "Options", "read_max_ram", "read_options"]

Evaluate = Callable[..., float | Array]
"""Maps a loaded model (:class:`whet.backends.base.Runner`) to a metric where larger is better, or to an array of one
number per sample, whose mean is the metric: then drops get a standard error and a confidence interval.

A function with a second parameter ``part`` is told which samples to take: ``"search"`` while a mixture is searched
for, ``"unseen"`` for the report afterwards, so that the result is judged on samples that no choice has seen, and
``"all"`` where nothing is searched for.
"""
Data = str | Path | Mapping[str, Array] | Iterable[Mapping[str, Array]]
"""A path to an ``.npz``, stacked arrays by name, or feeds one after the other."""


_OBJECTIVES: Mapping[str, Objective | None] = {
    "auto": None,
    "loss": "loss",
    "latency": "ms",
    "size": "bytes",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The settings of one compile."""

    target: str = "onnxruntime"
    recipe: str | Path = "auto"
    device: str | Path | Device = "host"
    """The machine that the result will run on: ``host``, a known device, a ``FILE.toml`` or a :class:`Device`. Nothing
    is timed for another machine than this one, and the memory it has is a budget."""
    triple: str = ""
    """The kind of machine, as compilers name it (``aarch64-linux-gnu``): without a device, the plainest one of it."""
    budget: Budget = dataclasses.field(default_factory=Budget)
    threads: int = 0
    optimization: str = "all"
    """ONNX Runtime's graph optimization level: none, basic, extended, all."""
    session: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    """Session configuration entries of ONNX Runtime; stored in the artifact, used whenever it is loaded."""
    seed: int = 0
    prove: bool = True
    measure: bool = True
    allow_noop: bool = False
    max_ram: int | str | None = None
    """Bytes (or ``"2GB"``) that this process should stay below while it calibrates: batches are made smaller."""
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict[str, int])
    """Sizes for symbolic dimensions, used for the first binding and for timing."""
    candidates: str = "auto"
    """What a search tries at every site, as passes; ``auto`` is a list that suits most models."""
    start: tuple[str, ...] = ()
    """Recipes whose results a search begins at, beside the source's exact rewrites: what changes shapes, such as
    ``prune-structure``, is no candidate of a site, but candidates can be tried at what it leaves behind."""
    minimize: str = "auto"
    """What a search makes small within the budget: loss, latency or size; ``auto`` is the loss, or with a limit on the
    drop the latency, or with limits on both the size."""
    loss: str = "outputs"
    """What a search predicts: ``outputs``, half the squared distance of the outputs from the source's over their
    squared norm, or ``divergence``, KL(source || result) of the first output, taken for logits."""
    workers: str = "here"
    """Where a search computes losses and second derivatives: ``here``, in this process; a number of processes on this
    machine; or the address of a Dask scheduler, ``tcp://host:8786``. Milliseconds are always measured here."""
    search_minutes: float = 60.0
    """Minutes after which a search ends with the best plan so far."""
    tune: str = ""
    """How long kernels are tuned by measurement, ``"10min"``, for targets that have some to tune (``tvm``). ``"off"``
    does not use either what was measured before."""
    page: bool = True
    """Write ``report.html`` into an output folder, where the libraries of the extra ``report`` are installed."""
    progress: Callable[[str], None] = lambda _message: None

    def __post_init__(self) -> None:
        """Check how the result is to be run, and what a search begins at, before any work is done."""
        start = (self.start,) if isinstance(self.start, str) else tuple(self.start)
        object.__setattr__(self, "start", start)
        for recipe in start:
            read_recipe(recipe)
        RuntimeOptions(self.threads, self.optimization)
        _ = self.place
        read_max_ram(self.max_ram)
        for name, value, known in (
            ("minimize", self.minimize, tuple(_OBJECTIVES)),
            ("loss", self.loss, ("outputs", "divergence")),
        ):
            if value not in known:
                raise UsageError(f"{name} is '{value}', expected one of {', '.join(known)}")

    @property
    def objective(self) -> Objective | None:
        """Return what a search minimizes; None leaves it to the budget."""
        return _OBJECTIVES[self.minimize]

    @functools.cached_property
    def place(self) -> Device:
        """Return the device that the result will run on."""
        return find_place(self.device, self.triple or triple_option(self.target))

    @property
    def timed(self) -> bool:
        """Tell whether milliseconds decide: they may be measured, and this machine's are the device's."""
        return self.measure and self.place.here

    @property
    def memory(self) -> tuple[int | None, int | None]:
        """Return bytes of RAM and flash that the result may take: the budget's, or else what the device has."""
        ram, flash = self.budget.device
        return self.place.ram if ram is None else ram, self.place.flash if flash is None else flash

    @property
    def runtime(self) -> RuntimeOptions:
        """Return how the result is run."""
        threads = self.threads or self.place.threads
        return RuntimeOptions(threads, self.optimization, tuple(sorted(self.session.items())))


def read_max_ram(value: int | str | None) -> int | None:
    """Return a limit on memory in bytes."""
    return None if value is None else parse_bytes(value, "max_ram", "2GB or 500MiB")


def read_options(given: Mapping[str, Any]) -> Options:
    """Return the options by name; raises UsageError for an unknown one, with the nearest name."""
    known = [f.name for f in dataclasses.fields(Options)]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"
            raise UsageError(f"unknown option '{name}'{hint}")
    return Options(**given)
