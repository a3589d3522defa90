"""What a compile leaves behind: a folder that any process can load and run."""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.backends.base import Runner, RuntimeOptions, open_runner
from whet.errors import InvalidModel, UsageError
from whet.feeds import read_feeds
from whet.ir.execute import CannotRun
from whet.ir.values import Array
from whet.packing import SUFFIX, unpack
from whet.page import add_page
from whet.report import Report

__all__ = ["Artifact", "check_destination", "digest", "load", "replace_folder"]


@dataclasses.dataclass
class Artifact:
    """A compiled model in a folder: ``model.onnx`` (and its data), ``whet.json``, ``report.json`` and its page."""

    folder: Path
    manifest: Mapping[str, Any]
    report: Report | None = None
    _runner: Runner | None = dataclasses.field(default=None, repr=False)

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Return name, type and shape of each input."""
        return list(self.manifest["inputs"])

    def run(self, *feeds: object, **named: object) -> list[Array]:
        """Run on a dict of arrays, on arrays in the order of the inputs, or by keyword; return a list of arrays.

        Torch tensors are taken as they are, ``run(ids, mask)``, ``run(x=image)`` and ``run(tokenizer(…))`` work.

        Raises:
            UsageError: an input is missing, unknown, or of another type or rank than the model's.
        """
        if self._runner is None:
            try:
                self._runner = open_runner(self.folder, "", RuntimeOptions())
            except CannotRun as error:
                raise UsageError(f"'{self.folder}' cannot be run here: {error}") from error
        given = read_feeds(feeds, named, [i["name"] for i in self.inputs])
        self._check(given)
        try:
            return self._runner.run(given)
        except CannotRun as error:
            raise UsageError(f"the model does not run on these inputs: {error}") from error

    def save(self, folder: str | Path) -> "Artifact":
        """Copy the artifact to ``folder``, which is replaced whole or not at all; return the copy."""
        target = Path(folder)
        with tempfile.TemporaryDirectory(dir=check_destination(target), prefix=".whet-") as staging:
            copy = Path(staging) / "artifact"
            try:
                shutil.copytree(self.folder, copy)
            except OSError as error:
                raise UsageError(f"cannot write '{target}': {error.strerror}") from error
            if self.report is not None and not (copy / "report.html").exists():
                add_page(copy, self.report)
            replace_folder(copy, target)
        return Artifact(target, self.manifest, self.report)

    def _repr_html_(self) -> str:
        """Show the page of the report in a notebook."""
        from whet.tools.report.notebook import in_frame
        from whet.tools.report.render import read_report

        return in_frame(read_report(self.folder))

    def _check(self, given: Mapping[str, Array]) -> None:
        known = {i["name"]: i for i in self.inputs}
        missing = [n for n, i in known.items() if n not in given and not i.get("optional")]
        unknown = [n for n in given if n not in known]
        if missing or unknown:
            raise UsageError(
                f"inputs {sorted(given)} do not match the model's {list(known)}"
                + (f"; missing {missing}" if missing else "")
                + (f"; unknown {unknown}" if unknown else "")
            )
        for name, array in given.items():
            if str(array.dtype) != known[name]["dtype"] and known[name]["dtype"] != "string":
                raise UsageError(
                    f"dtype {array.dtype} of '{name}' does not match {known[name]['dtype']} of the model"
                )


def load(folder: str | Path, *, verify: bool = True) -> Artifact:
    """Open an artifact, a folder or packed into a file; ``verify`` compares every file with its recorded digest.

    A packed one is decoded into a temporary folder, which goes with the object.

    Raises:
        UsageError: not an artifact.
        InvalidModel: a file is missing or is not the one that was written.
    """
    path = Path(folder)
    if path.is_file() and path.suffix == SUFFIX:
        return _load_packed(path, verify=verify)
    manifest = path / "whet.json"
    if not manifest.is_file():
        raise UsageError(f"'{path}' is not an artifact: it has no whet.json")
    try:
        data = json.loads(manifest.read_text())
        files: Mapping[str, Mapping[str, Any]] = data["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidModel(f"'{manifest}' is not a whet manifest: {error}") from error
    for name, entry in files.items():
        part = path / name
        if Path(name).name != name or not part.is_file():
            raise InvalidModel(f"'{path}' lacks its file '{name}'")
        if verify and digest(part) != entry["sha256"]:
            raise InvalidModel(f"'{part}' is not the file that was written: its digest differs")
    return Artifact(path, data)


def _load_packed(path: Path, *, verify: bool) -> Artifact:
    keep = tempfile.TemporaryDirectory(prefix=".whet-")
    try:
        unpack(path, Path(keep.name))
        artifact = load(keep.name, verify=verify)
    except BaseException:
        keep.cleanup()
        raise
    weakref.finalize(artifact, keep.cleanup)
    return artifact


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def replace_folder(source: Path, target: Path) -> None:
    """Move a finished folder to ``target``; an older artifact there is replaced, anything else is refused."""
    if target.exists():
        _check_replaceable(target)
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            source.rename(target)
            return
        aside = source.parent / "replaced"
        target.rename(aside)
        source.rename(target)
    except OSError as error:
        raise UsageError(f"cannot write '{target}': {os.strerror(error.errno or 0)}") from error


def _check_replaceable(target: Path) -> None:
    if not target.is_dir():
        raise UsageError(f"cannot write '{target}': it is a file, expected a folder")
    if any(target.iterdir()) and not (target / "whet.json").is_file():
        raise UsageError(f"cannot write '{target}': the folder is not empty and is no artifact")


def check_destination(target: Path) -> Path:
    """Return the nearest folder above ``target`` that exists; refuse early what could not be written at the end.

    Nothing is made yet: a compile that fails leaves no trace.
    """
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise UsageError(f"cannot write '{target}': '{parent}' is a file, expected a folder")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"cannot write '{target}': '{parent}' is not writable")
    if target.exists():
        _check_replaceable(target)
    return parent
