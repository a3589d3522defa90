"""Products and convolutions between Q and DQ: integers from layer to layer, a step of the grid from the reference."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm_models import both, draw, parsed

from whet.backends.facts import observe
from whet.backends.tvm.emission import emit
from whet.backends.tvm.kernels.integer_dot import find_dot
from whet.backends.tvm.machine import Machine, find_machine
from whet.backends.tvm.processor import Processor

_TYPES = st.sampled_from(["uint8", "int8"])
_HERE = find_machine(Processor("", "", "", 2))
fast = pytest.mark.skipif(find_dot(_HERE) is None, reason="no instruction for products of bytes")


def _codes(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape).astype(dtype)


def _weights(shape: tuple[int, ...], dtype: str, scales: int, seed: int) -> dict[str, np.ndarray]:
    zero = np.full(scales or (), 128 if dtype == "uint8" else 0, dtype)
    scale = np.random.default_rng(seed).uniform(0.001, 0.01, scales or ()).astype(np.float32)
    return {"w": _codes(shape, dtype, seed), "ws": scale, "wz": zero}


def _text(x: str, y: str, operator: str, weight_axis: int) -> str:
    return f"""({x} x) => ({y} y) {{
        xr = DequantizeLinear(x, xs, xz)
        wr = DequantizeLinear <axis = {weight_axis}> (w, ws, wz)
        {operator}
        y = QuantizeLinear(a, ys, yz)
    }}"""


def _step_apart(
    model: onnx_ir.Model, folder: Path, feeds: Mapping[str, np.ndarray], kernel: str
) -> None:
    """Compare codes with the reference, and tell that integers were multiplied."""
    facts = observe(model, feeds, 0, "tvm")
    assert kernel in str(emit(facts, _HERE).module.get_global_vars())
    (found,), (expected,) = both(model, folder, feeds)
    apart = np.abs(found.astype(np.int32) - expected.astype(np.int32))
    assert found.dtype == expected.dtype
    assert apart.max(initial=0) <= 1
    assert np.mean(apart > 0) < 0.02


@fast
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 40), inputs=st.integers(1, 70), outputs=st.integers(1, 50),
    x=_TYPES, w=_TYPES, y=_TYPES, each=st.booleans(), zero=st.integers(-100, 100), wide=st.booleans(),
)  # fmt: skip
def test_products(
    tmp_path_factory: pytest.TempPathFactory, rows: int, inputs: int, outputs: int,
    x: str, w: str, y: str, each: bool, zero: int, wide: bool,
) -> None:  # fmt: skip
    shift = 128 if x == "uint8" else 0
    constants = _weights((inputs, outputs), w, outputs if each else 0, 1) | {
        "xs": np.float32(0.02), "xz": np.array(zero + shift, x), "b": draw(outputs, seed=2),
        "ys": np.float32(0.05 if wide else 0.002), "yz": np.array(7, y),
    }  # fmt: skip
    body = "h = MatMul(xr, wr)  s = Add(h, b)  a = Relu(s)"
    text = _text(f"{x}[{rows},{inputs}]", f"{y}[{rows},{outputs}]", body, 1)
    feeds = {"x": _codes((rows, inputs), x, 3)}
    folder = tmp_path_factory.mktemp("product")
    _step_apart(parsed(text, constants), folder, feeds, "integer_dense")


@fast
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    size=st.integers(4, 11), inputs=st.integers(1, 9), outputs=st.integers(1, 20), groups=st.sampled_from([1, 1, 2]),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 3)]), stride=st.integers(1, 2), dilation=st.integers(1, 2),
    pad=st.integers(0, 1), x=_TYPES, each=st.booleans(),
)  # fmt: skip
def test_convolutions(
    tmp_path_factory: pytest.TempPathFactory, size: int, inputs: int, outputs: int, groups: int,
    kernel: tuple[int, int], stride: int, dilation: int, pad: int, x: str, each: bool,
) -> None:  # fmt: skip
    depth = inputs + 1
    shape = (2, depth * groups, size, size + 1)
    channels = outputs * groups
    options = f"strides = [{stride}, {stride}], dilations = [{dilation}, 1], group = {groups}"
    options += f", pads = [{pad}, {pad}, 0, {pad}]"
    constants = _weights((channels, depth, *kernel), "int8", channels if each else 0, 1) | {
        "xs": np.float32(0.02), "xz": np.array(120 if x == "uint8" else -5, x), "b": draw(channels, seed=2),
        "ys": np.float32(0.03), "yz": np.array(100, np.uint8),
    }  # fmt: skip
    body = f"a = Conv <{options}> (xr, wr, b)"
    dims = ",".join(map(str, shape))
    model = parsed(_text(f"{x}[{dims}]", "uint8", body, 0), constants)
    folder = tmp_path_factory.mktemp("convolution")
    _step_apart(model, folder, {"x": _codes(shape, x, 3)}, "integer_")


_NET = """(float[2,3,12,12] x) => (float[2,10] y) {
    q0 = QuantizeLinear(x, s0, z0)
    r0 = DequantizeLinear(q0, s0, z0)
    w1r = DequantizeLinear <axis = 0> (w1, ws1)
    c1 = Conv <pads = [1, 1, 1, 1]> (r0, w1r, b1)
    a1 = Relu(c1)
    q1 = QuantizeLinear(a1, s1, z1)
    r1 = DequantizeLinear(q1, s1, z1)
    w2r = DequantizeLinear <axis = 0> (w2, ws2)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2r, b1)
    q2 = QuantizeLinear(c2, s2, z2)
    r2 = DequantizeLinear(q2, s2, z2)
    t2 = Add(r2, r1)
    a2 = Relu(t2)
    q3 = QuantizeLinear(a2, s1, z1)
    r3 = DequantizeLinear(q3, s1, z1)
    w3r = DequantizeLinear <axis = 0> (w3, ws1)
    c3 = Conv <group = 20, pads = [1, 1, 1, 1]> (r3, w3r)
    q4 = QuantizeLinear(c3, s2, z2)
    r4 = DequantizeLinear(q4, s2, z2)
    p = GlobalAveragePool(r4)
    f = Flatten(p)
    q5 = QuantizeLinear(f, s5, z2)
    r5 = DequantizeLinear(q5, s5, z2)
    w5r = DequantizeLinear(w5, ws5)
    y = Gemm <transB = 1> (r5, w5r, b5)
}"""


def _net() -> onnx_ir.Model:
    scales = np.random.default_rng(1).uniform(0.002, 0.004, 20).astype(np.float32)
    return parsed(
        _NET,
        {
            "s0": np.float32(0.03), "z0": np.array(120, np.uint8), "s1": np.float32(0.02), "z1": np.array(0, np.uint8),
            "s2": np.float32(0.04), "z2": np.array(-3, np.int8), "s5": np.float32(0.01),
            "w1": _codes((20, 3, 3, 3), "int8", 1), "ws1": scales, "b1": draw(20, seed=2),
            "w2": _codes((20, 20, 3, 3), "int8", 3), "ws2": scales[::-1].copy() / 4,
            "w3": _codes((20, 1, 3, 3), "int8", 4), "w5": _codes((10, 20), "int8", 5), "ws5": np.float32(0.01),
            "b5": draw(10, seed=6),
        },
    )  # fmt: skip


def test_a_network_of_blocks(tmp_path: Path) -> None:
    (found,), (expected,) = both(_net(), tmp_path, {"x": draw(2, 3, 12, 12)})
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    assert np.abs(expected).max() > 0.1


@fast
def test_values_between_layers_stay_integers() -> None:
    module = emit(observe(_net(), {}, 0, "tvm"), _HERE).module
    text = module["main"].script()
    made = [line for line in text.splitlines() if "integer_" in line and "call_tir" in line]
    assert len(made) == 3
    assert sum('dtype="uint8"' in line for line in made) == 2, made


def test_without_an_instruction_numbers_are_multiplied(tmp_path: Path) -> None:
    machine = find_machine(Processor("haswell", "x86_64-linux-gnu", "", 2))
    assert find_dot(machine) is None
    module = emit(observe(_net(), {}, 0, "tvm"), machine).module
    assert "integer" not in str(module.get_global_vars())


@pytest.mark.parametrize(("cpu", "triple", "features", "instruction"), [
    ("", "aarch64-linux-gnu", "+v8.2a,+neon,+dotprod", "sdot"),
    ("alderlake", "x86_64-linux-gnu", "", "vpdpbusd"),
    ("cascadelake", "x86_64-linux-gnu", "", "vpdpbusd"),
])  # fmt: skip
def test_the_instruction(cpu: str, triple: str, features: str, instruction: str) -> None:
    from whet.backends.tvm.api import tirx

    machine = find_machine(Processor(cpu, triple, features, 2))
    assert _assembly(machine, tirx).count(instruction) > 8


def _assembly(machine: Machine, tirx: object) -> str:
    module = emit(observe(_net(), {}, 0, "tvm"), machine).module
    function = module["integer_convolution1"].with_attr("global_symbol", "f")
    return str(tirx.build(function, target=machine.target()).inspect_source("asm"))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("rows", "inputs", "outputs", "channels", "dtype"), [
    (5, 33, 17, True, "int8"), (64, 64, 100, False, "uint8"), (300, 128, 24, True, "uint8"),
])  # fmt: skip
def test_dynamic_products(
    tmp_path: Path, rows: int, inputs: int, outputs: int, channels: bool, dtype: str
) -> None:
    text = f"""(float[{rows},{inputs}] x) => (float[{rows},{outputs}] y) {{
        q, s, z = DynamicQuantizeLinear(x)
        i = MatMulInteger(q, w, z, wz)
        f = Cast <to = 1> (i)
        t = Mul(s, ws)
        m = Mul(f, t)
        a = Add(m, b)
        y = Gelu(a)
    }}"""
    weights = _weights((inputs, outputs), dtype, outputs if channels else 0, 1)
    weights |= {"wz": weights["wz"].reshape(-1)[0], "b": draw(outputs, seed=2)}
    (found,), (expected,) = both(
        parsed(text, weights), tmp_path, {"x": draw(rows, inputs, seed=3) * 3 + 1}
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert b"matmul_integer" not in (tmp_path / "model.so").read_bytes() or find_dot(_HERE) is None
