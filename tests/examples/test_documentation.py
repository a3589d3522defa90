"""Every ``whet …`` line and every Python block of the documentation is run as it stands, on a small model with data."""

import importlib
import re
import shlex
import shutil
import tomllib
from builtins import compile as compile_text
from pathlib import Path

import cross
import numpy as np
import onnx
import onnx_ir
import pytest
from folding import build
from mixing import network
from typer.testing import CliRunner

from whet.compiler import compile
from whet.passes.recipes import read_recipe
from whet.tools.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
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
WRITTEN = {
    "README.md": "mynet.py",
    "docs/tutorial.md": "net.py",
    "docs/howto/own_pass.md": "mypasses.py",
}
"""Pages whose first Python block is a file, as they say."""


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
        "pack",
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
    for page, name in WRITTEN.items():
        (folder / name).write_text(blocks(ROOT / page, "python")[0])
    squares = "(float[N,8] x, float t) => (float[N,8] y) { a = Pow(x, t) y = Add(a, x) }"
    model = build(squares, {"t": np.asarray(2.0, np.float32)})
    onnx.save(onnx_ir.to_proto(model), folder / "squares.onnx")
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
    if "--tune" in arguments:
        more = ["--tune", "1s"]
    return [*arguments, "--allow-noop", *more]


@pytest.mark.parametrize("line", commands())
def test_a_line_runs(place: Path, line: str) -> None:
    if ":make" in line:  # a module
        pytest.importorskip("torch")
    if "--target tvm" in line:
        pytest.importorskip("tvm")
        if {"--triple", "--device"} & set(line.split()):
            cross.compiler()
    arguments = quick(line)
    found = CliRunner().invoke(app, arguments)
    allowed = {0, 3} if BUDGET & set(arguments) else {0}
    assert found.exit_code in allowed, found.output[-2000:]
    if arguments[0] == "compile":
        assert (place / "out" / "model.onnx").is_file()


def python_pages() -> list[Path]:
    return [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", python_pages(), ids=lambda page: page.name)
def test_the_python_of_a_page_runs(place: Path, page: Path) -> None:
    torch = pytest.importorskip("torch")
    if page.name == "target_tvm.md":
        pytest.importorskip("tvm")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((32, 64)).astype(np.float32)
    names = {
        "__name__": "documented",
        "module": importlib.import_module("mypkg.models").make()[0],
        "example": torch.ones(2, 64),
        "images": images,
        "labels": rng.integers(0, 8, 32),
        "image": images[:1],
    }
    for block in blocks(page, "python"):
        exec(compile_text(block, str(page), "exec", dont_inherit=True), names)
    if "scores" in names:
        assert names["scores"].shape[1] == 8
    if "accuracy" in names:
        right = names["accuracy"](Runner(), part="search")
        assert right.shape == (16,)


class Runner:
    """A loaded model that knows its inputs by heart."""

    def run(self, feeds):
        return [feeds["x"][:, :8]]


def test_toml_of_the_documentation_is_read(tmp_path: Path) -> None:
    recipes = 0
    for page in PAGES:
        for block in blocks(page, "toml"):
            data = tomllib.loads(block)
            if "pass" in data:
                path = tmp_path / "recipe.toml"
                path.write_text(block)
                read_recipe(path)
                recipes += 1
    assert recipes
