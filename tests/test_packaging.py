"""What is imported under which name, and what the core does without."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from whet.errors import WhetError
from whet.tools.release.check_wheel import FOLDERS, BrokenBuild, compare, tree_files

ROOT = Path(__file__).resolve().parents[1]

_EVERYTHING = """
import importlib, sys
failed = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "whet":
            raise
        failed.append(f"{name}: {error}")
bare = sorted({"ir", "passes", "analysis", "solve", "backends", "tools"} & {n.partition(".")[0] for n in sys.modules})
assert not bare, bare
assert len(failed) < len(sys.argv) / 10, failed
"""
_LIGHT = """
import sys, whet
heavy = ["torch", "onnxscript.rewriter", "typer", "rich", "onnx", "onnx_ir", "onnxruntime", "numpy"]
assert not [name for name in heavy if name in sys.modules], [n for n in heavy if n in sys.modules]
"""
_WITHOUT_TORCH = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return None

sys.meta_path.insert(0, Blocker())
import numpy as np
import onnx.parser
import whet
from whet.passes.registry import all_passes

model = onnx.parser.parse_model('''
<ir_version: 10, opset_import: ["" : 20]>
tiny (float[N, 2] x) => (float[N, 2] y)
<float[2, 2] w = {1.0, 2.0, 3.0, 4.0}>
{
    kept = Identity (x)
    turned = Transpose (w)
    y = MatMul (kept, turned)
}''')
assert len(all_passes()) > 20
artifact = whet.compile(model, recipe="exact", measure=False, output=sys.argv[1])
assert artifact.report.before.ops == 3 and artifact.report.after.ops == 1
(found,) = artifact.run(np.asarray([[1.0, 10.0]], np.float32))
assert found.tolist() == [[21.0, 43.0]], found
assert "torch" not in sys.modules
"""
_WORKER = """
import sys
import whet.backends.worker
from whet.backends.base import find_target
find_target("onnxruntime")
slow = [name for name in ("onnx", "onnx_ir", "sympy", "scipy", "torch", "rich") if name in sys.modules]
assert not slow, slow
"""


def run(code: str, *arguments: str) -> None:
    """Run code in a fresh process whose working folder is not the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def modules() -> list[str]:
    names = sorted(n for n in tree_files(ROOT) if n.endswith(".py"))
    dotted = (n.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for n in names)
    return [name for name in dotted if not name.endswith("__main__")]


def test_every_module_is_importable_under_whet_and_under_no_other_name() -> None:
    found = modules()
    assert {f"whet.{folder}" for folder in FOLDERS} < set(found)
    run(_EVERYTHING, *found)


def test_importing_whet_imports_nothing_heavy() -> None:
    run(_LIGHT)


def test_a_worker_imports_only_what_runs_a_model() -> None:
    run(_WORKER)


def test_the_core_compiles_without_torch(tmp_path: Path) -> None:
    run(_WITHOUT_TORCH, str(tmp_path / "artifact"))


def test_every_root_folder_is_linked() -> None:
    for folder in FOLDERS:
        link = ROOT / "src" / "whet" / folder
        assert link.is_symlink()
        assert link.resolve() == ROOT / folder


def test_missing_and_extra_files_are_named() -> None:
    wanted = tree_files(ROOT)
    compare(set(wanted), wanted, "wheel")
    lost = "whet/ir/values.py"
    with pytest.raises(BrokenBuild, match=rf"the wheel lacks {lost}; it has whet/ir/old.py"):
        compare((wanted - {lost}) | {"whet/ir/old.py"}, wanted, "wheel")
    assert issubclass(BrokenBuild, WhetError)
