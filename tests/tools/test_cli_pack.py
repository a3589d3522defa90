"""``whet pack``: one file and back."""

import json
from pathlib import Path

import pytest
from commandline import Run


@pytest.fixture
def out(whet: Run, model: Path, tmp_path: Path) -> Path:
    """Return a compiled artifact."""
    folder = tmp_path / "out"
    made = whet("compile", model, "-o", folder, "--no-measure", "--no-page")
    assert made.exit_code == 0, made.output
    return folder


def test_an_artifact_is_packed_and_unpacked(whet: Run, out: Path, tmp_path: Path) -> None:
    done = whet("pack", out, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["file"] == str(tmp_path / "out.whet")
    assert record["packed"] == (tmp_path / "out.whet").stat().st_size
    assert record["files"]["model.onnx"]["bytes"] == (out / "model.onnx").stat().st_size
    assert "model.onnx" in whet("pack", out).stdout
    done = whet("pack", tmp_path / "out.whet", "-o", tmp_path / "again")
    assert done.exit_code == 0, done.output
    one, two = (folder / "model.onnx" for folder in (out, tmp_path / "again"))
    assert one.read_bytes() == two.read_bytes()


def test_what_is_wrong_is_said(whet: Run, out: Path, tmp_path: Path) -> None:
    for words, why in (
        ((out, "-o", tmp_path / "net.zip"), "the packed artifact is 'net.zip'"),
        ((tmp_path / "nothing",), "is not an artifact"),
        ((out / "model.onnx",), "say where to with -o DIR"),
        ((out / "model.onnx", "-o", tmp_path / "x"), "is not an artifact"),
    ):
        done = whet("pack", *words)
        assert done.exit_code == 2, done.output
        assert why in " ".join(done.stderr.split())
