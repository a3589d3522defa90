"""A child process that holds one model: fresh, measurable, and unable to disturb its neighbours.

Several ONNX Runtime sessions in one process slow each other down and their memory cannot be told apart, so everything
that is measured or proven end to end runs in a process of its own. Messages are a JSON header and an ``.npz`` body.
"""

import contextlib
import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, Self

import numpy as np

from whet.backends.base import Runner, RuntimeOptions, open_runner
from whet.errors import WhetError
from whet.ir.array import Array
from whet.ir.execute import CannotRun

__all__ = ["Child", "Turns", "Worker", "peak_resident", "serve"]

_HEADER = struct.Struct("<QQ")
Answer = Callable[[dict[str, Any], dict[str, Array]], tuple[dict[str, Any], dict[str, Array]]]
"""From a message and its arrays to the answer and its arrays."""


class Turns:
    """Let the workers of models that do not fit into memory together hold them one after the other."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._holder: Worker | None = None

    def take(self, worker: "Worker") -> None:
        """Unload the model of whoever holds one; ``worker`` is next."""
        if self._holder is not None and self._holder is not worker:
            self._holder.rest()
        self._holder = worker

    def end(self) -> None:
        """Leave no model loaded."""
        if self._holder is not None:
            self._holder.rest()
        self._holder = None


class Child:
    """A process that answers messages; a context manager. It starts when it is first asked."""

    module: ClassVar[str] = "whet.backends.worker"
    """What the process runs: a module that calls :func:`serve`."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._child: subprocess.Popen[bytes] | None = None

    def ask(
        self, message: dict[str, Any], feeds: Mapping[str, Array] | None = None
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the answer and its arrays; raises CannotRun with the child's reason.

        A child that died (runtimes crash on some sizes) is replaced first.
        """
        if self._child is None:
            self._start()
        return self._exchange(message, feeds or {})

    def close(self) -> None:
        """End the child."""
        if self._child is None:
            return
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._child.wait(timeout=30)
        self._child = None

    def __enter__(self) -> Self:
        """Return the child."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the child; after an exception, whatever it is doing."""
        if kind is not None and self._child is not None:
            self._child.kill()
        self.close()

    def _start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._child = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the parent only, which then ends the child
        )

    def _exchange(
        self, message: dict[str, Any], feeds: Mapping[str, Array]
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        assert self._child is not None
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            _send(self._child.stdin, message, feeds)
            answer, arrays = _receive(self._child.stdout)
        except (EOFError, BrokenPipeError):
            code = self._child.wait(timeout=30)
            self.close()
            raise CannotRun(f"the runtime's process died ({_cause(code)})") from None
        if "error" in answer:
            raise CannotRun(answer["error"])
        return answer, arrays


class Worker(Child):
    """Run a model file or an artifact folder in a child process."""

    def __init__(
        self,
        path: Path,
        options: RuntimeOptions,
        target: str = "onnxruntime",
        turns: Turns | None = None,
    ) -> None:
        """Start the child and load the model there; raises CannotRun with the child's reason.

        Of the workers that share ``turns`` only the one that was asked last has its model loaded.
        """
        super().__init__()
        self._turns = turns
        self._peak = 0
        self._load_message = {
            "do": "load",
            "path": str(path),
            "target": target,
            "options": options.to_json(),
        }
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        if self._turns is not None:
            self._turns.take(self)
        super()._start()
        answer, _ = self._exchange(self._load_message, {})
        self.load_seconds: float = answer["seconds"]
        self.inputs: tuple[str, ...] = tuple(answer["inputs"])
        self.outputs: tuple[str, ...] = tuple(answer["outputs"])

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Return the outputs; raises CannotRun."""
        _, arrays = self.ask({"do": "run"}, feeds)
        return [arrays[f"{k}"] for k in range(len(arrays))]

    def time(self, feeds: Mapping[str, Array], runs: int, seconds: float) -> list[float]:
        """Return the milliseconds of each run: ``runs`` of them, or fewer once ``seconds`` are spent."""
        answer, _ = self.ask({"do": "time", "runs": runs, "seconds": seconds}, feeds)
        return [float(item) for item in answer["ms"]]

    def peak_bytes(self) -> int:
        """Return the largest resident size the child has had."""
        if self._child is not None:
            self._peak = max(self._peak, int(self.ask({"do": "memory"})[0]["bytes"]))
        return self._peak

    def rest(self) -> None:
        """Unload the model; the next request loads it again, in a new process."""
        self.peak_bytes()
        self.close()


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _send(pipe: IO[bytes], message: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    body = io.BytesIO()
    places: dict[int, int] = {}
    which = [places.setdefault(id(array), len(places)) for array in arrays.values()]
    if arrays:
        # The same array under several names, a large mask for example, crosses once.
        once = dict(zip(which, arrays.values(), strict=True))
        np.savez(body, allow_pickle=False, **{f"a{k}": array for k, array in once.items()})
    head = json.dumps({**message, "names": list(arrays), "which": which}).encode()
    blob = body.getvalue()
    pipe.write(_HEADER.pack(len(head), len(blob)))
    pipe.write(head)
    pipe.write(blob)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], dict[str, Array]]:
    start = pipe.read(_HEADER.size)
    if len(start) < _HEADER.size:
        raise EOFError
    head_size, blob_size = _HEADER.unpack(start)
    message: dict[str, Any] = json.loads(pipe.read(head_size))
    blob = pipe.read(blob_size)
    names: list[str] = message.pop("names")
    which: list[int] = message.pop("which")
    if not names:
        return message, {}
    with np.load(io.BytesIO(blob), allow_pickle=False) as data:
        once = {k: data[f"a{k}"] for k in set(which)}
    return message, {name: once[k] for name, k in zip(names, which, strict=True)}


class _Server:
    """The child's side."""

    def __init__(self) -> None:
        self._runner: Runner | None = None

    def answer(
        self, message: dict[str, Any], feeds: dict[str, Array]
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """Do what the message asks."""
        if message["do"] == "load":
            return self._load(message), {}
        if message["do"] == "race":
            return {"ms": _race(message, feeds)}, {}
        if message["do"] == "memory":
            return {"bytes": peak_resident()}, {}
        assert self._runner is not None
        if message["do"] == "run":
            return {}, {f"{k}": _plain(a) for k, a in enumerate(self._runner.run(feeds))}
        return {"ms": self._time(feeds, message["runs"], message["seconds"])}, {}

    def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        options = RuntimeOptions.from_json(message["options"])
        self._runner = open_runner(Path(message["path"]), message["target"], options)
        return {
            "seconds": time.perf_counter() - start,
            "inputs": list(self._runner.inputs),
            "outputs": list(self._runner.outputs),
        }

    def _time(self, feeds: dict[str, Array], runs: int, seconds: float) -> list[float]:
        assert self._runner is not None
        return _time(self._runner, feeds, runs, seconds)


def _time(runner: Runner, feeds: Mapping[str, Array], runs: int, seconds: float) -> list[float]:
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < runs and (not found or time.perf_counter() < end):
        start = time.perf_counter()
        runner.run(feeds)
        found.append((time.perf_counter() - start) * 1e3)
    return found


_RUNS = 4
"""A block of a race has as many runs, since the first one finds the caches full of the others' data."""
_PATIENCE = 0.3
"""Seconds after which a block ends even so."""


def _race(message: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, float]:
    """Time models on their feeds in alternating blocks; -1 marks what does not run.

    Each block opens its model anew and closes it: where weights and buffers happen to lie can double the time of a
    kernel for as long as a session lives, and sessions beside each other disturb each other. The median is over places
    too.

    Keys are the name and a newline for the model, with the name of an input behind it for a feed.
    """
    feeds: dict[str, dict[str, Array]] = {}
    for key, array in arrays.items():
        name, _, feed = key.partition("\n")
        feeds.setdefault(name, {})
        if feed:
            feeds[name][feed] = array
    blocks: dict[str, list[float]] = {name: [] for name in feeds}
    for number in range(message["rounds"]):
        for name in list(blocks) if number % 2 == 0 else list(reversed(blocks)):
            try:
                blocks[name].append(_block(arrays[f"{name}\n"], feeds[name], message))
            except CannotRun:
                del blocks[name]
    return {name: float(np.median(blocks[name])) if name in blocks else -1.0 for name in feeds}


def _block(data: Array, feeds: Mapping[str, Array], message: Mapping[str, Any]) -> float:
    runner = _open_bytes(data, message)
    warm = min(_time(runner, feeds, 3, _PATIENCE))
    time.sleep(0.002)
    seconds = max(message["seconds"], min(_PATIENCE, _RUNS * warm / 1e3))
    return float(np.median(_time(runner, feeds, 500, seconds)))


def _open_bytes(data: Array, message: Mapping[str, Any]) -> Runner:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data.tobytes())
        return open_runner(path, message["target"], RuntimeOptions.from_json(message["options"]))


def _plain(array: Array) -> Array:
    if array.dtype != np.object_:
        return array
    if all(isinstance(item, str) for item in array.reshape(-1)):
        return array.astype(np.str_)
    raise CannotRun("an output is a sequence; only tensors can be handed over")


def peak_resident() -> int:
    """Return the largest resident size of this program.

    ``ru_maxrss`` would count what the parent had at the time of the fork, which outlives exec.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(answer: Answer) -> None:
    """Answer the parent's messages until it closes the pipe: the child's side of :class:`Child`."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            message, feeds = _receive(source)
        except EOFError:
            return
        try:
            said, arrays = answer(message, feeds)
        except (CannotRun, WhetError, OSError, ValueError, MemoryError) as error:
            said, arrays = {"error": str(error) or type(error).__name__}, {}
        try:
            _send(sink, said, arrays)
        except BrokenPipeError:  # the parent gave up; leave without flushing what it will not read
            os._exit(1)


if __name__ == "__main__":
    serve(_Server().answer)
