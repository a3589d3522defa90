from collections.abc import Mapping

import numpy as np
import onnx_ir
import pytest
from folding import build, compile_with, declines, ops, run, worst_error
from hypothesis import given
from hypothesis import strategies as st

from whet.ir.values import Array
from whet.passes.attention.lift_rotary_embedding import LiftRotaryEmbedding
from whet.passes.base import Coverage
from whet.passes.canonical.fold_shape_arithmetic import FoldShapeArithmetic
from whet.passes.recipes import canonical

STEP = LiftRotaryEmbedding()
HUGE = 2**63 - 1
CONSTANTS = {
    "zero": np.array([0]),
    "one": np.array([1]),
    "two": np.array([2]),
    "three": np.array([3]),
    "half": np.array([4]),
    "huge": np.array([HUGE]),
    "back": np.array([-1]),
    "halves": np.array([4, 4]),
    "minus": np.array(-1, np.float32),
    "nought": np.array(0, np.float32),
    "scale": np.array(1.5, np.float32),
    "flat": np.array([0, 0, 0, 8]),
    "pairs": np.array([0, 0, 0, 4, 2]),
    "rows": np.array([0, 0, 0, 2, 4]),
    "first": np.array(0),
    "second": np.array(1),
}
HALVES = "x1 = Slice(x, zero, half, three) x2 = Slice(x, half, huge, three)"
EVEN_ODD = "x1 = Slice(x, zero, huge, three, two) x2 = Slice(x, one, huge, three, two)"
TURN = "n2 = Neg(x2) r = Concat<axis = -1>(n2, x1)"
TURN_PAIRS = (
    "n2 = Neg(x2) a = Unsqueeze(n2, back) b = Unsqueeze(x1, back) "
    "s5 = Concat<axis = -1>(a, b) r = Reshape(s5, flat)"
)
ANGLES = "e = Concat<axis = -1>(f, f) c = Cos(e) s = Sin(e)"
SUM = "p = Mul(x, c) q = Mul(r, s) y = Add(p, q)"
X, F, Y = "float[N,3,M,8] x", "float[N,1,M,4] f", "float[N,3,M,8] y"


def rotary(
    body: str,
    x: str = X,
    f: str = F,
    y: str = Y,
    more: Mapping[str, Array] | None = None,
    opset: int = 23,
) -> onnx_ir.Model:
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    known = {**CONSTANTS, **(more or {})}
    used = {name: array for name, array in known.items() if name in words}
    model = build(f"({x}{', ' if f else ''}{f}) => ({y}) {{ {body} }}", used, opset)
    run(model, FoldShapeArithmetic())  # notes sizes that ONNX's inference does not find out
    return model


def lifts(model: onnx_ir.Model, kept: list[str] | None = None) -> tuple[onnx_ir.Node, Coverage]:
    """Check that one rotation is lifted, that outputs stay and that a second run changes nothing."""
    before = onnx_ir.to_proto(model)
    coverage = run(model, STEP)
    assert not coverage.failures, coverage.failures
    assert coverage.changed == 1, coverage
    assert worst_error(before, model) <= 1e-5
    assert run(model, STEP).changed == 0
    (node,) = [node for node in model.graph if node.op_type == "RotaryEmbedding"]
    if kept is not None:
        assert ops(model) == kept
    return node, coverage


def attributes(node: onnx_ir.Node) -> dict[str, int]:
    return {name: attribute.as_int() for name, attribute in node.attributes.items()}


LIFTED = ["Cos", "Squeeze", "Sin", "Squeeze", "RotaryEmbedding"]


