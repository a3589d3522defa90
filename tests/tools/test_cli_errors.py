"""Every mistake a user can make: one line, the right exit code, and nothing left behind."""

import errno
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from commandline import Run, make_model
from onnx.external_data_helper import convert_model_to_external_data

QUICK = ("--recipe", "exact", "--no-measure")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that must look the same after the test as when ``check`` was called."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def fails(
    whet: Run, place: Path, *arguments: object, code: int, says: str, output: object = None
) -> str:
    """Run a compile that must fail: its code, one line that says why, the folder untouched."""
    before = sorted(place.rglob("*"))
    out = place / "new" / "out" if output is None else output
    recipe = () if "--recipe" in arguments else QUICK
    result = whet("compile", *arguments, *recipe, "-o", out)
    assert result.exit_code == code, result.output
    first, *notes = result.stderr.splitlines()
    assert first.startswith("error: "), result.stderr
    assert says in first
    assert all(note.startswith("  ") for note in notes)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert sorted(place.rglob("*")) == before
    return first


def save_external(folder: Path, location: str = "net.data") -> Path:
    model = make_model()
    convert_model_to_external_data(model, location="net.data", size_threshold=0)
    path = folder / "net.onnx"
    onnx.save(model, path)
    if location != "net.data":
        raw = onnx.load(path, load_external_data=False)
        for tensor in raw.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        path.write_bytes(raw.SerializeToString())
    return path


def test_missing_file(whet: Run, place: Path) -> None:
    fails(whet, place, place / "no.onnx", code=2, says="no such file")


def test_directory(whet: Run, place: Path) -> None:
    fails(whet, place, place, code=2, says="is a folder")


def test_not_a_model(whet: Run, place: Path) -> None:
    path = place / "notes.onnx"
    path.write_text("This is not a model.\n")
    fails(whet, place, path, code=4, says="not an ONNX model")


def test_empty_file(whet: Run, place: Path) -> None:
    path = place / "empty.onnx"
    path.touch()
    fails(whet, place, path, code=4, says="is empty")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_protobuf(whet: Run, place: Path, model: Path, share: float) -> None:
    data = model.read_bytes()
    path = place / "cut.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    fails(whet, place, path, code=4, says="truncated")


def test_missing_external_data(whet: Run, place: Path) -> None:
    path = save_external(place)
    (place / "net.data").unlink()
    fails(whet, place, path, code=4, says="net.data")


def test_external_data_outside_the_folder(whet: Run, place: Path) -> None:
    path = save_external(place, "../secret.data")
    (place.parent / "secret.data").write_bytes(b"\0" * 4096)
    fails(whet, place, path, code=4, says="../secret.data")


def test_pickle(whet: Run, place: Path) -> None:
    path = place / "weights.onnx"
    path.write_bytes(pickle.dumps({"weight": [1.0, 2.0]}))
    fails(whet, place, path, code=4, says="pickle")


def test_factory_that_is_not_there(whet: Run, place: Path) -> None:
    fails(whet, place, "no_such_package:make", code=2, says="no_such_package")


def test_unknown_option(whet: Run, place: Path, model: Path) -> None:
    fails(whet, place, model, "--recip", "exact", code=2, says="--recipe")


def test_unknown_command(whet: Run) -> None:
    result = whet("compil", "x")
    assert result.exit_code == 2
    assert "'compile'" in result.stderr


def test_missing_argument(whet: Run) -> None:
    result = whet("compile", "x.onnx")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: missing option '-o' / '--output'")


def test_unknown_pass(whet: Run, place: Path, model: Path) -> None:
    arguments = (model, "--recipe", "eliminate-identety")
    fails(whet, place, *arguments, code=2, says="did you mean 'eliminate-identity'?")


def test_unknown_option_of_a_pass(whet: Run, place: Path, model: Path) -> None:
    arguments = (model, "--recipe", "fold-constants{limt=3}")
    fails(whet, place, *arguments, code=2, says="did you mean 'limit'?")


def test_wrong_value_of_an_option_of_a_pass(whet: Run, place: Path, model: Path) -> None:
    arguments = (model, "--recipe", "fold-constants{limit=many}")
    fails(whet, place, *arguments, code=2, says="is 'many', expected an integer")


def test_unknown_target(whet: Run, place: Path, model: Path) -> None:
    arguments = (model, "--target", "onnxrumtime")
    fails(whet, place, *arguments, code=4, says="unknown target 'onnxrumtime'")


def test_unknown_key_in_a_recipe_file(whet: Run, place: Path, model: Path) -> None:
    recipe = place / "mine.toml"
    recipe.write_text('bas = "exact"\n')
    fails(whet, place, model, "--recipe", recipe, code=2, says="did you mean 'base'?")


