"""Watch the memory of a process and of all that it starts, from outside, through ``/proc``."""

import dataclasses
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

__all__ = ["Usage", "watch"]

_PROC = Path("/proc")
_INTERVAL = 0.05


@dataclasses.dataclass
class Usage:
    """What a command and its children took."""

    code: int
    seconds: float
    output: str
    errors: str
    own: int
    """Largest resident size (``VmHWM``) of the command's own process, as last seen before it ended.

    ``ru_maxrss`` would also count what the parent had at the time of the fork.
    """
    children: dict[str, int]
    """The same for the processes it started, under pid and first words of the command line."""
    tree: int
    """Largest sum of PSS over all processes at one moment; pages that several map count once."""
    at_peak: dict[str, int]
    """PSS of each process at that moment."""
    samples: int

    @property
    def largest(self) -> int:
        """Return the largest resident size of a single process."""
        return max([self.own, *self.children.values()])


def watch(command: Sequence[str], environment: dict[str, str] | None = None) -> Usage:
    """Run a command to its end and return what it and its children took; sampled every 50 ms."""
    start = time.perf_counter()
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    sampler = _Sampler(child.pid)
    readers = [_Reader(child.stdout), _Reader(child.stderr)]
    child.wait()
    sampler.stop()
    output, errors = (reader.text() for reader in readers)
    own = sampler.high.pop(child.pid, ("", 0))[1]
    return Usage(
        code=child.returncode,
        seconds=time.perf_counter() - start,
        output=output,
        errors=errors,
        own=own,
        children={f"{pid} {name}": size for pid, (name, size) in sampler.high.items()},
        tree=sampler.peak,
        at_peak=sampler.at_peak,
        samples=sampler.samples,
    )


class _Reader(threading.Thread):
    """Reads a pipe to its end beside everything else, so that the writer never waits."""

    def __init__(self, pipe: IO[str] | None) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self._text = ""
        self.start()

    def run(self) -> None:
        assert self._pipe is not None
        with self._pipe:
            self._text = self._pipe.read()

    def text(self) -> str:
        self.join()
        return self._text


class _Sampler(threading.Thread):
    """Adds up the PSS of a process and its descendants until it is stopped."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.high: dict[int, tuple[str, int]] = {}
        self.peak = 0
        self.at_peak: dict[str, int] = {}
        self.samples = 0
        self._root = root
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(_INTERVAL):
            self._sample()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _sample(self) -> None:
        found: dict[str, int] = {}
        for pid in _tree(self._root):
            size = _kilobytes(_PROC / str(pid) / "smaps_rollup", "Pss:")
            high = _kilobytes(_PROC / str(pid) / "status", "VmHWM:")
            name = _command(pid)
            if high:
                self.high[pid] = (name, max(high, self.high.get(pid, ("", 0))[1]))
            found[f"{pid} {name}"] = size
        self.samples += 1
        if sum(found.values()) > self.peak:
            self.peak, self.at_peak = sum(found.values()), found


def _tree(root: int) -> list[int]:
    """Return the process and its descendants, as they are now."""
    found, waiting = [root], [root]
    while waiting:
        inner = _children(waiting.pop())
        found += inner
        waiting += inner
    return found


def _children(pid: int) -> list[int]:
    """Return the children of every thread of a process."""
    found: list[int] = []
    try:
        for thread in (_PROC / str(pid) / "task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    except OSError:
        return found
    return found


def _kilobytes(path: Path, key: str) -> int:
    """Return the bytes on the line of a ``/proc`` file that starts with ``key``; 0 once the process is gone."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)


def _command(pid: int) -> str:
    """Return the words of a command line that tell processes apart."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return " ".join(words[2:4] if len(words) > 2 and words[1] == "-m" else words[:1])
