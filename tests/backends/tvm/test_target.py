"""``--target tvm`` through the compiler: the artifact alone, sizes, what is refused, another processor."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tvm_models import both, draw, parsed

import whet
from whet.backends.base import find_target
from whet.backends.tvm.registry import limits, registered
from whet.errors import UnsupportedTarget, UsageError


def network(path: Path, kind: str = "Relu") -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node(kind, ["h"], ["a"], "middle", domain="my.own" if kind == "Odd" else ""),
        helper.make_node("MatMul", ["a", "v"], ["y"]),
    ]
    weights = {"w": draw(8, 48), "v": draw(48, 4, seed=1)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("my.own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), path)
    return path


def build(source: Path, out: Path, **options: Any) -> whet.Artifact:
    given = {
        "recipe": "exact",
        "target": "tvm",
        "sizes": {"batch": 2},
        "page": False,
        "measure": False,
    }
    return whet.compile(str(source), output=out, **{**given, **options})


def test_an_artifact_runs_like_any_other_and_alone(tmp_path: Path) -> None:
    source = network(tmp_path / "net.onnx")
    made = build(source, tmp_path / "out", allow_noop=True)
    assert made.report is not None
    assert made.report.worst_error < 1e-5
    x = draw(2, 8, seed=3)
    (got,) = whet.load(tmp_path / "out").run({"x": x})
    with pytest.raises(UsageError, match=r"float32 \[3, 8\], compiled for float32 \[2, 8\]"):
        whet.load(tmp_path / "out").run({"x": np.zeros((3, 8), np.float32)})
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("model.so", "model.npz", "model.json", "load.py", "check.npz"):
        shutil.copy(tmp_path / "out" / name, alone / name)
    np.savez(alone / "x.npz", x=x)
    places = [p for p in sys.path if (Path(p) / "tvm" / "__init__.py").is_file()]
    code = (
        f"import sys; sys.modules['whet'] = None; sys.path[:0] = {places!r}; import runpy; "
        "sys.argv = ['load.py', *sys.argv[1:]]; runpy.run_path('load.py', run_name='__main__')"
    )
    for arguments in ((), (".", "x.npz", "y.npz")):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=alone,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(alone / "y.npz")["y"], got)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    source = network(tmp_path / "net.onnx")
    for name in ("a", "b"):
        build(source, tmp_path / name, allow_noop=True)
    for name in ("model.so", "model.npz", "load.py", "whet.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_another_machine(tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip(
            "aarch64-linux-gnu-gcc is not installed (apt-get install gcc-aarch64-linux-gnu)"
        )
    target = "tvm{triple=aarch64-linux-gnu,cc=aarch64-linux-gnu-gcc,threads=2}"
    made = build(network(tmp_path / "net.onnx"), tmp_path / "out", target=target, allow_noop=True)
    assert made.report is not None
    assert any("aarch64-linux-gnu" in note for note in made.report.notes)
    header = (tmp_path / "out" / "model.so").read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64


def test_sizes_must_be_known(tmp_path: Path) -> None:
    source = network(tmp_path / "net.onnx")
    with pytest.raises(
        UsageError, match=r"target 'tvm' plans all memory .* bind it, such as --bind batch=1"
    ):
        build(source, tmp_path / "out", sizes={})


def test_what_is_refused_says_why(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTarget, match=r"my\.own\.Odd \(1 node\): no standard operator"):
        build(network(tmp_path / "odd.onnx", "Odd"), tmp_path / "out")
    pool = "y, z = MaxPool <kernel_shape = [2, 2]> (x)"
    model = parsed(f"(float[1,1,4,4] x) => (float[1,1,3,3] y, int64[1,1,3,3] z) {{ {pool} }}")
    target, fixed = find_target("tvm").settle(model, {}, {}, 0)
    with pytest.raises(UnsupportedTarget, match=r"MaxPool '.*': indices are not handed out"):
        target.lower(fixed, tmp_path)
    with pytest.raises(UsageError, match="target 'tvm' has no option 'lanes'"):
        find_target("tvm{lanes=4}")
    with pytest.raises(UsageError, match="threads is '0', expected 1 or more"):
        find_target("tvm{threads=0}")


def test_plainer_processors_compute_the_same(tmp_path: Path) -> None:
    text = """(float[1,5,9,9] x) => (float[1,7] y) {
        h = Conv <pads = [1, 1, 1, 1]> (x, w)
        a = HardSwish(h)
        p = GlobalAveragePool(a)
        y = Flatten(p)
    }"""
    model = parsed(text, {"w": draw(7, 5, 3, 3)})
    found = []
    for cpu in ("haswell", "x86-64"):
        got, want = both(
            model, tmp_path / cpu, {"x": draw(1, 5, 9, 9)}, f"tvm{{cpu={cpu},threads=1}}"
        )
        np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=1e-5)
        found.append(json.loads((tmp_path / cpu / "model.json").read_text())["machine"]["lanes"])
    assert found == [8, 4]


def test_the_page_lists_what_there_is() -> None:
    text = (Path(__file__).parents[3] / "docs" / "target_tvm.md").read_text()
    rows: dict[str, list[str]] = {}
    for kind, note in limits().items():
        rows.setdefault(note, []).append(f"`{kind}`")
    table = "\n".join(sorted(f"| {', '.join(k)} | {n or 'any shape'} |" for n, k in rows.items()))
    head = "| operators | limits |\n|---|---|\n"
    start = text.index(head) + len(head)
    assert text[start : text.index("\n\n", start)] == table, table
    assert len(registered()) >= 140