def test_missing_recipe_file(whet: Run, place: Path, model: Path) -> None:
    arguments = (model, "--recipe", place / "no.toml")
    fails(whet, place, *arguments, code=2, says="cannot read the recipe")


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--size", "4 parsecs", "size is '4 parsecs'"),
        ("--drop", "much", "drop is 'much'"),
        ("--latency", "3 apples", "latency is '3 apples'"),
        ("--drop", "1%", "needs a metric"),
        ("--latency", "3ms", "needs timing"),
        ("--bind", "batch", "expected NAME=N"),
        ("--bind", "batch=0", "expected NAME=N"),
        ("--bind", "bacth=3", "did you mean 'batch'?"),
        ("--evaluate", "metric", "expected pkg.mod:fn"),
        ("--evaluate", "no_such_package:f", "no_such_package"),
        ("--threads", "-1", "--threads"),
    ],
)
def test_wrong_values(
    whet: Run, place: Path, model: Path, option: str, value: str, says: str
) -> None:
    fails(whet, place, model, option, value, code=2, says=says)


GOOD = np.zeros((4, 8), np.float32)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((4, 7), np.float32)}, "shape (4, 7) of 'x' does not match ['batch', 8]"),
        ({"x": np.zeros((4, 8), np.float64)}, "dtype float64 of 'x' does not match float32"),
        ({"z": GOOD}, "missing ['x']"),
        ({"x": GOOD, "z": GOOD}, "unknown ['z']"),
        ({"x": np.full((4, 8), np.nan, np.float32)}, "must be finite"),
        ({"x": np.zeros((0, 8), np.float32)}, "holds no samples"),
    ],
)
def test_wrong_calibration_data(
    whet: Run, place: Path, model: Path, arrays: dict[str, np.ndarray], says: str
) -> None:
    np.savez(place / "data.npz", **arrays)
    arguments = (model, "--calibration", place / "data.npz")
    fails(whet, place, *arguments, code=2, says=says)


def test_missing_calibration_file(whet: Run, place: Path, model: Path) -> None:
    fails(whet, place, model, "--calibration", place / "no.npz", code=2, says="no file")


def test_calibration_file_with_pickled_objects(whet: Run, place: Path, model: Path) -> None:
    np.savez(place / "data.npz", x=np.asarray([{"a": 1}], dtype=object))
    arguments = (model, "--calibration", place / "data.npz")
    fails(whet, place, *arguments, code=2, says="cannot be read as .npz")


def test_output_below_a_file(whet: Run, place: Path, model: Path) -> None:
    (place / "file").touch()
    output = place / "file" / "out"
    fails(whet, place, model, code=2, says="is a file", output=output)


def test_output_is_a_file(whet: Run, place: Path, model: Path) -> None:
    output = place / "file"
    output.touch()
    fails(whet, place, model, code=2, says="is a file", output=output)


def test_output_holds_something_else(whet: Run, place: Path, model: Path) -> None:
    (place / "thesis.txt").write_text("years of work")
    says = "not empty and is no artifact"
    fails(whet, place, model, code=2, says=says, output=place)
    assert (place / "thesis.txt").read_text() == "years of work"


def test_unwritable_output(
    whet: Run, place: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whet.artifact.os.access", lambda *_: False)
    fails(whet, place, model, code=2, says="is not writable")


@pytest.mark.parametrize("place_of_failure", ["ir.saving.replace_all", "manifest.digest"])
def test_full_disk(
    whet: Run,
    place: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    place_of_failure: str,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"whet.{place_of_failure}", full)
    fails(whet, place, model, code=2, says="No space left on device")


def test_a_model_that_the_runtime_refuses(whet: Run, place: Path) -> None:
    proto = make_model()
    proto.graph.node[5].op_type = "Sharpen"
    proto.graph.node[5].domain = "com.example"
    proto.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    path = place / "custom.onnx"
    path.write_bytes(proto.SerializeToString())
    fails(whet, place, path, code=4, says="com.example.Sharpen")


def test_a_defect_is_one_line_and_debug_shows_the_traceback(
    whet: Run, place: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("the sky is falling")

    monkeypatch.setattr("whet.realizing.Realizer._lower", broken)
    fails(whet, place, model, code=1, says="ValueError: the sky is falling")
    result = whet("compile", model, "-o", place / "out", *QUICK, "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def test_notes_are_printed_below(
    whet: Run, place: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr("whet.passes.canonical.eliminate_identity.EliminateIdentity.apply", broken)
    before = sorted(place.rglob("*"))
    result = whet("compile", model, "-o", place / "out", *QUICK)
    assert result.exit_code == 1
    assert "\n  in pass 'eliminate-identity'" in result.stderr
    assert sorted(place.rglob("*")) == before
