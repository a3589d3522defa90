"""Every ``whet …`` line of the documentation is run as it stands, on a small model with data and labels."""

import importlib
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from mixing import network
from typer.testing import CliRunner

from whet.compiler import compile
from whet.tools.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BUDGET = {"--size", "--drop", "--latency"}
MODULE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(64, 48), torch.nn.Linear(48, 8)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))

def make():
    return Net().eval(), (torch.ones(2, 64),)

def fn(run):
    return 0.5
"""


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [text for language, text in found if language in languages]


def commands() -> list[str]:
    """Return each line once, without what it says behind a hash."""
    lines = (
        line.split("  #")[0].strip()
        for page in PAGES
        for block in blocks(page, "", "bash", "console")
        for line in block.splitlines()
        if line.startswith("whet ")
    )
    return list(dict.fromkeys(lines))


def test_the_lines_are_found() -> None:
    assert len(commands()) >= 18
    assert {
        "compile",
        "plan",
        "inspect",
        "bench",
        "diff",
        "bisect",
        "report",
        "doctor",
        "passes",
    } == {shlex.split(line)[1] for line in commands()}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder that has all that the documentation speaks of."""
    folder = tmp_path_factory.mktemp("documented")
    rng = np.random.default_rng(0)
    onnx.save(onnx_ir.to_proto(network()), folder / "model.onnx")
    x = rng.standard_normal((64, 64)).astype(np.float32)
    np.savez(folder / "c.npz", x=x)
    np.savez(folder / "v.npz", x=x, labels=rng.integers(0, 8, 64))
    for package, name in (("mypkg", "models"), ("pkg", "mod")):
        (folder / package).mkdir()
        (folder / package / f"{name}.py").write_text(MODULE)
    compile(
        folder / "model.onnx", recipe="exact", allow_noop=True, measure=False, output=folder / "out"
    )
    return folder


@pytest.fixture
def place(everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a copy of that folder; prices are kept from one command to the next."""
    shutil.copytree(everything, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("WHET_CACHE", str(everything / "cache"))
    return tmp_path


def quick(line: str) -> list[str]:
    """Return the arguments, with as little timing and searching as can be."""
    arguments = shlex.split(line)[1:]
    if arguments[0] != "compile":
        return arguments
    more = ["--search-minutes", "0.02"] if BUDGET & set(arguments) else ["--no-measure"]
    return [*arguments, "--allow-noop", *more]


@pytest.mark.parametrize("line", commands())
def test_a_line_runs(place: Path, line: str) -> None:
    if ":make" in line:
        pytest.importorskip("torch")
    arguments = quick(line)
    found = CliRunner().invoke(app, arguments)
    allowed = {0, 3} if BUDGET & set(arguments) else {0}
    assert found.exit_code in allowed, found.output[-2000:]
    if arguments[0] == "compile":
        assert (place / "out" / "model.onnx").is_file()


def test_the_python_of_the_readme_runs(place: Path) -> None:
    torch = pytest.importorskip("torch")
    (block,) = blocks(ROOT / "README.md", "python")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((32, 64)).astype(np.float32)
    names = {
        "module": importlib.import_module("mypkg.models").make()[0],
        "example": torch.ones(2, 64),
        "images": images,
        "image": images[:1],
    }
    exec(block, names)
    assert names["scores"].shape == (1, 8)