@pytest.mark.parametrize(
    "parts",
    [
        HALVES,
        "x1, x2 = Split<axis = -1>(x, halves)",
        "w = Reshape(x, rows) x1 = Gather<axis = 3>(w, first) x2 = Gather<axis = -2>(w, second)",
        "x1 = Slice(x, zero, half, back) x2 = Slice(x, half, huge, back, one)",
    ],
)
@pytest.mark.parametrize(
    "turn",
    [
        TURN,
        "n2 = Mul(x2, minus) r = Concat<axis = 3>(n2, x1)",
        "n2 = Sub(nought, x2) r = Concat<axis = 3>(n2, x1)",
        "n2 = Neg(x2) a = Unsqueeze(n2, three) b = Unsqueeze(x1, three) "
        "s5 = Concat<axis = 3>(a, b) r = Reshape(s5, flat)",
    ],
)
def test_halves(parts: str, turn: str) -> None:
    node, coverage = lifts(rotary(f"{ANGLES} {parts} {turn} {SUM}"), LIFTED)
    assert attributes(node) == {"interleaved": 0}
    assert coverage.matched == 1


INTERLEAVED_ANGLES = [
    "u = Unsqueeze(f, back) d = Concat<axis = -1>(u, u) e = Reshape(d, flat) c = Cos(e) s = Sin(e)",
    "u = Unsqueeze(f, back) d = Tile(u, five) e = Reshape(d, flat) c = Cos(e) s = Sin(e)",
]


@pytest.mark.parametrize("angles", INTERLEAVED_ANGLES)
@pytest.mark.parametrize(
    "parts",
    [
        EVEN_ODD,
        "w = Reshape(x, pairs) x1 = Gather<axis = -1>(w, first) x2 = Gather<axis = 4>(w, second)",
        "w = Reshape(x, pairs) u1, u2 = Split<axis = -1, num_outputs = 2>(w) "
        "x1 = Squeeze(u1, back) x2 = Squeeze(u2, back)",
        "w = Reshape(x, pairs) u1 = Slice(w, zero, one, back) u2 = Slice(w, one, two, back) "
        "x1 = Squeeze(u1, back) x2 = Squeeze(u2, back)",
    ],
)
def test_neighbours(parts: str, angles: str) -> None:
    body = f"{angles} {parts} {TURN_PAIRS} {SUM}"
    node, _ = lifts(rotary(body, more={"five": np.array([1, 1, 1, 1, 2])}), LIFTED)
    assert attributes(node) == {"interleaved": 1}


BY_PAIRS = "a1 = Mul(x1, c) a2 = Mul(s, x2) b1 = Mul(x2, c) b2 = Mul(x1, s) u = Sub(a1, a2) v = Add(b2, b1)"


@pytest.mark.parametrize("interleaved", [0, 1])
def test_pair_by_pair(interleaved: int) -> None:
    join = "y = Concat<axis = -1>(u, v)"
    if interleaved:
        join = "a = Unsqueeze(u, back) b = Unsqueeze(v, back) w = Concat<axis = 4>(a, b) y = Reshape(w, flat)"
    body = f"c = Cos(f) s = Sin(f) {EVEN_ODD if interleaved else HALVES} {BY_PAIRS} {join}"
    node, _ = lifts(rotary(body), ["Cos", "Sin", "Squeeze", "Squeeze", "RotaryEmbedding"])
    assert attributes(node) == {"interleaved": interleaved}


@pytest.mark.parametrize(
    "total",
    ["p = Mul(x, c) q = Mul(s, r) y = Add(q, p)", "p = Mul(c, x) q = Mul(r, s) y = Add(p, q)"],
)
def test_any_order_of_operands(total: str) -> None:
    lifts(rotary(f"{ANGLES} {HALVES} {TURN} {total}"))


PARTIAL = {"x": "float[N,3,M,12] z", "y": "float[N,3,M,12] out"}


@pytest.mark.parametrize(
    "cut",
    [
        "x = Slice(z, zero, eight, three) rest = Slice(z, eight, huge, three)",
        "x, rest = Split<axis = -1>(z, sizes)",
    ],
)
def test_the_first_features_only(cut: str) -> None:
    body = f"{ANGLES} {cut} {HALVES} {TURN} {SUM} out = Concat<axis = -1>(y, rest)"
    more = {"eight": np.array([8]), "sizes": np.array([8, 4])}
    node, _ = lifts(rotary(body, **PARTIAL, more=more), LIFTED)
    assert attributes(node) == {"interleaved": 0, "rotary_embedding_dim": 8}
    assert node.inputs[0] is not None
    assert node.inputs[0].name == "z"


