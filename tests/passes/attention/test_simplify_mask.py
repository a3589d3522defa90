import numpy as np
import pytest
from attending import Biased, Feeds, apply_pass, attend, feeds_of, relative, run

from whet.ir.values import Array, dimensions
from whet.passes.attention.simplify_mask import SimplifyMask
from whet.passes.base import Coverage

MASK = ", int64[B,M] mask"
PADDED = "b0 = Cast<to=9>(mask) pad = Unsqueeze(b0, ax12)"


def nothing(_: Feeds, i: Array, j: Array) -> Array:
    return i * 0.0


CAUSAL = {
    "less or equal": "bias = LessOrEqual(j, i)",
    "greater or equal": "bias = GreaterOrEqual(i, j)",
    "less than the next": "i1 = Add(i, one) bias = Less(j, i1)",
    "difference": "d = Sub(j, i) bias = LessOrEqual(d, zero)",
    "not after": "a = Greater(j, i) bias = Not(a)",
    "among others": "a = LessOrEqual(j, i) c = GreaterOrEqual(j, zero) bias = And(c, a)",
    "filled": "a = LessOrEqual(j, i) bias = Where(a, shift, least)",
    "triangle": "nm = Concat<axis=0>(n, m) o = Expand(unit, nm) t = Trilu<upper=0>(o) bias = Cast<to=9>(t)",
}


@pytest.mark.parametrize("name", CAUSAL)
def test_causal(name: str) -> None:
    model = Biased(CAUSAL[name], nothing, 0).model()
    coverage = apply_pass(model, SimplifyMask())
    assert coverage.changed == 1, coverage
    (node,) = [node for node in model.graph if node.op_type == "Attention"]
    assert node.attributes["is_causal"].as_int() == 1
    assert len(node.inputs) == 3 or node.inputs[3] is None
    assert apply_pass(model, SimplifyMask()).changed == 0
    feeds = feeds_of(model, 2, 7, 7)
    i, j = np.arange(7)[:, None], np.arange(7)[None, :]
    wanted = attend(feeds, np.where(j <= i, 0.0, -np.inf))
    assert relative(run(model, feeds), wanted) < 1e-5


@pytest.mark.parametrize(
    "nodes",
    [
        f"{PADDED} e = Concat<axis=0>(ax1, four, n, ax1) bias = Expand(pad, e)",
        f"{PADDED} c = GreaterOrEqual(i, zero) bias = And(c, pad)",
        f"{PADDED} bias = Where(pad, shift, least)",
    ],
)
def test_a_padding_mask_is_a_row_of_keys(nodes: str) -> None:
    model = Biased(nodes, nothing, 0, MASK).model()
    assert apply_pass(model, SimplifyMask()).changed == 1
    (expand,) = [node for node in model.graph if node.op_type == "Expand"]
    assert dimensions(expand.inputs[0]) == ("B", 1, 1, "M")
    assert dimensions(expand.outputs[0]) == ("B", 1, "N", "M")
    assert apply_pass(model, SimplifyMask()).changed == 0


def declined(nodes: str, inputs: str = "") -> Coverage:
    coverage = apply_pass(Biased(nodes, nothing, 0, inputs).model(), SimplifyMask())
    assert coverage.changed == 0
    return coverage


@pytest.mark.parametrize(
    "nodes",
    [
        "bias = Less(j, i)",
        "bias = GreaterOrEqual(j, i)",
        "i1 = Add(i, one) bias = LessOrEqual(j, i1)",
        "j2 = Add(j, j) bias = LessOrEqual(j2, i)",
        "a = LessOrEqual(j, i) b = Equal(j, one) bias = Or(a, b)",
    ],
)
def test_what_only_looks_causal(nodes: str) -> None:
    assert "smallest form" in next(iter(declined(nodes).declined.values()))


def test_a_query_that_sees_nothing_would_change() -> None:
    nodes = f"{PADDED} a = LessOrEqual(j, i) bias = And(a, pad)"
    assert "padded_rows=any" in next(iter(declined(nodes, MASK).declined.values()))
    model = Biased(nodes, nothing, 0, MASK).model()
    assert apply_pass(model, SimplifyMask(padded_rows="any")).changed == 1
    (node,) = [node for node in model.graph if node.op_type == "Attention"]
    assert node.attributes["is_causal"].as_int() == 1
    assert dimensions(node.inputs[3]) == ("B", 1, "N", "M")


def test_bias_beside_the_causal_mask_stays() -> None:
    nodes = (
        "a = LessOrEqual(j, i) d = Sub(j, i) f = Cast<to=1>(d) r = Abs(f) bias = Where(a, r, least)"
    )
    model = Biased(nodes, nothing, 0).model()
    assert apply_pass(model, SimplifyMask()).changed == 1
    feeds = feeds_of(model, 1, 9, 9)
    i, j = np.arange(9)[:, None], np.arange(9)[None, :]
    wanted = attend(feeds, np.where(j <= i, abs(j - i), -np.inf))
    assert relative(run(model, feeds), wanted) < 1e-5
