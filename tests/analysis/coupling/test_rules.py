"""What single operators say: what stays, with the reason, and what goes together."""

import pytest
from pruning import network

from whet.analysis.coupling import Coupled
from whet.analysis.coupling.coupling import RULES
from whet.analysis.coupling.rules_shape import blocks

HELD = {
    "n = Softmax<axis=-1>(h)": "Softmax 'Softmax_1' mixes all indices",
    "n = LayerNormalization(h, g)": "takes mean and variance over them",
    "k = Shape(h) n = Gather(k, one)": "Shape 'Shape_1' is read for their number",
    "n = ReduceMean<keepdims=0>(h, one)": "ReduceMean 'ReduceMean_1' reduces over them",
    "n = Tile(h, twice)": "Tile 'Tile_1' repeats them",
    "n = CumSum(h, at)": "CumSum 'CumSum_1' mixes all indices",
    "n = Gather<axis=1>(h, at)": "Gather 'Gather_1' takes one of them",
    'n = Pad<mode="reflect">(h, pads)': "Pad 'Pad_1' pads with their neighbours",
}


@pytest.mark.parametrize("step", HELD)
def test_what_stays_says_why(step: str) -> None:
    """A hidden layer that an operator holds."""
    inputs = "(float[8,6] x) => (float[8,3] y)"
    numbers = (
        "<int64[1] one = {1}, int64[2] twice = {1,2}, int64 at = {1}, int64[4] pads = {0,1,0,1}>"
    )
    body = f"{{ h = MatMul(x, w0) {step} y = MatMul(h, w1) }}"
    weights = {"w0": (6, 8), "w1": (8, 3), "g": (8,)}
    model = network(f"{inputs} {numbers} {body}", weights)
    coupled = Coupled(model.graph)
    assert any(HELD[step] in reason for reason in coupled.kept), list(coupled.kept)
    assert sum(len(f.groups) for f in coupled.families) < 8


def test_blocks_of_a_reshape() -> None:
    """Equal sizes from the front, equal products from the end; sizes that are not known are left over."""
    pairs, rest = blocks(("N", 7, 12), ("N", 7, 3, 4))
    assert [(list(a), list(b)) for a, b in pairs] == [([0], [0]), ([1], [1]), ([2], [2, 3])]
    assert rest == []
    pairs, rest = blocks(("N", 4, 5, 6), ("M", 5, 6))
    assert [(list(a), list(b)) for a, b in pairs] == [([3], [2]), ([2], [1])]
    assert rest == [0, 1]


def test_every_kind_of_operator_has_a_rule() -> None:
    """Those that layers are made of; a new one is added to the table of its family."""
    wanted = {"Conv", "MatMul", "Attention", "Reshape", "Concat", "Add", "BatchNormalization"}
    assert wanted <= set(RULES)
