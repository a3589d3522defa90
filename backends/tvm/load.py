"""Load and run a model that was compiled with TVM: needs NumPy and TVM's runtime, nothing else.

``python load.py FOLDER inputs.npz outputs.npz`` runs it once; without inputs it runs on the stored ones and compares.
"""

import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Model"]


class Model:
    """A compiled model of fixed sizes."""

    def __init__(self, folder: str | Path, threads: int = 0) -> None:
        """Load the library and its weights; ``threads`` is taken when the first model is loaded, 0 leaves it to TVM."""
        if threads:
            os.environ.setdefault("TVM_NUM_THREADS", str(threads))
        # Without it TVM imports torch, where there is one, and compiles an extension for it.
        os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")
        tvm: Any = importlib.import_module("tvm")
        relax: Any = importlib.import_module("tvm.relax")

        folder = Path(folder)
        described: dict[str, Any] = json.loads((folder / "model.json").read_text())
        self.inputs: list[dict[str, Any]] = described["inputs"]
        self.outputs: list[dict[str, Any]] = described["outputs"]
        self.limit: float = described["limit"]
        self._tensor: Any = tvm.runtime.tensor
        library = tvm.runtime.load_module(str(folder / "model.so"))
        self._machine: Any = relax.VirtualMachine(library, tvm.cpu())
        with np.load(folder / "model.npz", allow_pickle=False) as stored:
            self._weights = [self._tensor(stored[name]) for name in stored.files]
        # Memory of its own for each input: new memory, page by page, takes longer than the copy.
        self._kept = [self._tensor(np.zeros(r["shape"], r["dtype"])) for r in self.inputs]
        self._run: Any = self._machine["main"]

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Return the outputs as arrays; raises ValueError for inputs of other sizes or types."""
        given = [
            self._given(row, kept, feeds) for row, kept in zip(self.inputs, self._kept, strict=True)
        ]
        found = self._run(*given, *self._weights)
        return [item.numpy() for item in found]

    def _given(self, row: Mapping[str, Any], kept: Any, feeds: Mapping[str, Any]) -> Any:
        name = row["name"]
        if name not in feeds:
            raise ValueError(f"input '{name}' is missing")
        array = np.asarray(feeds[name])
        if list(array.shape) != row["shape"] or array.dtype.name != row["dtype"]:
            raise ValueError(
                f"input '{name}' is {array.dtype.name} {list(array.shape)}, "
                f"compiled for {row['dtype']} {row['shape']}"
            )
        kept.copyfrom(np.ascontiguousarray(array).reshape(array.shape))
        return kept


def check(folder: Path) -> int:
    """Run the stored inputs, print the relative error of each output; 1 if one is too large."""
    model = Model(folder)
    with np.load(folder / "check.npz", allow_pickle=False) as stored:
        found = model.run({row["name"]: stored[f"x{k}"] for k, row in enumerate(model.inputs)})
        expected = [stored[f"y{k}"] for k in range(len(model.outputs))]
    wrong = False
    for row, got, want in zip(model.outputs, found, expected, strict=True):
        scale = float(np.sqrt(np.mean(np.square(want, dtype=np.float64)))) or 1.0
        error = float(np.max(np.abs(got.astype(np.float64) - want.astype(np.float64)))) / scale
        print(f"{row['name']}: {list(got.shape)} {got.dtype}, relative error {error:.1e}")
        wrong |= not error <= model.limit
    return int(wrong)


def main(arguments: list[str]) -> int:
    """Run the command."""
    folder = Path(arguments[0]) if arguments else Path(__file__).parent
    if len(arguments) < 3:
        return check(folder)
    model = Model(folder)
    with np.load(arguments[1], allow_pickle=False) as given:
        found = model.run({name: given[name] for name in given.files})
    np.savez(arguments[2], **{row["name"]: y for row, y in zip(model.outputs, found, strict=True)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
