"""The command line on artifacts whose model is in ONNX Runtime's own format."""

import json
from pathlib import Path

from commandline import Run


def test_tools_take_such_an_artifact(whet: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = whet(
        "compile", model, "-o", out, "--target", "ort-mobile", "--recipe", "exact", "--no-measure"
    )
    assert made.exit_code == 0, made.output
    bench = whet("bench", model, out, "--rounds", "1", "--json")
    assert bench.exit_code == 0, bench.output
    rows = json.loads(bench.stdout)["models"]
    assert rows[1]["bytes"] == (out / "model.ort").stat().st_size
    assert whet("diff", model, out).exit_code == 0
    assert whet("inspect", out / "model.onnx").exit_code == 0
