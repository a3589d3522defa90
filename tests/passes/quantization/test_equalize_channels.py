import numpy as np
import onnx_ir
import pytest
from folding import BINDINGS, build, ops, run, weights, worst_error
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.ir.values import constant
from whet.passes.base import Coverage
from whet.passes.quantization.equalize_channels import EqualizeChannels
from whet.passes.workbench import Context, Workbench

STEP = EqualizeChannels()


def uneven(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Draw weights whose channels (the first axis; the last of matrices) differ a lot."""
    found = weights(seed, **shapes)
    rng = np.random.default_rng((seed, 1))
    for name, array in found.items():
        axis = 1 if name[0] == "m" else 0
        spread = np.exp(rng.normal(0, 1.2, array.shape[axis])).astype(np.float32)
        found[name] = array * np.moveaxis(
            spread.reshape(-1, *[1] * (array.ndim - 1)), 0, axis
        )  # fmt: skip
    return found


def equalizes(model: onnx_ir.Model, step: EqualizeChannels = STEP, count: int = 1) -> Coverage:
    before, kinds = onnx_ir.to_proto(model), ops(model)
    coverage = run(model, step)
    assert not coverage.failures, coverage.failures
    assert coverage.changed == count, coverage
    assert ops(model) == kinds
    assert coverage.max_error <= 1e-5
    assert worst_error(before, model) <= 1e-5
    assert run(model, step).changed == 0
    return coverage


IMAGE = "(float[N,3,8,8] x) => (float[N,5,a,b] y)"
BETWEEN = {
    "relu": "b = Relu(a)",
    "leaky": "b = LeakyRelu<alpha=0.1>(a)",
    "prelu": "b = PRelu(a, slope)",
    "pools": "r = Relu(a) p = MaxPool<kernel_shape=[2, 2]>(r) b = AveragePool<kernel_shape=[2, 2]>(p)",
    "added": "r = Add(a, shift) b = Relu(r)",
    "movement": "t = Transpose<perm=[0, 1, 3, 2]>(a) b = Relu(t)",
    "resized": "b = Resize<mode=\"nearest\">(a, , scales)",
}  # fmt: skip


@pytest.mark.parametrize("name", BETWEEN)
def test_convolutions(name: str) -> None:
    constants = uneven(0, w1=(8, 3, 3, 3), c1=(8,), w2=(5, 8, 1, 1), shift=(8, 1, 1))
    constants["slope"] = np.full((8, 1, 1), 0.25, np.float32)
    constants["scales"] = np.asarray([1, 1, 2, 2], np.float32)
    text = f"{IMAGE} {{ a = Conv(x, w1, c1) {BETWEEN[name]} y = Conv(b, w2) }}"
    used = {k: v for k, v in constants.items() if f" {k}," in text or f" {k})" in text}
    equalizes(build(text, used))


def test_depthwise_chain_and_flatten() -> None:
    text = """(float[N,3,6,6] x) => (float[N,4] y) {
      a = Conv(x, w1) b = Relu(a) c = Conv<group=8, pads=[1, 1, 1, 1]>(b, w2, c2) d = Relu(c)
      e = Conv(d, w3, c3) f = Relu(e) g = GlobalAveragePool(f) h = Flatten(g) y = Gemm<transB=1>(h, g4) }"""
    shapes = {"w1": (8, 3, 1, 1), "w2": (8, 1, 3, 3), "c2": (8,), "w3": (6, 8, 1, 1), "c3": (6,)}
    coverage = equalizes(build(text, uneven(3, **shapes, g4=(4, 6))), count=3)
    assert coverage.matched == 3


def test_channels_spread_over_the_inputs_of_a_product() -> None:
    text = """(float[N,3,4,4] x) => (float[N,4] y)
    { a = Conv(x, w1) b = Relu(a) h = Flatten(b) y = MatMul(h, m2) }"""
    equalizes(build(text, uneven(1, w1=(6, 3, 1, 1), m2=(96, 4))))


def test_gates_and_several_readers() -> None:
    text = """(float[N,4] x, float[N,8] gate) => (float[N,3] y, float[N,2] z)
    { a = MatMul(x, m1) s = Sigmoid(gate) b = Mul(s, a) y = MatMul(b, m2) z = MatMul(b, m3) }"""
    equalizes(build(text, uneven(2, m1=(4, 8), m2=(8, 3), m3=(8, 2))))


def test_only_the_values_of_a_merged_projection_move() -> None:
    """Queries and keys are read by the scores, so their channels keep scale one."""
    text = """(float[N,M,12] x) => (float[N,M,5] y) {
      p = MatMul(x, m1) o = Add(p, c1) q, k, v = Split<axis=2, num_outputs=3>(o)
      q4 = Reshape(q, heads) k4 = Reshape(k, heads) v4 = Reshape(v, heads)
      qt = Transpose<perm=[0, 2, 1, 3]>(q4) kt = Transpose<perm=[0, 2, 1, 3]>(k4)
      vt = Transpose<perm=[0, 2, 1, 3]>(v4) at = Attention(qt, kt, vt)
      a4 = Transpose<perm=[0, 2, 1, 3]>(at) a = Reshape(a4, flat) y = MatMul(a, m2) }"""
    constants = uneven(4, m1=(12, 24), c1=(24,), m2=(8, 5))
    constants |= {"heads": np.asarray([0, 0, 2, 4]), "flat": np.asarray([0, 0, 8])}
    old = constants["m1"]
    model = build(text, constants, opset=23)
    equalizes(model)
    first = next(node for node in model.graph if node.op_type == "MatMul")
    new = constant(first.inputs[1])
    assert new is not None
    assert np.array_equal(new[:, :16], old[:, :16])
    assert not np.allclose(new[:, 16:], old[:, 16:])


def test_no_scale_where_it_would_not_help() -> None:
    matrix = np.eye(4, dtype=np.float32)
    text = "(float[N,4] x) => (float[N,4] y) { a = MatMul(x, m1) b = Relu(a) y = MatMul(b, m2) }"
    coverage = run(build(text, {"m1": matrix, "m2": matrix}), STEP)
    assert coverage.matched == 1
    assert coverage.changed == 0
    assert "no scale lowers the predicted error" in coverage.declined["MatMul_0"]


MISSES = {
    "a = MatMul(x, m1) b = Clip(a, zero, six) y = MatMul(b, m2)": "do not pass through Clip",
    "a = MatMul(x, m1) s = Add(a, x) y = MatMul(s, m2)": "which is not scaled",
    "a = MatMul(x, m1) b = MatMul(a, m1) y = MatMul(b, m2)": "is shared",
    "y = MatMul(x, m1)": "is an output of the model",
}


@pytest.mark.parametrize("body", MISSES)
def test_near_misses(body: str) -> None:
    constants = weights(m1=(4, 4), m2=(4, 4)) | {"zero": np.float32(0), "six": np.float32(6)}
    used = {k: v for k, v in constants.items() if f"{k}," in body or f"{k})" in body}
    coverage = run(build(f"(float[N,4] x) => (float[N,4] y) {{ {body} }}", used), STEP)
    assert coverage.changed == 0
    assert any(MISSES[body] in reason for reason in coverage.near_misses.values())


def test_calibration_decides_with_real_activations() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { a = MatMul(x, m1) b = Relu(a) y = MatMul(b, m2) }"
    constants = {"m1": np.eye(4, dtype=np.float32), "m2": np.eye(4, dtype=np.float32)}
    x = np.random.default_rng(0).uniform(0, 1, (64, 4)).astype(np.float32) * [1, 1, 1, 50]
    model = build(text, constants)
    work = Workbench(
        model, STEP, Context(bindings=BINDINGS, calibration=({"x": x.astype(np.float32)},))
    )
    STEP.apply(work)
    assert work.coverage.changed == 1


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 999),
    st.lists(st.sampled_from(["Relu", "pool", "dw", "pw"]), min_size=1, max_size=5),
)
def test_generated_chains_compute_the_same(seed: int, parts: list[str]) -> None:
    shapes: dict[str, tuple[int, ...]] = {"w0": (4, 3, 1, 1)}
    body, last = "v0 = Conv(x, w0) ", "v0"
    for k, part in enumerate(parts, 1):
        if part == "dw":
            shapes[f"w{k}"] = (4, 1, 3, 3)
        elif part == "pw":
            shapes[f"w{k}"] = (4, 4, 1, 1)
        body += {
            "Relu": f"v{k} = Relu({last}) ",
            "pool": f"v{k} = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>({last}) ",
            "dw": f"v{k} = Conv<group=4, pads=[1, 1, 1, 1]>({last}, w{k}) ",
            "pw": f"v{k} = Conv({last}, w{k}) ",
        }[part]
        last = f"v{k}"
    text = f"(float[N,3,4,4] x) => (float[N,2,4,4] y) {{ {body} y = Conv({last}, wl) }}"
    model = build(text, uneven(seed, **shapes, wl=(2, 4, 1, 1)))
    before = onnx_ir.to_proto(model)
    step = EqualizeChannels(weights="tensor" if seed % 2 else "channel")
    coverage = run(model, step)
    assert not coverage.failures
    assert worst_error(before, model) <= 1e-5
    assert run(model, step).changed == 0
