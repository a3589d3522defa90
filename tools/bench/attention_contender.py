"""A process that holds one attention: its data, its kernel, its memory."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from whet.backends.worker import Child, peak_resident, serve
from whet.ir.execute import Executor
from whet.ir.values import Array
from whet.tools.bench.attention_models import (
    Case,
    Means,
    attention_model,
    expected_rows,
    make_data,
    make_feeds,
)

__all__ = ["TORCH", "Contender"]

TORCH = "torch"
"""``scaled_dot_product_attention`` of PyTorch, beside the kernels of ONNX Runtime."""
_ALL_ROWS = 1024
_SOME_ROWS = 32


class Contender(Child):
    """One way to compute an attention, in a process of its own."""

    module: ClassVar[str] = "whet.tools.bench.attention_contender"

    def __init__(self, kernel: str, means: Means, case: Case, threads: int) -> None:
        """Start nothing yet."""
        super().__init__()
        self.kernel = kernel
        self.means: Means = means
        self._message = {
            "do": "load",
            "kernel": kernel,
            "means": means,
            "case": dataclasses.asdict(case),
            "threads": threads,
        }

    def load(self) -> None:
        """Start the process, draw the data, run once; raises CannotRun."""
        self.ask(self._message)

    def time(self, feeds: Mapping[str, Array], runs: int, seconds: float) -> list[float]:
        """Return the milliseconds of each run; the data are drawn there, ``feeds`` stays empty."""
        answer, _ = self.ask({"do": "time", "runs": runs, "seconds": seconds}, feeds)
        return [float(item) for item in answer["ms"]]

    def memory(self) -> int:
        """Return the largest resident size so far, less what the libraries take."""
        return int(self.ask({"do": "memory"})[0]["bytes"])

    def error(self) -> float:
        """Return ||y - expected|| / ||expected|| in float64, over all rows or, at great lengths, over some."""
        return float(self.ask({"do": "check"})[0]["away"])


class _Server:
    """The process's side."""

    def __init__(self) -> None:
        self._run: Callable[[], Array] = lambda: np.empty(0)
        self._base = 0

    def answer(
        self, message: dict[str, Any], _feeds: dict[str, Array]
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        if message["do"] == "load":
            self._load(message)
            return {}, {}
        if message["do"] == "time":
            return {"ms": self._time(message["runs"], message["seconds"])}, {}
        if message["do"] == "memory":
            return {"bytes": peak_resident() - self._base}, {}
        return {"away": self._error()}, {}

    def _load(self, message: dict[str, Any]) -> None:
        self._case = Case(**message["case"])
        self._means: Means = message["means"]
        self._kernel: str = message["kernel"]
        if self._kernel == TORCH:
            import torch

            torch.set_num_threads(message["threads"])
        _forget_peak()
        self._base = peak_resident()
        data = make_data(self._case)
        feeds = make_feeds(self._case, self._kernel, self._means, data)
        del data
        if self._kernel == TORCH:
            self._run = _torch_run(self._case, feeds)
        else:
            model = attention_model(self._case, self._kernel, self._means)
            session = Executor(model, optimization="all", threads=message["threads"], spin=True)
            self._run = lambda: session.run(feeds, ["y"])[0]
        self._run()

    def _time(self, runs: int, seconds: float) -> list[float]:
        found: list[float] = []
        end = time.perf_counter() + seconds
        while len(found) < runs and (not found or time.perf_counter() < end):
            start = time.perf_counter()
            self._run()
            found.append((time.perf_counter() - start) * 1e3)
        return found

    def _error(self) -> float:
        case = self._case
        count = case.length if case.length <= _ALL_ROWS else _SOME_ROWS
        rows = np.unique(np.linspace(0, case.length - 1, count).astype(np.int64))
        expected = expected_rows(case, self._means, make_data(case), rows)
        found = self._run()[0]
        if found.ndim == 2:
            found = found.reshape(case.length, case.heads, case.head).swapaxes(0, 1)
        away = found[:, rows].astype(np.float64) - expected
        return float(np.linalg.norm(away) / np.linalg.norm(expected))


def _torch_run(case: Case, feeds: Mapping[str, Array]) -> Callable[[], Array]:
    import torch

    given = {name: torch.from_numpy(array) for name, array in feeds.items()}
    mask = given.get("bias")
    if mask is not None and case.causal:
        mask = mask.masked_fill_(torch.ones(case.length, case.length).triu(1).bool(), -torch.inf)
    causal = case.causal and mask is None

    def run() -> Array:
        with torch.inference_mode():
            found = torch.nn.functional.scaled_dot_product_attention(
                given["q"], given["k"], given["v"], attn_mask=mask, is_causal=causal
            )
        return found.numpy()

    return run


def _forget_peak() -> None:
    """Let the kernel count the largest resident size from here on, where it can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    serve(_Server().answer)
