import numpy as np
import onnx_ir
import pytest
from folding import build, weights
from residual import SIZE, apply, tokens, transformer

from whet.errors import UsageError
from whet.ir.execute import Executor
from whet.ir.values import weight_bytes
from whet.ir.verify import verify
from whet.passes.structure.slice_residual import SliceResidual

EIGHTH = SliceResidual(share=0.25, multiple=4, limit=1.0)


def error(before: onnx_ir.Model, after: onnx_ir.Model) -> float:
    (old,), (new,) = (Executor(onnx_ir.to_proto(m)).run(tokens(8, 9)) for m in (before, after))
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


def thin(directions: int, norm: str = "rms") -> onnx_ir.Model:
    """Build a network whose stream never leaves a few directions."""
    model = transformer(3, norm=norm)
    q, _ = np.linalg.qr(np.random.default_rng(7).standard_normal((SIZE, SIZE)))
    onto = (q[:, :directions] @ q[:, :directions].T).astype(np.float32)
    for name, value in model.graph.initializers.items():
        if name == "e" or name[0] in "od":
            array = value.const_value.numpy() @ onto
            value.const_value = onnx_ir.tensor(array, name=name)
    return model


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_rotation_alone_changes_nothing(norm: str, shared: bool) -> None:
    before, model = transformer(3, norm=norm), transformer(3, norm=norm)
    coverage = apply(model, SliceResidual(share=0.0, shared=shared))
    verify(model)
    assert coverage.changed == 1, coverage
    assert error(before, model) < 1e-5
    bridges = [
        n for n in model.graph if n.op_type == "MatMul" and "bridge" in (n.inputs[1].name or "")
    ]
    assert len(bridges) == (0 if shared else 6)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_directions_that_are_not_used_cost_nothing(norm: str, shared: bool) -> None:
    before, model = thin(11, norm), thin(11, norm)
    size = weight_bytes(model)
    coverage = apply(model, SliceResidual(share=0.25, shared=shared, multiple=4))
    verify(model)
    assert coverage.changed == 1, coverage
    (row,) = coverage.damage
    assert row.format.startswith(f"12 of 16 channels, {1 if shared else 7} bases")
    assert row.measured_on == "held-out data"
    assert error(before, model) < 1e-4
    if shared:
        assert weight_bytes(model) < 0.8 * size
    values = {v.name: v for node in model.graph for v in node.outputs}
    assert any(v.shape is not None and v.shape[-1] == 12 for v in values.values())
    assert apply(model, SliceResidual(share=0.25, multiple=4)).changed == 0


def test_axes_of_their_own_lose_less() -> None:
    errors = {}
    for shared in (False, True):
        before, model = transformer(3), transformer(3)
        assert (
            apply(model, SliceResidual(share=0.25, multiple=4, shared=shared, limit=1.0)).changed
            == 1
        )
        errors[shared] = error(before, model)
    assert errors[False] < errors[True] < 1.0


def test_declines() -> None:
    cases = {
        SliceResidual(
            share=0.25, multiple=4, limit=0.01
        ): "with 12 of 16 channels the outputs change by",
        SliceResidual(
            share=0.1
        ): "of 16 channels 0.1 are 1.6: none goes, since a multiple of 8 remains",
    }
    for step, reason in cases.items():
        (said,) = apply(transformer(3), step).declined.values()
        assert said.startswith(reason)
    assert "needs calibration data" in apply(transformer(3), EIGHTH, data=False).declined.values()
    found = apply(transformer(2, post=True), EIGHTH).declined.values()
    assert all(said.endswith("the network is post-norm") for said in found)


def test_a_token_in_front_and_sizes_that_are_asked_for() -> None:
    text = """(int64[N,M] ids) => (float[N,30] y) {{ x = Gather(e, ids) {shape}
      r = MatMul(n, w) q = Relu(r) f = MatMul(q, v) h = Add(x, f) m = RMSNormalization(h, g) p = MatMul(m, u)
      y = ReduceMean<keepdims=0>(p, one) }}"""
    plain = text.format(shape="n = RMSNormalization(x, g)")
    asks = text.format(shape="s = Shape(x) z = Reshape(x, s) n = RMSNormalization(z, g)")
    drawn = weights(e=(30, 16), w=(16, 24), v=(24, 16), u=(16, 30), g=(16,)) | {
        "one": np.asarray([1])
    }
    assert apply(build(plain, drawn, opset=23), EIGHTH).changed == 1
    (said,) = apply(build(asks, drawn, opset=23), EIGHTH).declined.values()
    assert "asks for the number of channels" in said or "is computed" in said


def test_options_are_checked() -> None:
    with pytest.raises(UsageError, match="'share' of pass 'slice-residual' is 1"):
        SliceResidual(share=1.0)
