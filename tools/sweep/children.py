"""Work through a list in child processes that are replaced when they die."""

import contextlib
import io
import json
import logging
import os
import queue
import subprocess
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["gather", "quiet", "serve"]

Answer = dict[str, Any] | None
"""What a child said about an item; None if it died at it."""


def gather(
    module: str, names: Sequence[str], flags: Sequence[str] = (), jobs: int = 1
) -> Iterator[tuple[str, Answer]]:
    """Yield items with their answers as they come, from ``jobs`` children ``python -m MODULE --serve FLAGS NAMES``."""
    answers: queue.Queue[tuple[str, Answer]] = queue.Queue()

    def feed(part: Sequence[str]) -> None:
        for answer in _in_turn(module, part, flags):
            answers.put(answer)

    with ThreadPoolExecutor(jobs) as pool:
        for part in range(jobs):
            pool.submit(feed, names[part::jobs])
        for _ in names:
            yield answers.get()


def serve(names: Sequence[str], work: Callable[[str], dict[str, Any]]) -> None:
    """Print one line of JSON for each item: the child's side of :func:`gather`."""
    for name in names:
        print(json.dumps(work(name)), flush=True)


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Keep libraries from talking: a child's standard output carries answers."""
    logging.disable(logging.WARNING)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _in_turn(
    module: str, names: Sequence[str], flags: Sequence[str]
) -> Iterator[tuple[str, Answer]]:
    waiting = list(names)
    while waiting:
        done = 0
        for data in _child(module, waiting, flags):
            yield waiting[done], data
            done += 1
        if done < len(waiting):
            yield waiting[done], None
            done += 1
        waiting = waiting[done:]


def _child(module: str, names: Sequence[str], flags: Sequence[str]) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", module, "--serve", *flags, *names]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("{"):
                yield json.loads(line)
