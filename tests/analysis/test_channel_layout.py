import math

import numpy as np
import onnx_ir
import pytest
from folding import build
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.analysis.channel_layout import Layout, forward, is_linear, regrouped
from whet.errors import Mismatch
from whet.ir.execute import Executor


def follow(model: onnx_ir.Model, axis: int, channels: int) -> dict[str, Layout]:
    """Follow the channels of input ``x`` to the end."""
    x = model.graph.inputs[0]
    assert x.shape is not None
    layouts = {x: Layout.along(axis, len(x.shape), channels)}
    for node in model.graph:
        known = {k: layouts[v] for k, v in enumerate(node.inputs) if v in layouts}
        if known:
            for value, layout in zip(node.outputs, forward(node, known), strict=False):
                if layout is not None:
                    layouts[value] = layout
    return {v.name or "": layout for v, layout in layouts.items()}


MOVES = {
    "split-heads": "a = Reshape(x, i) y = Transpose<perm=[0, 2, 1, 3]>(a)",
    "merge": "a = Transpose<perm=[2, 0, 1]>(x) y = Reshape(a, flat)",
    "flatten": "a = Transpose<perm=[0, 2, 1]>(x) y = Flatten<axis=1>(a)",
    "squeeze": "a = Unsqueeze(x, one) b = Unsqueeze(a, one) y = Squeeze(b, one)",
    "slice": "y = Slice(x, one, four, two)",
    "backwards": "y = Slice(x, last, first, two, last)",
    "split": "a, y = Split<axis=2, num_outputs=2>(x)",
    "gather": "y = Gather<axis=2>(x, picks)",
    "unbind": "a = Reshape(x, i) y = Gather<axis=2>(a, second)",
    "rows": "y = Gather<axis=1>(x, second)",
    "expand": "a = Unsqueeze(x, one) y = Expand(a, wide)",
}


