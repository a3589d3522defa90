"""A small model with something to do for the exact passes, and the command line run in this process."""

from pathlib import Path

import onnx
import pytest
from commandline import Run, make_model
from typer.testing import CliRunner, Result

from whet.tools.cli import app


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("WHET_DEBUG", raising=False)


@pytest.fixture
def whet() -> Run:
    """Run ``whet ARGS`` in this process."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the path of the small model."""
    path = tmp_path / "net.onnx"
    onnx.save(make_model(), path)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Return the path of the same model with other weights in its last layer."""
    path = tmp_path / "other.onnx"
    onnx.save(make_model(scale=1.5), path)
    return path