def test_the_first_features_cut_from_the_whole_at_once() -> None:
    cut = "rest = Slice(z, eight, huge, three) x1 = Slice(z, zero, half, three) x2 = Slice(z, half, eight, three)"
    body = f"c = Cos(f) s = Sin(f) {cut} {BY_PAIRS} y = Concat<axis = -1>(u, v) out = Concat<axis = -1>(y, rest)"
    node, _ = lifts(rotary(body, **PARTIAL, more={"eight": np.array([8])}))
    assert attributes(node)["rotary_embedding_dim"] == 8


@pytest.mark.parametrize(
    ("start", "rest"),
    [(4, "rest = Slice(z, zero, half, three)"), (0, "rest = Slice(z, zero, half, three)")],
)
def test_features_that_are_not_the_first_are_cut_out(start: int, rest: str) -> None:
    body = (
        f"{ANGLES} {rest} x = Slice(z, begin, end, three) {HALVES} {TURN} {SUM} "
        "out = Concat<axis = -1>(y, rest)"
    )
    more = {"begin": np.array([start]), "end": np.array([start + 8])}
    node, _ = lifts(rotary(body, **PARTIAL, more=more))
    assert attributes(node) == {"interleaved": 0}


def test_features_in_the_middle_pair_by_pair_get_a_slice() -> None:
    cut = "x1 = Slice(z, half, eight, three) x2 = Slice(z, eight, huge, three)"
    body = f"c = Cos(f) s = Sin(f) {cut} {BY_PAIRS} y = Concat<axis = -1>(u, v)"
    model = rotary(body, x=PARTIAL["x"], more={"eight": np.array([8])})
    node, _ = lifts(model)
    assert attributes(node) == {"interleaved": 0}
    assert ops(model).count("Slice") == 1


def test_heads_behind_the_positions_are_transposed() -> None:
    body = f"{ANGLES} {HALVES} {TURN} {SUM}"
    model = rotary(body, "float[N,M,3,8] x", "float[N,M,1,4] f", "float[N,M,3,8] y")
    lifts(model, [*LIFTED[:4], "Transpose", "RotaryEmbedding", "Transpose"])


@pytest.mark.parametrize(
    ("f", "heads", "shaping"),
    [
        ("float[M,4] f", 1, ["Unsqueeze", "Expand"]),
        ("float[1,M,4] f", 1, ["Expand"]),
        ("float[1,1,M,4] f", 1, ["Squeeze", "Expand"]),
        ("float[M,1,4] f", 2, ["Squeeze", "Unsqueeze", "Expand"]),
        ("float[1,M,1,4] f", 2, ["Squeeze", "Expand"]),
    ],
)
def test_angles_of_one_sequence_are_repeated_for_the_batch(
    f: str, heads: int, shaping: list[str]
) -> None:
    sizes = "N,3,M,8" if heads == 1 else "N,M,3,8"
    body = f"{ANGLES} {HALVES} {TURN} {SUM}"
    model = rotary(body, f"float[{sizes}] x", f, f"float[{sizes}] y")
    lifts(model)
    found = ops(model)
    assert [kind for kind in found if kind in {"Squeeze", "Unsqueeze", "Expand"}] == shaping * 2
    assert [tuple(n.attributes) for n in model.graph if n.op_type == "Shape"] == [
        ("start", "end")
    ] * 2


def test_a_fixed_batch_needs_no_shape() -> None:
    body = f"{ANGLES} {HALVES} {TURN} {SUM}"
    model = rotary(body, "float[2,3,M,8] x", "float[M,4] f", "float[2,3,M,8] y")
    lifts(model)
    assert "Expand" in ops(model)
    assert "Shape" not in ops(model)
    model = rotary(body, "float[1,3,M,8] x", "float[M,4] f", "float[1,3,M,8] y")
    lifts(model, ["Cos", "Unsqueeze", "Sin", "Unsqueeze", "RotaryEmbedding"])