@pytest.mark.parametrize("name", MOVES)
def test_movements_carry_the_numbers_of_channels(name: str) -> None:
    """A tensor that holds the number of every channel must come out as the layout says."""
    constants = {
        "i": np.asarray([2, 3, 3, 4]), "flat": np.asarray([-1]), "one": np.asarray([1]),
        "four": np.asarray([7]), "two": np.asarray([2]), "last": np.asarray([-1]),
        "first": np.asarray([-100]), "picks": np.asarray([3, 0, 11]), "second": np.asarray(1),
        "wide": np.asarray([2, 5, 3, 12]),
    }  # fmt: skip
    text = MOVES[name]
    used = {k: v for k, v in constants.items() if f" {k}" in text.replace("(", " ")}
    rank = {
        "split-heads": 4,
        "merge": 1,
        "flatten": 2,
        "unbind": 3,
        "rows": 2,
        "expand": 4,
        "squeeze": 4,
    }
    shape = ",".join("abcd"[: rank.get(name, 3)])
    model = build(f"(float[2,3,12] x) => (float[{shape}] y) {{ {text} }}", used, opset=18)
    layout = follow(model, 2, 12)["y"]
    numbers = np.broadcast_to(np.arange(12, dtype=np.float32), (2, 3, 12))
    (found,) = Executor(onnx_ir.to_proto(model)).run({"x": np.ascontiguousarray(numbers)})
    assert np.array_equal(np.broadcast_to(layout.spread(np.arange(12.0)), found.shape), found)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_regrouping_against_a_reshape(data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4)))
    axis = data.draw(st.integers(0, len(sizes) - 1))
    new = list(sizes)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(new) - 1))
        if len(new) > 1 and at + 1 < len(new) and data.draw(st.booleans()):
            new[at : at + 2] = [new[at] * new[at + 1]]
        else:
            first = data.draw(st.sampled_from([k for k in (1, 2, 3) if new[at] % k == 0]))
            new[at : at + 1] = [first, new[at] // first]
    layout = Layout.along(axis, len(sizes), sizes[axis])
    numbers = np.broadcast_to(layout.spread(np.arange(float(sizes[axis]))), sizes)
    try:
        moved = regrouped(layout, sizes, tuple(new))
    except Mismatch:
        assert math.prod(sizes) > 1
        return
    spread = np.broadcast_to(moved.spread(np.arange(float(sizes[axis]))), new)
    assert np.array_equal(spread, numbers.reshape(new))


def test_symbolic_sizes() -> None:
    layout = regrouped(Layout.along(2, 3, 12), ("b", "s", 12), ("b", "s", 3, 4))
    assert [None if part is None else part.tolist() for part in layout.axes] == [
        None, None, [0, 4, 8], [0, 1, 2, 3],
    ]  # fmt: skip
    layout = regrouped(Layout.along(1, 4, 3), ("n", 3, "h", "w"), ("n", 3, "h*w"))
    assert layout.same(Layout.along(1, 3, 3))
    with pytest.raises(Mismatch, match="mixes channels with axes of unknown size"):
        regrouped(Layout.along(1, 4, 3), ("n", 3, "h", "w"), ("n", "3*h*w"))


STOPS = {
    "y = Sigmoid(x)": "do not pass through Sigmoid",
    "y = Clip(x)": "do not pass through Clip",
    "y = Mul(x, x)": "not linear in what is scaled",
    "y = Div(c, x)": "not linear in what is scaled",
    "y = Add(x, z)": "which is not scaled",
    "a = Transpose<perm=[0, 2, 1]>(x) y = Add(x, a)": "channels of different numbers",
    "y = ReduceMax(x, axis)": "tells channels apart",
    "y = GlobalAveragePool(x)": "tells channels apart",
    "y = Pad(x, pads, c1)": "number of its own",
    "y = Gather<axis=2>(x, one)": "takes a single channel",
}


@pytest.mark.parametrize("text", STOPS)
def test_what_scales_do_not_pass_through(text: str) -> None:
    constants = {
        "c": np.ones((2, 3, 3), np.float32), "c1": np.float32(1), "axis": np.asarray([2]),
        "pads": np.asarray([0, 1, 0, 0, 1, 0]), "one": np.asarray(1),
    }  # fmt: skip
    used = {k: v for k, v in constants.items() if f"{k})" in text or f"{k}," in text}
    shape = {"y = ReduceMax(x, axis)": "a,b,e", "y = Gather<axis=2>(x, one)": "a,b"}
    model = build(
        f"(float[2,3,3] x, float[2,3,3] z) => (float[{shape.get(text, 'a,b,e')}] y) {{ {text} }}",
        used,
    )
    with pytest.raises(Mismatch, match=STOPS[text]):
        follow(model, 2, 3)


def test_values_pass_through_attention_to_every_head_that_shares_them() -> None:
    model = build(
        """(float[2,2,5,3] x, float[2,4,6,3] q, float[2,2,5,3] k) => (float[2,4,6,3] y)
        { y = Attention(q, k, x) }""",
        opset=23,
    )
    node, layout = model.graph[0], Layout((None, np.asarray([0, 3]), None, np.arange(3)))
    (out,) = forward(node, {2: layout})
    assert out is not None
    assert out.axes[1] is not None
    assert out.axes[1].tolist() == [0, 0, 3, 3]
    with pytest.raises(Mismatch, match="at another operand"):
        forward(node, {1: layout})


def test_single_axis() -> None:
    layout = Layout((np.asarray([0, 2]), np.asarray([0, 1])))
    with pytest.raises(Mismatch, match="do not lie along axis 1 alone"):
        layout.single(1)
    assert layout.labels().tolist() == [0, 1, 2, 3]


def test_linear() -> None:
    model = build(
        "(float[N,3] x, float[3,3] c) => (float[N,3] y) { a = MatMul(x, c) y = MatMul(a, w) }",
        {"w": np.ones((3, 3), np.float32)},
    )
    assert [is_linear(node) for node in model.graph] == [False, True]
