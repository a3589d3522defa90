"""The shell completes commands, options and the names of passes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"


def ask(words: str, shell: str = "bash") -> str:
    """Return what the shell would be offered for the last of ``words``."""
    mode = {"bash": "complete_bash", "zsh": "complete_zsh"}[shell]
    environment = {
        **os.environ,
        "PYTHONPATH": str(SOURCE),
        "_WHET_COMPLETE": mode,
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "_TYPER_COMPLETE_ARGS": words,
    }
    found = subprocess.run(
        [sys.executable, "-m", "whet"], env=environment, capture_output=True, text=True, check=False
    )
    return found.stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("whet comp", "compile"),
        ("whet compile --cal", "--calibration"),
        ("whet passes fold-batch", "fold-batch-norm"),
        ("whet compile m.onnx --target ref", "reference"),
    ],
)
def test_the_shell_is_offered(words: str, offered: str) -> None:
    assert offered in ask(words).split()


def test_scripts_for_shells() -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "_WHET_COMPLETE": "source_bash"}
    found = subprocess.run(
        [sys.executable, "-m", "whet"], env=environment, capture_output=True, text=True, check=False
    )
    assert "complete -o" in found.stdout
    assert "_WHET_COMPLETE" in found.stdout
