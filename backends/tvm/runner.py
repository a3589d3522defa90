"""Run a TVM artifact in this process, through the loader that the artifact carries."""

import json
from collections.abc import Mapping
from pathlib import Path

from whet.backends.device import host
from whet.backends.triples import triple_of
from whet.backends.tvm.load import Model
from whet.ir.array import Array
from whet.ir.execute import CannotRun

__all__ = ["LibraryRunner"]


class LibraryRunner:
    """The model of one artifact."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Load it; raises CannotRun."""
        wanted, here = _triple(folder), triple_of(host())
        if wanted and wanted != here:
            raise CannotRun(f"the library is made for {wanted}, this machine is {here}")
        try:
            self._model = Model(folder, threads)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise CannotRun(f"'{folder}' holds no TVM artifact that runs here: {error}") from error
        self.inputs: tuple[str, ...] = tuple(row["name"] for row in self._model.inputs)
        self.outputs: tuple[str, ...] = tuple(row["name"] for row in self._model.outputs)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run once; raises CannotRun for inputs of other sizes or types."""
        try:
            return self._model.run(feeds)
        except (ValueError, RuntimeError) as error:
            raise CannotRun(str(error)) from error


def _triple(folder: Path) -> str:
    found: str = json.loads((folder / "model.json").read_text())["machine"]["triple"]
    return found