@pytest.mark.parametrize("axes", ["one", "zero_one"])
def test_an_axis_put_in_for_the_heads_is_left_out(axes: str) -> None:
    f = "float[N,M,4] f" if axes == "one" else "float[M,4] f"
    angles = f"e = Concat<axis = -1>(f, f) c3 = Cos(e) s3 = Sin(e) c = Unsqueeze(c3, {axes}) s = Unsqueeze(s3, {axes})"
    body = f"{angles} {HALVES} {TURN} {SUM}"
    model = rotary(body, f=f, more={"zero_one": np.array([0, 1])})
    lifts(model)
    assert "Squeeze" not in ops(model)


@pytest.mark.parametrize(
    "angles",
    [
        "e = Concat<axis = -1>(f, f) c1 = Cos(e) s1 = Sin(e) c = Mul(c1, scale) s = Mul(scale, s1)",
        "e = Concat<axis = -1>(f, f) c1 = Cos(e) s = Sin(e) c2 = Cast<to = 11>(c1) c = Cast<to = 1>(c2)",
        "e = Tile(f, four) c = Cos(e) s = Sin(e)",
        "g = Mul(f, scale) e = Concat<axis = -1>(g, g) h = Div(e, scale) c = Cos(h) s = Sin(h)",
        "t = Transpose<perm = [2, 1, 0, 3]>(f) e = Concat<axis = -1>(t, t) c1 = Cos(e) s1 = Sin(e) "
        "c = Transpose<perm = [2, 1, 0, 3]>(c1) s = Transpose<perm = [2, 1, 0, 3]>(s1)",
        "q3 = Squeeze(f, one) e = Concat<axis = -1>(q3, q3) c3 = Cos(e) s3 = Sin(e) "
        "c = Reshape(c3, four_axes) s = Unsqueeze(s3, one)",
        "e = Concat<axis = -1>(f, f) c1 = Cos(e) s1 = Sin(e) s = Slice(s1, zero, huge, two) "
        "c2 = Slice(c1, zero, one, two) c3 = Slice(c1, one, huge, two) c = Concat<axis = 2>(c2, c3)",
    ],
)
def test_what_is_computed_from_angles_written_twice(angles: str) -> None:
    more = {"four": np.array([1, 1, 1, 2]), "four_axes": np.array([0, 1, -1, 8])}
    model = rotary(f"{angles} {HALVES} {TURN} {SUM}", more=more)
    for value in (node.outputs[0] for node in model.graph if node.outputs[0].name == "c"):
        value.shape = onnx_ir.Shape(["N", 1, "M", 8])
    lifts(model)


TABLE = np.cos(np.arange(12 * 4, dtype=np.float32)).reshape(12, 4)


def test_rows_of_a_table_stay_gathered() -> None:
    """Positions may be negative for Gather, not for RotaryEmbedding."""
    angles = "c3 = Gather<axis = 0>(ct, ids) s3 = Gather(st, ids) c = Unsqueeze(c3, one) s = Unsqueeze(s3, one)"
    more = {"ct": np.concatenate([TABLE, TABLE], -1), "st": np.concatenate([TABLE, TABLE], -1) ** 2}
    model = rotary(f"{angles} {HALVES} {TURN} {SUM}", f="int64[N,M] ids", more=more)
    lifts(model, ["Gather", "Gather", "RotaryEmbedding"])
    tables = [
        v.const_value.shape.numpy() for v in model.graph.initializers.values() if v.const_value
    ]
    assert tables.count((12, 4)) == 2


@pytest.mark.parametrize("interleaved", [0, 1])
def test_constant_tables_are_halved_and_shared(interleaved: int) -> None:
    table = np.repeat(TABLE, 2, -1) if interleaved else np.tile(TABLE, 2)
    parts = EVEN_ODD if interleaved else HALVES
    turn = TURN_PAIRS if interleaved else TURN
    body = f"{parts} {turn} {SUM}"
    model = rotary(body, "float[2,3,12,8] x", "", "float[2,3,12,8] y", {"c": table, "s": table})
    node, _ = lifts(model)
    assert node.inputs[1] is not None
    assert attributes(node)["interleaved"] == interleaved
    assert ops(model) == ["Expand", "Expand", "RotaryEmbedding"]


