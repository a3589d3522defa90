import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commandline import Run

import whet as package

QUICK = ("--recipe", "exact", "--no-measure")


def test_compile_writes_an_artifact_and_says_how_to_run_it(
    whet: Run, model: Path, tmp_path: Path
) -> None:
    result = whet("compile", model, "-o", tmp_path / "out", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert "fold-double-transpose" in result.stdout
    assert "bytes on disk" in result.stdout
    assert f"whet.load('{tmp_path / 'out'}').run({{'x': …}})" in result.stdout
    assert max(map(len, result.stdout.splitlines()[:-4])) <= 100  # behind it are paths
    artifact = package.load(tmp_path / "out")
    assert artifact.run({"x": np.ones((3, 8), np.float32)})[0].shape == (3, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "out"]


def test_json_is_the_report_and_nothing_else(whet: Run, model: Path, tmp_path: Path) -> None:
    result = whet("compile", model, "-o", tmp_path / "out", *QUICK, "--json")
    data = json.loads(result.stdout)
    assert data["folder"] == str(tmp_path / "out")
    assert {step["name"] for step in data["steps"] if step["coverage"]["changed"]} >= {
        "eliminate-identity",
        "fold-double-transpose",
    }
    assert data["after"]["ops"] < data["before"]["ops"]


def test_measuring_fills_the_latency_row(whet: Run, model: Path, tmp_path: Path) -> None:
    result = whet(
        "compile", model, "-o", tmp_path / "out", "--recipe", "exact", "--bind", "batch=4"
    )
    assert result.exit_code == 0, result.stderr
    assert "latency, median (quartiles)" in result.stdout


def test_a_missed_budget_exits_3_with_the_artifact_written(
    whet: Run, model: Path, tmp_path: Path
) -> None:
    result = whet("compile", model, "-o", tmp_path / "out", *QUICK, "--size", "100")
    assert result.exit_code == 3
    assert "the budget 100" in result.stderr
    assert "bytes on disk" in result.stdout
    assert (tmp_path / "out" / "whet.json").is_file()


def test_labels_and_evaluate_make_the_metric_row(
    whet: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    samples = rng.standard_normal((12, 8)).astype(np.float32)
    np.savez(tmp_path / "labels.npz", x=samples, labels=rng.integers(0, 4, 12))
    arguments = ("compile", model, "-o", tmp_path / "out", *QUICK)
    result = whet(*arguments, "--labels", tmp_path / "labels.npz", "--drop", "1%")
    assert result.exit_code == 0, result.stderr
    assert "metric" in result.stdout
    (tmp_path / "my_metric.py").write_text("def score(runner):\n    return len(runner.outputs)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    result = whet(*arguments, "--evaluate", "my_metric:score")
    assert "1.0000" in result.stdout, result.stderr


def test_an_older_artifact_is_replaced(whet: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "out"
    assert whet("compile", model, "-o", out, *QUICK).exit_code == 0
    (out / "left over").touch()
    assert whet("compile", model, "-o", out, *QUICK, "--seed", "5").exit_code == 0
    assert not (out / "left over").exists()
    assert json.loads((out / "whet.json").read_text())["seed"] == 5


def test_a_noop_pass_is_an_error_unless_allowed(whet: Run, model: Path, tmp_path: Path) -> None:
    arguments = ("compile", model, "-o", tmp_path / "out", "--no-measure", "--recipe", "fold-pad")
    result = whet(*arguments)
    assert result.exit_code == 2
    assert "pass 'fold-pad' changed nothing" in result.stderr
    assert not (tmp_path / "out").exists()
    assert whet(*arguments, "--allow-noop").exit_code == 0


def test_interrupting_leaves_nothing(
    whet: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        assert any(p.name.startswith(".whet-") for p in tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr("whet.job.Job._transform", interrupt)
    result = whet("compile", model, "-o", tmp_path / "out", *QUICK)
    assert result.exit_code == 130
    assert result.stderr == "error: interrupted; nothing was written\n"
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_two_processes_write_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": str(number),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        command = [sys.executable, "-m", "whet", "compile", model, "-o", tmp_path / f"{number}"]
        subprocess.run(
            [*command, *QUICK], env=environment, check=True, capture_output=True, timeout=120
        )
    for name in ("model.onnx", "whet.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_torch_factory_compiles(
    whet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="capturing a module needs torch")
    (tmp_path / "tiny_factory.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())\n"
        "    return net.eval(), (torch.zeros(2, 4),)\n"
    )
    monkeypatch.chdir(tmp_path)
    result = whet("compile", "tiny_factory:make", "-o", "out", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "factory tiny_factory:make" in result.stdout
    manifest = json.loads(Path("out/whet.json").read_text())
    assert manifest["source"]["origin"] == "tiny_factory:make"


def test_a_budget_with_calibration_data_starts_a_search(
    whet: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    x = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    np.savez(tmp_path / "c.npz", x=x)
    result = whet(
        "compile",
        model,
        "-o",
        tmp_path / "out",
        "--calibration",
        tmp_path / "c.npz",
        "--candidates",
        "quantize-static{prefer=size},quantize-static{prefer=size,weight_bits=4,ends=same}",
        "--size",
        "5KB",
        "--no-measure",
    )
    assert result.exit_code == 0, result.stderr
    assert "Plan, the dearest decisions first" in result.stdout
    assert max(map(len, result.stdout.splitlines()[:-4])) <= 100  # behind it are paths
    record = json.loads((tmp_path / "out" / "report.json").read_text())["search"]
    assert len(record["decisions"]) == 2
    assert record["best"]["measured"]["bytes"] <= 5000


@pytest.mark.parametrize(("option", "value"), [("--minimize", "speed"), ("--loss", "accuracy")])
def test_words_of_the_search_are_checked(
    whet: Run, model: Path, tmp_path: Path, option: str, value: str
) -> None:
    result = whet("compile", model, "-o", tmp_path / "out", option, value)
    assert result.exit_code == 2
    assert f"is '{value}', expected one of" in result.stderr
