import json
from pathlib import Path

import numpy as np
import pytest
from commandline import Run


def test_plan_says_what_would_happen_and_writes_nothing(
    whet: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = whet("plan", model, "--recipe", "exact")
    assert result.exit_code == 0, result.stderr
    assert "fold-double-transpose" in result.stdout
    assert "dynamic dimensions batch; proofs run at batch=2; batch=3" in result.stdout
    assert "peak memory of the compile, about" in result.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_plan_predicts_the_bytes_that_compile_writes(
    whet: Run, model: Path, tmp_path: Path
) -> None:
    plan = json.loads(whet("plan", model, "--recipe", "exact", "--json").stdout)
    whet("compile", model, "-o", tmp_path / "out", "--recipe", "exact", "--no-measure")
    assert plan["after"]["bytes"] == (tmp_path / "out" / "model.onnx").stat().st_size
    steps = {step["name"]: step for step in plan["steps"]}
    assert steps["eliminate-identity"]["changed"] == 1
    assert steps["fold-batch-norm"]["changed"] == 0


def test_plan_names_the_pass_that_would_stop_the_compile(whet: Run, model: Path) -> None:
    result = whet("plan", model, "--recipe", "fold-pad")
    assert result.exit_code == 0
    assert "would stop fold-pad: would change nothing, which is an error" in result.stdout


def test_plan_says_when_the_size_is_out_of_reach(whet: Run, model: Path) -> None:
    result = whet("plan", model, "--recipe", "exact", "--size", "100")
    assert result.exit_code == 0
    assert "the budget 100" in result.stdout


def test_plan_refuses_what_compile_refuses(whet: Run, model: Path) -> None:
    result = whet("plan", model, "--recipe", "exact", "--bind", "bacth=3")
    assert result.exit_code == 2
    assert "did you mean 'batch'?" in result.stderr


def test_a_limit_on_memory_is_honoured_or_refused(whet: Run, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((20, 8), np.float32))
    arguments = ("--recipe", "quantize-static", "--calibration", tmp_path / "data.npz")
    for command in (("plan", model), ("compile", model, "-o", tmp_path / "out")):
        result = whet(*command, *arguments, "--max-ram", "lots")
        assert result.exit_code == 2
        assert "max_ram is 'lots', expected something like 2GB or 500MiB" in result.stderr
    assert whet("plan", model, *arguments, "--max-ram", "40GB").exit_code == 0
    refused = whet("plan", model, *arguments, "--max-ram", "1MB")
    assert refused.exit_code != 0
    assert "the limit (max_ram) is 1 MB" in " ".join(refused.stderr.split())