def layers(count: int) -> str:
    """Return rotations of x by the same angles, one after the other."""
    text = ANGLES
    for k in range(count):
        x, y = ("x" if k == 0 else f"y{k - 1}"), (f"y{k}" if k + 1 < count else "y")
        text += f""" a{k} = Slice({x}, zero, half, three) b{k} = Slice({x}, half, huge, three) n{k} = Neg(b{k})
            r{k} = Concat<axis = -1>(n{k}, a{k}) p{k} = Mul({x}, c) q{k} = Mul(r{k}, s) {y} = Add(p{k}, q{k})"""
    return text


def test_layers_share_their_angles() -> None:
    model = rotary(layers(3), f="float[1,1,M,4] f")
    assert run(model, STEP).changed == 3
    compile_with(model, canonical())
    found = ops(model)
    assert [found.count(kind) for kind in ("Cos", "Sin", "Expand", "RotaryEmbedding")] == [
        1,
        1,
        2,
        3,
    ]


def test_layers_share_constant_tables() -> None:
    table = np.tile(TABLE, 2)
    text = layers(3).removeprefix(ANGLES)
    model = rotary(text, "float[1,3,12,8] x", "", "float[1,3,12,8] y", {"c": table, "s": table**2})
    assert run(model, STEP).changed == 3
    assert len({node.inputs[1] for node in model.graph}) == 1
    assert [
        v.const_value.shape.numpy()
        for v in model.graph.initializers.values()
        if v.const_value and v.const_value.size == 48
    ] == [(1, 12, 4)] * 2


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        (
            f"c = Cos(f) s = Sin(f) {HALVES} {TURN} {SUM}",
            {"f": "float[N,1,M,8] f"},
            "'f' is an input",
        ),
        (
            f"g = Neg(f) e = Concat<axis = -1>(f, g) c = Cos(e) s = Sin(e) {HALVES} {TURN} {SUM}",
            {},
            "puts different values side by side",
        ),
        (
            f"{INTERLEAVED_ANGLES[0]} {HALVES} {TURN} {SUM}",
            {},
            "may change the last axis",
        ),
        (f"{ANGLES} {EVEN_ODD} {TURN_PAIRS} {SUM}", {}, "puts different values side by side"),
        (f"{ANGLES} {HALVES} {TURN} {SUM}", {"f": "float[N,3,M,4] f"}, "differ from head to head"),
        (
            f"{ANGLES} {HALVES} {TURN} {SUM}",
            {"f": "float[N,1,1,4] f"},
            "are not one for each position",
        ),
        (
            "c = Cos(f) s = Sin(f) x1 = Slice(x, zero, half, two) x2 = Slice(x, half, huge, two) "
            f"{TURN} {SUM}",
            {"x": "float[N,M,8] x", "f": "float[N,M,8] f", "y": "float[N,M,8] y"},
            "is of rank 3, not 4",
        ),
        (f"{ANGLES} {HALVES} {TURN} {SUM}", {"opset": 22}, "opset 22 has no RotaryEmbedding"),
        (
            f"{ANGLES} {HALVES} {TURN} {SUM}",
            {"x": "double[N,3,M,8] x", "f": "double[N,1,M,4] f", "y": "double[N,3,M,8] y"},
            "RotaryEmbedding does not take DOUBLE",
        ),
        (
            f"{ANGLES} {HALVES} {TURN} {SUM}",
            {"x": "float[1,3,M,8] x"},
            "not known to be the same shape",
        ),
    ],
)
def test_declines(body: str, options: dict[str, object], reason: str) -> None:
    declines(rotary(body, **options), STEP, reason)


