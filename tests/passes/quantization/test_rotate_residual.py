import numpy as np
import onnx_ir
import pytest
from folding import BINDINGS, build, declines, ops, run, weights, worst_error

from whet.passes.base import Coverage
from whet.passes.quantization.rotate_residual import RotateResidual
from whet.passes.workbench import Context, Workbench

STEP = RotateResidual()
PARTS = weights(
    e=(5, 12), p=(12,), g=(12,), b=(12,), w1=(12, 6), b1=(6,), w2=(6, 12), b2=(12,), h=(12, 3), c=(3,),
    k=(12, 3, 1, 1), t=(1, 1, 12), vg=(12,),
)  # fmt: skip


def network(norm: str, start: str, end: str, inputs: str = "int64[N,M] ids") -> onnx_ir.Model:
    """Build two pre-norm blocks; every product has a weight of its own."""
    text = f"""({inputs}) => (float[N,M,3] y) {{ {start}
      n1 = {norm.format("x0")} u1 = MatMul(n1, w1) d1 = Add(u1, b1) a1 = Relu(d1) v1 = MatMul(a1, w2) f1 = Add(v1, b2)
      x1 = Add(x0, f1) n2 = {norm.format("x1")} u2 = MatMul(n2, w3) a2 = Relu(u2) f2 = MatMul(a2, w4)
      x2 = Add(f2, x1) n3 = {norm.format("x2")} {end} }}"""
    constants = dict(PARTS) | weights(1, w3=(12, 6), w4=(6, 12), o=(12, 3), oo=(5, 3))
    used = {k: v for k, v in constants.items() if f"{k}," in text or f"{k})" in text}
    return build(text, used, opset=23)


NORMS = {"rms": "RMSNormalization<epsilon=0.001>({}, g)", "layer": "LayerNormalization({}, g, b)"}
EMBEDDED = "x = Gather(e, ids) x0 = Add(x, p)"


def rotates(model: onnx_ir.Model, step: RotateResidual = STEP) -> Coverage:
    before = onnx_ir.to_proto(model)
    coverage = run(model, step)
    assert not coverage.failures, coverage.failures
    assert coverage.changed == 1, coverage
    assert coverage.proofs == {"float64": 1}
    assert worst_error(before, model) <= 1e-4
    assert run(model, step).changed == 0
    return coverage


@pytest.mark.parametrize("basis", ["hadamard", "random"])
@pytest.mark.parametrize("norm", NORMS)
def test_language_model(norm: str, basis: str) -> None:
    model = network(NORMS[norm], EMBEDDED, "y = MatMul(n3, h)")
    table = np.asarray(model.graph.initializers["e"].const_value)
    rotates(model, RotateResidual(basis=basis))
    assert "LayerNormalization" not in ops(model)
    assert ops(model).count("RMSNormalization") == 3
    (gather,) = [node for node in model.graph if node.op_type == "Gather"]
    turned = gather.inputs[0].const_value.numpy()
    assert not np.allclose(turned, table)


def test_image_model_with_patches_and_a_class_token() -> None:
    start = """q = Conv<kernel_shape=[1, 1]>(image, k) r = Reshape(q, flat) s = Transpose<perm=[0, 2, 1]>(r)
    n = Shape<start=0, end=1>(image) i = Concat<axis=0>(n, ones) cls = Expand(t, i)
    z = Concat<axis=1>(cls, s) x0 = Add(z, p)"""
    text = f"""(float[N,3,2,2] image) => (float[N,3] y) {{ {start}
      n1 = LayerNormalization(x0, g, b) u1 = MatMul(n1, w1) a1 = Relu(u1) f1 = MatMul(a1, w2) x1 = Add(x0, f1)
      n2 = LayerNormalization(x1, g, b) first = Gather<axis=1>(n2, zero) y = Gemm(first, h, c) }}"""
    constants = {k: PARTS[k] for k in ("k", "t", "p", "g", "b", "w1", "w2", "h", "c")}
    constants |= {
        "flat": np.asarray([0, 12, -1]),
        "ones": np.asarray([1, 12]),
        "zero": np.asarray(0),
    }
    rotates(build(text, constants, opset=23))


def test_principal_axes_need_data_and_use_them() -> None:
    step = RotateResidual(basis="principal")
    declines(network(NORMS["rms"], EMBEDDED, "y = MatMul(n3, h)"), step, "need calibration data")
    model = network(NORMS["layer"], EMBEDDED, "y = MatMul(n3, h)")
    before = onnx_ir.to_proto(model)
    ids = np.random.default_rng(0).integers(0, 5, (4, 6))
    work = Workbench(model, step, Context(bindings=BINDINGS, calibration=({"ids": ids},)))
    step.apply(work)
    assert work.coverage.changed == 1
    assert worst_error(before, model) <= 1e-4


def test_tied_embeddings_are_untied_on_demand() -> None:
    end = "turned = Transpose<perm=[1, 0]>(e) l = MatMul(n3, turned) y = MatMul(l, oo)"
    model = network(NORMS["layer"], EMBEDDED, end)
    declines(model, STEP, "is shared: it would be stored twice")
    rotates(model, RotateResidual(untie=True))
    assert "Transpose" not in ops(model)


DECLINED = {
    "x = Gather(e, ids) x0 = LayerNormalization(x, g, b)": "the network is post-norm",
    "x = Gather(e, ids) z = Mul(x, g) x0 = Add(z, p)": "does not leave the channels alone",
}


@pytest.mark.parametrize("start", DECLINED)
def test_declines(start: str) -> None:
    model = network(NORMS["layer"], start, "y = MatMul(n3, h)")
    declines(model, STEP, DECLINED[start])


def test_declines_readers_of_the_raw_stream_where_a_mean_is_subtracted() -> None:
    end = "r = MatMul(x2, h) s = MatMul(n3, o) y = Add(r, s)"
    for norm, good in (("rms", True), ("layer", False)):
        model = network(NORMS[norm], EMBEDDED, end)
        if good:
            rotates(model)
        else:
            declines(model, STEP, "reads the stream without subtracting its mean")


def test_declines_before_opset_23() -> None:
    model = network(NORMS["layer"], EMBEDDED, "y = MatMul(n3, h)")
    model.graph.opset_imports[""] = 17
    declines(model, STEP, "opset 17 has no RMSNormalization")
