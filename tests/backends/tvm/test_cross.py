"""Libraries for aarch64: what they consist of, and that QEMU's processor computes what the reference does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cross import TRIPLE, compiler, execute, program, runtime
from tvm_models import draw

import whet
from whet.errors import UsageError, WhetError
from whet.ir.execute import Executor

ARM = 183
"""The machine of an ELF file."""

CONVOLUTIONS = """(float[N, 3, H, W] x) => (float[N, 10] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    b = HardSwish (a)
    c = Conv <pads = [1, 1, 1, 1], strides = [2, 2], group = 12> (b, w1)
    d = Relu (c)
    e = Conv (d, w2)
    f = Add (e, d)
    g = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (f)
    h = GlobalAveragePool (g)
    i = Flatten (h)
    j = Gemm (i, w3, b3)
    y = Softmax (j)
}"""
CONVOLUTION_WEIGHTS = {
    "w0": draw(12, 3, 3, 3), "b0": draw(12), "w1": draw(12, 1, 3, 3, seed=1),
    "w2": draw(12, 12, 1, 1, seed=2), "w3": draw(12, 10, seed=3), "b3": draw(10, seed=4),
}  # fmt: skip
TRANSFORMER = """(float[N, S, 32] x, float[N, 1, 1, S] mask) => (float[N, S, 32] y) {
    shape = Constant <value_ints = [0, 0, 4, 8]> ()
    joined = Constant <value_ints = [0, 0, 32]> ()
    root = Constant <value_float = 0.35355338> ()
    n = LayerNormalization <axis = -1> (x, g0, h0)
    q0 = MatMul (n, wq)
    k0 = MatMul (n, wk)
    v0 = MatMul (n, wv)
    q1 = Reshape (q0, shape)
    k1 = Reshape (k0, shape)
    v1 = Reshape (v0, shape)
    q = Transpose <perm = [0, 2, 1, 3]> (q1)
    k = Transpose <perm = [0, 2, 3, 1]> (k1)
    v = Transpose <perm = [0, 2, 1, 3]> (v1)
    s0 = MatMul (q, k)
    s1 = Mul (s0, root)
    s2 = Add (s1, mask)
    p = Softmax <axis = -1> (s2)
    o0 = MatMul (p, v)
    o1 = Transpose <perm = [0, 2, 1, 3]> (o0)
    o2 = Reshape (o1, joined)
    o = MatMul (o2, wo)
    r = Add (x, o)
    m = LayerNormalization <axis = -1> (r, g0, h0)
    u = MatMul (m, wu)
    a = Gelu (u)
    d = MatMul (a, wd)
    y = Add (r, d)
}"""
TRANSFORMER_WEIGHTS = {
    "g0": 1 + 0.1 * draw(32), "h0": 0.1 * draw(32, seed=1),
    **{f"w{c}": 0.2 * draw(32, 32, seed=k) for k, c in enumerate("qkvo", 2)},
    "wu": 0.2 * draw(32, 128, seed=7), "wd": 0.1 * draw(128, 32, seed=8),
}  # fmt: skip


QUANTIZED = """(float[N, 16, 9, 9] x) => (float[N, 24, 9, 9] y) {
    q0 = QuantizeLinear (x, s0, z0)
    d0 = DequantizeLinear (q0, s0, z0)
    w = DequantizeLinear <axis = 0> (codes, scales)
    a = Conv <pads = [1, 1, 1, 1]> (d0, w, bias)
    b = Relu (a)
    q1 = QuantizeLinear (b, s1, z0)
    y = DequantizeLinear (q1, s1, z0)
}"""
QUANTIZED_WEIGHTS = {
    "s0": np.float32(0.02), "z0": np.array(5, np.int8), "s1": np.float32(0.03),
    "codes": np.random.default_rng(0).integers(-127, 128, (24, 16, 3, 3)).astype(np.int8),
    "scales": np.full(24, 0.001, np.float32), "bias": draw(24),
}  # fmt: skip


def proto(text: str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> g {text}')
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def build(model: onnx.ModelProto, out: Path, **options: Any) -> whet.Artifact:
    given = {"recipe": "exact", "target": "tvm", "page": False, "allow_noop": True}
    return whet.compile(model, output=out, **{**given, **options})


@pytest.mark.parametrize(
    ("text", "weights", "sizes", "shapes"),
    [
        (CONVOLUTIONS, CONVOLUTION_WEIGHTS, {"N": 2, "H": 16, "W": 20}, {"x": (2, 3, 16, 20)}),
        (TRANSFORMER, TRANSFORMER_WEIGHTS, {"N": 2, "S": 11}, {"x": (2, 11, 32), "mask": (2, 1, 1, 11)}),
    ],
    ids=["convolutions", "transformer"],
)  # fmt: skip
def test_it_computes_the_same_there(
    text: str,
    weights: dict[str, np.ndarray],
    sizes: dict[str, int],
    shapes: dict[str, tuple[int, ...]],
    tmp_path: Path,
) -> None:
    libraries, model, out = runtime(), proto(text, weights), tmp_path / "out"
    made = build(model, out, triple=TRIPLE, sizes=sizes)
    assert made.report is not None
    assert not made.report.agreements
    words = "was not executed, so neither compared nor timed: it is made for aarch64-linux-gnu"
    assert any(words in note for note in made.report.notes)
    assert (made.report.before.time, made.report.after.time) == (None, None)
    command = program(out, libraries)
    said = execute(*command, out)
    assert said.startswith("y: relative error ")
    assert float(said.split()[-1]) < 1e-4
    feeds = {name: draw(*shape, seed=9) for name, shape in shapes.items()}
    np.savez(tmp_path / "feeds.npz", **feeds)
    execute(*command, out, tmp_path / "feeds.npz", tmp_path / "y")
    onnx.save(model, tmp_path / "source.onnx")
    (want,) = Executor(tmp_path / "source.onnx").run(feeds)
    np.testing.assert_allclose(np.load(tmp_path / "y0.npy"), want, rtol=1e-4, atol=1e-4)


def test_products_of_bytes_are_the_same_there(tmp_path: Path) -> None:
    """``sdot`` is what quantized layers are for, where the processor has it."""
    libraries, model, out = runtime(), proto(QUANTIZED, QUANTIZED_WEIGHTS), tmp_path / "out"
    target = "tvm{triple=aarch64-linux-gnu,features=+dotprod}"
    build(model, out, target=target, sizes={"N": 2})
    assert "sdot\tv" in execute(f"{TRIPLE}-objdump", "-d", out / "model.so")
    command = program(out, libraries)
    feeds = {"x": draw(2, 16, 9, 9, seed=9)}
    np.savez(tmp_path / "feeds.npz", **feeds)
    execute(*command, out)
    execute(*command, out, tmp_path / "feeds.npz", tmp_path / "y")
    onnx.save(model, tmp_path / "source.onnx")
    (want,) = Executor(tmp_path / "source.onnx").run(feeds)
    steps = np.abs(np.load(tmp_path / "y0.npy") - want) / QUANTIZED_WEIGHTS["s1"]
    assert steps.max() < 1.01
    assert np.mean(steps > 0.5) < 0.02


def test_the_library_is_for_its_vectors(tmp_path: Path) -> None:
    compiler()
    model = proto(TRANSFORMER, TRANSFORMER_WEIGHTS)
    for device in ("aarch64-linux-gnu", "raspberry-pi-4"):
        out = tmp_path / device
        build(model, out, device=device, sizes={"N": 1, "S": 4})
        header = (out / "model.so").read_bytes()[:20]
        assert header[:4] == b"\x7fELF"
        assert int.from_bytes(header[18:20], "little") == ARM
        code = execute(f"{TRIPLE}-objdump", "-d", out / "model.so")
        assert "fmla\tv" in code
        assert ".4s" in code
        machine = json.loads((out / "model.json").read_text())["machine"]
        assert (machine["triple"], machine["lanes"], machine["registers"]) == (TRIPLE, 4, 32)
    assert machine["cpu"] == "cortex-a72"
    with np.load(tmp_path / "raspberry-pi-4" / "model.npz") as stored:
        assert sum(array.nbytes for array in stored.values()) >= 4 * 32 * (4 * 32 + 2 * 128)


def test_flag_option_and_device_are_one(tmp_path: Path) -> None:
    compiler()
    model = proto("(float[4, 8] x) => (float[4, 8] y) { y = Gelu (x) }", {})
    ways: list[dict[str, Any]] = [
        {"triple": "aarch64-linux-gnu"},
        {"triple": "aarch64-unknown-linux-gnu"},
        {"device": "aarch64-linux-gnu"},
        {"target": "tvm{triple=arm64-linux-gnu}"},
        {"target": "tvm{triple=aarch64-linux-gnu}", "device": "aarch64-linux-gnu"},
    ]
    found = set[bytes]()
    for k, way in enumerate(ways):
        made = build(model, tmp_path / str(k), **way)
        assert made.manifest["device"]["name"] == "aarch64-linux-gnu"
        found.add((tmp_path / str(k) / "model.so").read_bytes())
    assert len(found) == 1


def test_what_would_run_it_here_is_refused(tmp_path: Path) -> None:
    compiler()
    text = "(float[N, 8] x) => (float[N, 8] y) { h = MatMul (x, w) y = Gelu (h) }"
    model = proto(text, {"w": draw(8, 8)})
    made = build(model, tmp_path / "out", triple=TRIPLE, sizes={"N": 4})
    with pytest.raises(WhetError, match="is made for aarch64-linux-gnu, this machine is x86_64"):
        whet.load(made.folder).run({"x": draw(4, 8)})
    with pytest.raises(
        UsageError, match="a limit on the drop needs a result that runs here: it is made for"
    ):
        build(model, tmp_path / "a", triple=TRIPLE, budget=whet.Budget(drop="1%"), evaluate=len)
    data = {"x": draw(32, 8)}
    with pytest.raises(
        UsageError, match="a search runs what it finds, and this is not run here: it is made for"
    ):
        build(
            model,
            tmp_path / "b",
            triple=TRIPLE,
            recipe="auto",
            budget=whet.Budget(size="50%"),
            calibration=data,
            sizes={"N": 4},
        )  # fmt: skip
    with pytest.raises(
        UsageError, match=r"triple is 'arm64-linux-gnu', the device 'x86-64-v3' is x86_64-linux-gnu"
    ):
        build(model, tmp_path / "c", triple="arm64-linux-gnu", device="x86-64-v3")