def test_declines_tables_whose_halves_differ() -> None:
    table = np.arange(96, dtype=np.float32).reshape(12, 8)
    model = rotary(
        f"{HALVES} {TURN} {SUM}",
        "float[2,3,12,8] x",
        "",
        "float[2,3,12,8] y",
        {"c": table, "s": table},
    )
    declines(model, STEP, "the halves of the constant 'c' differ")


@pytest.mark.parametrize(
    "total",
    [
        "p = Mul(x, c) q = Mul(r, s) y = Sub(p, q)",
        "p = Mul(x, c) q = Add(r, s) y = Add(p, q)",
        "p = Mul(f2, c) q = Mul(r, s) y = Add(p, q)",
    ],
)
def test_near_misses(total: str) -> None:
    body = f"{ANGLES} f2 = Relu(x) {HALVES} {TURN} {total}"
    declines(rotary(body), STEP, "(-x2, x1) is not multiplied by sines")


@pytest.mark.parametrize(
    "turn",
    [
        "n2 = Neg(x1) r = Concat<axis = -1>(n2, x2)",  # the halves in place
        "n2 = Neg(x2) r = Concat<axis = -1>(x1, n2)",  # the other one negated
        "n2 = Neg(x2) r1 = Concat<axis = 1>(n2, x1) r = Reshape(r1, flat3)",  # along the heads
    ],
)
def test_leaves_other_sums(turn: str) -> None:
    model = rotary(f"{ANGLES} {HALVES} {turn} {SUM}", more={"flat3": np.array([0, 3, -1, 8])})
    before = ops(model)
    coverage = run(model, STEP)
    assert (coverage.matched, coverage.near_misses, ops(model)) == (0, {}, before)


@given(
    heads=st.integers(1, 4),
    half=st.integers(1, 5),
    rest=st.integers(0, 5),
    interleaved=st.booleans(),
    late=st.booleans(),
    batch=st.sampled_from(["N", "1", "2"]),
    orders=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_any_shape(
    heads: int,
    half: int,
    rest: int,
    interleaved: bool,
    late: bool,
    batch: str,
    orders: tuple[bool, bool, bool],
) -> None:
    turned, size = 2 * half, 2 * half + rest
    sizes = f"{batch},M,{heads},{size}" if late else f"{batch},{heads},M,{size}"
    f = f"float[1,M,1,{half}] f" if late else f"float[1,1,M,{half}] f"
    if interleaved:
        angles = "w = Unsqueeze(f, back) d = Concat<axis = -1>(w, w) e = Reshape(d, wide) c = Cos(e) s = Sin(e)"
        parts, turn = EVEN_ODD, TURN_PAIRS.replace("Reshape(s5, flat)", "Reshape(s5, full)")
    else:
        angles, parts, turn = ANGLES, HALVES.replace("half", "middle"), TURN
    p, q = ("Mul(x, c)", "Mul(r, s)")
    p = "Mul(c, x)" if orders[0] else p
    q = "Mul(s, r)" if orders[1] else q
    total = f"p = {p} q = {q} y = {'Add(q, p)' if orders[2] else 'Add(p, q)'}"
    cut = (
        "x = Slice(z, zero, turned, three) rest = Slice(z, turned, huge, three)"
        if rest
        else "x = Identity(z)"
    )
    end = "out = Concat<axis = 3>(y, rest)" if rest else "out = Identity(y)"
    more = {
        "turned": np.array([turned]),
        "middle": np.array([half]),
        "wide": np.array([0, 0, 0, turned]),
        "full": np.array([0, 0, 0, turned]),
    }
    body = f"{angles} {cut} {parts} {turn} {total} {end}"
    model = rotary(body, f"float[{sizes}] z", f, f"float[{sizes}] out", more)
    node, _ = lifts(model)
    wanted = {"interleaved": int(interleaved and half > 1)}
    if interleaved and half == 1:
        wanted = {"interleaved": attributes(node)["interleaved"]}
    assert attributes(node) == {**wanted, **({"rotary_embedding_dim": turned} if rest else {})}
    assert ops(model).count("Transpose") == (2 if late else 0)
