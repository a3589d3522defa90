"""``--target c`` through the compiler: sizes, limits, names, weights in a file, no compiler, what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from c_artifacts import STRICT, execute, needs_gcc
from onnx import TensorProto, helper

import whet
from whet.backends.base import find_target
from whet.backends.c import toolchain
from whet.backends.c.registry import registered
from whet.errors import BudgetMissed, UnsupportedTarget, UsageError

pytestmark = needs_gcc


def network(path: Path, kind: str = "Relu", batch: int | str = "batch") -> Path:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node(kind, ["h"], ["a"], "middle", domain="my.own" if kind == "Odd" else ""),
        helper.make_node("MatMul", ["a", "v"], ["y"]),
    ]
    weights = {
        n: rng.standard_normal(s).astype(np.float32) for n, s in (("w", (8, 48)), ("v", (48, 4)))
    }
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])],
        [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("my.own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return network(tmp_path / "net.onnx")


def build(source: Path, out: Path, **options: Any) -> whet.Artifact:
    given = {
        "recipe": "exact",
        "target": "c",
        "sizes": {"batch": 2},
        "page": False,
        "measure": False,
    }
    return whet.compile(str(source), output=out, **{**given, **options})


def test_an_artifact_runs_like_any_other(source: Path, tmp_path: Path) -> None:
    made = build(source, tmp_path / "out", measure=True)
    assert made.report is not None
    assert made.report.worst_error < 1e-6
    assert any("nothing was decided by them" in note for note in made.report.notes)
    assert any(note.startswith("flash: 2,3") for note in made.report.notes)
    loaded = whet.load(tmp_path / "out")
    x = np.random.default_rng(3).standard_normal((2, 8)).astype(np.float32)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": x})
    (got,) = loaded.run({"x": x})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match=r"float32 \[3, 8\], compiled for float32 \[2, 8\]"):
        loaded.run({"x": np.zeros((3, 8), np.float32)})


def test_the_same_input_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build(source, tmp_path / name)
    for name in ("model.c", "model.h", "main.c", "Makefile", "model.json", "whet.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_size_that_nobody_gave_is_asked_for(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leaves 'batch' open: bind it, such as --bind batch=1"):
        build(source, tmp_path / "out", sizes={})
    with pytest.raises(UsageError, match="did you mean 'batch'"):
        build(source, tmp_path / "out", sizes={"batch": 1, "bacth": 2})
    assert not (tmp_path / "out").exists()


def test_limits_name_the_largest_tensors(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetMissed) as caught:
        build(source, tmp_path / "out", budget=whet.Budget(ram=100, flash="1KB"))
    message = str(caught.value)
    assert "RAM is 384 bytes of arena, the budget 100" in message
    assert "'h' 384" in message or "'a' 384" in message
    assert "the budget 1,000; the largest constants are 'weights of" in message
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["limits"]["ram"] == 100
    assert report["limits"]["flash"] == 1000
    assert len(report["limits"]["missed"]) == 2
    build(source, tmp_path / "out", budget=whet.Budget(ram="1KB", flash="4KB"))


def test_other_targets_do_not_count_memory(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"needs a target that plans memory \(c, tvm\), the target is 'onnxruntime'",
    ):
        build(source, tmp_path / "out", target="onnxruntime", budget=whet.Budget(ram="1KB"))


def test_names_and_a_file_of_weights(source: Path, tmp_path: Path) -> None:
    made = build(source, tmp_path / "out", target="c{name=kws,weights=bin}")
    out = made.folder
    assert "int kws_run(const float *x, float *y);" in (out / "model.h").read_text()
    assert "void kws_weights(const void *bin);" in (out / "model.h").read_text()
    assert (out / "model.bin").stat().st_size == 4 * 8 * 48 + 4 * 48 * 4
    assert "static const float" not in (out / "model.c").read_text()
    assert "ok" in execute("make", "-C", out, "check", "CFLAGS=-O2 -Werror")
    (got,) = whet.load(out).run({"x": np.ones((2, 8), np.float32)})
    (want,) = build(source, tmp_path / "plain").run({"x": np.ones((2, 8), np.float32)})
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("spelled", "words"),
    [
        ("c{nmae=x}", "target 'c' has no option 'nmae'; known: name, weights"),
        ("c{weights=zip}", "weights is 'zip', expected const or bin"),
        ("c{name=a-b}", "name is 'a-b', expected a name that C accepts"),
        ("c{name}", "option 'name' of target 'c' has no value"),
        ("onnxruntime{a=b}", "target 'onnxruntime' has no option 'a'"),
    ],
)
def test_options_are_checked(spelled: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find_target(spelled)
    with pytest.raises(UnsupportedTarget, match="unknown target 'd'; known: onnxruntime, "):
        find_target("d{name=x}")


def test_what_cannot_be_emitted_is_named_before_anything_is_written(tmp_path: Path) -> None:
    source = network(tmp_path / "net.onnx", "Acos")
    with pytest.raises(UnsupportedTarget) as caught:
        build(source, tmp_path / "out")
    assert "cannot emit 1 node: Acos 'middle': there is no emitter for this operator" in str(
        caught.value
    )
    assert "docs/target_c.md" in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert "Acos" not in registered()


def test_foreign_operators_are_refused_at_once(tmp_path: Path) -> None:
    from whet.ir.files import load_model

    reasons = find_target("c").refuses(load_model(network(tmp_path / "net.onnx", "Odd")))
    assert reasons == [
        "my.own.Odd (1 node): no standard operator; compile from a model before such operators were chosen"
    ]


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    toolchain.find_toolchain.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    yield
    toolchain.find_toolchain.cache_clear()


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_the_artifact_is_written_and_the_report_says_so(
    source: Path, tmp_path: Path
) -> None:
    made = build(source, tmp_path / "out", measure=True)
    assert made.report is not None
    assert made.report.agreements == []
    note = "the result was not executed, so neither compared nor timed: no C compiler: no-such-compiler is not in PATH"
    assert note in made.report.notes
    assert "outputs were not compared" in str(made.report)
    assert "code was not measured" in (tmp_path / "out" / "model.h").read_text()
    assert made.manifest["versions"]["cc"] == "none"
    with pytest.raises(UsageError, match="no C compiler"):
        made.run({"x": np.zeros((2, 8), np.float32)})


def test_an_index_out_of_range_is_an_error_and_no_read(tmp_path: Path) -> None:
    table = np.arange(20, dtype=np.float32).reshape(5, 4)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["t", "i"], ["y"])],
        "g",
        [helper.make_tensor_value_info("i", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])],
        [onnx.numpy_helper.from_array(table, "t")],
    )
    path = tmp_path / "g.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path
    )
    made = build(path, tmp_path / "out", sizes={})
    (got,) = made.run({"i": np.array([4, -5, 2])})
    np.testing.assert_array_equal(got, table[[4, 0, 2]])
    with pytest.raises(UsageError, match="an index is out of range"):
        made.run({"i": np.array([0, 5, 0])})


def test_the_header_is_c_plus_plus_too(source: Path, tmp_path: Path) -> None:
    import shutil
    import subprocess

    if shutil.which("g++") is None:
        pytest.skip("no g++ is installed")
    build(source, tmp_path / "out")
    (tmp_path / "use.cpp").write_text(
        '#include "out/model.h"\nint main() { float x[MODEL_X_SIZE] = {}, y[MODEL_Y_SIZE]; return model_run(x, y); }\n'
    )
    subprocess.run(
        ["gcc", *STRICT, "-c", str(tmp_path / "out" / "model.c"), "-o", str(tmp_path / "m.o")],
        check=True,
    )
    command = [
        "g++",
        "-Wall",
        "-Werror",
        str(tmp_path / "use.cpp"),
        str(tmp_path / "m.o"),
        "-o",
        str(tmp_path / "use"),
        "-lm",
    ]
    subprocess.run(command, check=True)
    subprocess.run([str(tmp_path / "use")], check=True)


def test_names_of_the_model_never_meet_names_of_the_text(tmp_path: Path) -> None:
    names = ["w0", "W0", "relu_1", "int", "arena", "x.y", "x_y", "NAN", "int8_t", "add_1"]
    nodes = [helper.make_node("Relu", ["w0"], ["a0"])]
    for k, name in enumerate(names[1:]):
        nodes.append(helper.make_node("Add", [f"a{k}", name], [f"a{k + 1}"]))
    nodes.append(helper.make_node("Mul", [f"a{len(names) - 1}", "c"], ["w1"]))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in [*names, "w1"]]
    constant = onnx.numpy_helper.from_array(np.array([1, 2, 3], np.float32), "c")
    graph = helper.make_graph(nodes, "g", ports[:-1], ports[-1:], [constant])
    path = tmp_path / "names.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path
    )
    made = build(path, tmp_path / "out", sizes={}, allow_noop=True)
    feeds = {n: np.full(3, k + 1, np.float32) for k, n in enumerate(names)}
    (got,) = made.run(feeds)
    np.testing.assert_array_equal(got, [55, 110, 165])
    assert "ok" in execute("make", "-C", made.folder, "check", "CFLAGS=-O2 -Werror")
