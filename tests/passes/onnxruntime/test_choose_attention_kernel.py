"""Every kernel, forced by an invented price, computes what the standard says."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir
import pytest
from fake_prices import FakePrices
from hypothesis import given, settings
from hypothesis import strategies as st
from rewriting import context_of, model_of, op_types

from whet.ir.execute import CannotRun, Executor
from whet.ir.verify import verify
from whet.passes.base import Coverage
from whet.passes.onnxruntime.attention_kernels import KERNELS, STANDARD
from whet.passes.onnxruntime.choose_attention_kernel import ChooseAttentionKernel
from whet.passes.workbench import Workbench

NAMES = [kernel.name for kernel in KERNELS]
OTHERS = [name for name in NAMES if name != STANDARD]
OPERATOR = {"Attention of rank 3": "Attention", "MatMul and Softmax": "Softmax"}
OPERATOR["MultiHeadAttention, keys by head"] = "MultiHeadAttention"
LOWEST = float(np.finfo(np.float32).min)


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    softcap: float = 0.0,
    past: int = 0,
) -> np.ndarray:
    """Follow the standard in float64: a query all of whose keys are hidden gives zero."""
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x.astype(np.float64), group, 1) for x in (k, v))
    scores = q.astype(np.float64) @ k.swapaxes(-1, -2)
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    bias = np.zeros(scores.shape[-2:])
    if mask is not None:
        bias = np.where(mask, 0.0, -np.inf) if mask.dtype == np.bool_ else mask.astype(np.float64)
        bias = np.where(bias <= LOWEST, -np.inf, bias)
    if causal:
        rows, columns = (np.arange(size) for size in scores.shape[-2:])
        bias = np.where(columns <= rows[:, None] + past, bias, -np.inf)
    scores = scores + bias
    most = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isinf(most), 0.0, most))
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total == 0, 1.0, total) @ v


def merged(x: np.ndarray) -> np.ndarray:
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def prefer(name: str) -> FakePrices:
    return FakePrices(lambda _work, kernel: 1.0 if kernel == name else 2.0)


def choose(model: onnx_ir.Model, prices: FakePrices | None) -> Coverage:
    """Run the pass with proofs: it must refuse nothing, leave a valid model, and change nothing the second time."""
    context = dataclasses.replace(context_of(model), prices=prices)
    work = Workbench(model, ChooseAttentionKernel(), context)
    ChooseAttentionKernel().apply(work)
    assert not work.coverage.failures
    verify(model)
    onnx.checker.check_model(onnx_ir.to_proto(model))
    again = Workbench(model, ChooseAttentionKernel(), context)
    ChooseAttentionKernel().apply(again)
    assert again.coverage.changed == 0
    return work.coverage


def run(model: onnx_ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    proto = onnx_ir.to_proto(model)
    plain = Executor(proto).run(feeds)
    for one, other in zip(plain, Executor(proto, optimization="all").run(feeds), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    return plain


@dataclasses.dataclass(frozen=True)
class Case:
    """An attention as text, with the sizes it is fed with."""

    heads: int = 4
    key_heads: int = 4
    head: int = 8
    value_head: int = 8
    causal: bool = False
    softcap: float = 0.0
    scale: float | None = None
    mask: str = ""
    """Type of the mask."""
    axes: tuple[str, ...] = ()
    """Sizes of the mask: letters of the dimensions b, s, t, or numbers."""
    merged: str = ""
    square: bool = False
    fixed: tuple[int, int, int] | None = None

    @property
    def text(self) -> str:
        keys = "s" if self.square else "t"
        shapes = {"q": (self.heads, "s", self.head), "k": (self.key_heads, keys, self.head)}
        shapes["v"] = (self.key_heads, keys, self.value_head)
        inputs, lines = [], []
        for name, (count, length, size) in shapes.items():
            if name not in self.merged:
                inputs.append(f"float[b,{count},{length},{size}] {name}")
                continue
            inputs.append(f"float[b,{length},{count * size}] {name}1")
            lines.append(f"{name}0 = Constant<value_ints=[0,0,{count},{size}]>()")
            lines.append(f"{name}2 = Reshape({name}1, {name}0)")
            lines.append(f"{name} = Transpose<perm=[0,2,1,3]>({name}2)")
        mask = ""
        if self.mask:
            inputs.append(f"{self.mask}[{','.join(self.axes).replace('t', keys)}] m")
            mask = ", m"
        lines.append(f"o = Attention<{self.attributes}>(q, k, v{mask})")
        output = f"float[b,{self.heads},s,{self.value_head}] o"
        if "y" in self.merged:
            width = self.heads * self.value_head
            lines.append("o2 = Transpose<perm=[0,2,1,3]>(o)")
            lines.append(f"o0 = Constant<value_ints=[0,0,{width}]>() y = Reshape(o2, o0)")
            output = f"float[b,s,{width}] y"
        text = f"({', '.join(inputs)}) => ({output}) {{ {' '.join(lines)} }}"
        return self._with_numbers(text)

    def _with_numbers(self, text: str) -> str:
        if self.fixed is None:
            return text
        for letter, size in zip("bst", self.fixed, strict=True):
            text = text.replace(f"[{letter},", f"[{size},").replace(f",{letter},", f",{size},")
            text = text.replace(f",{letter}]", f",{size}]")
            text = text.replace(f",{letter},", f",{size},").replace(f"[{letter}]", f"[{size}]")
        return text

    @property
    def attributes(self) -> str:
        found = [f"is_causal={int(self.causal)}"]
        found += [f"scale={self.scale}"] if self.scale is not None else []
        found += [f"softcap={self.softcap}"] if self.softcap else []
        return ", ".join(found)

    def feeds(self, b: int, s: int, t: int, seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        t = s if self.square else t
        shapes = {"q": (b, self.heads, s, self.head), "k": (b, self.key_heads, t, self.head)}
        shapes["v"] = (b, self.key_heads, t, self.value_head)
        found = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
        if self.mask:
            known = {"b": b, "s": s, "t": t}
            shape = tuple(known.get(axis) or int(axis) for axis in self.axes)
            drawn = rng.standard_normal(shape).astype(np.float32)
            hidden = rng.random(shape) < 0.3
            hidden[rng.random(shape[:-1]) < 0.2] = True
            found["m"] = ~hidden if self.mask == "bool" else np.where(hidden, -np.inf, drawn)
            if self.mask == "float":
                found["m"] = found["m"].astype(np.float32)
        return found

    def expected(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        y = attention(
            feeds["q"], feeds["k"], feeds["v"], feeds.get("m"),
            causal=self.causal, scale=self.scale, softcap=self.softcap,
        )  # fmt: skip
        return merged(y) if "y" in self.merged else y

    def given(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        laid = {n for n in "qkv" if n in self.merged}
        return {
            f"{n}1" if n in laid else n: merged(x) if n in laid else x for n, x in feeds.items()
        }

    def check(self, model: onnx_ir.Model) -> None:
        sizes = [self.fixed] if self.fixed else [(2, 3, 5), (1, 1, 4), (3, 6, 2), (1, 4, 1)]
        for seed, size in enumerate(sizes):
            feeds = self.feeds(*size, seed)
            found = run(model, self.given(feeds))[0]
            np.testing.assert_allclose(found, self.expected(feeds), rtol=1e-4, atol=2e-6)


LAYOUTS = ["", "qkvy", "vy", "kv", "qy"]
MASKS = [
    ("", ()), ("float", ("s", "t")), ("float", ("4", "s", "t")), ("float", ("b", "4", "s", "t")),
    ("float", ("1", "1", "s", "t")), ("bool", ("b", "1", "s", "t")), ("bool", ("b", "1", "1", "t")),
    ("bool", ("1", "1", "1", "t")), ("bool", ("t",)), ("float", ("1", "t")), ("float", ("b", "1", "1", "t")),
    ("float", ("b", "1", "s", "1")), ("bool", ("4", "1", "t")),
]  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> Case:
    heads = 4
    mask, axes = draw(st.sampled_from(MASKS))
    return Case(
        heads=heads,
        key_heads=draw(st.sampled_from([4, 2, 1])),
        head=draw(st.sampled_from([8, 16, 5])),
        value_head=draw(st.sampled_from([8, 3])),
        causal=draw(st.booleans()),
        softcap=draw(st.sampled_from([0.0, 0.0, 1.5])),
        scale=draw(st.sampled_from([None, 0.3])),
        mask=mask,
        axes=axes,
        merged=draw(st.sampled_from(LAYOUTS)),
        square=draw(st.booleans()),
        fixed=draw(st.sampled_from([None, (2, 3, 5), (1, 4, 4)])),
    )


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=cases())
def test_every_kernel_follows_the_standard(name: str, case: Case) -> None:
    if case.square and case.fixed:
        case = dataclasses.replace(case, fixed=(case.fixed[0], case.fixed[1], case.fixed[1]))
    model = model_of(case.text, 23)
    choose(model, prefer(name))
    case.check(model)


TAKEN = {
    "Attention of rank 3": [
        Case(merged="qkvy"),
        Case(merged="qkvy", key_heads=2, causal=True, softcap=2.0, value_head=3),
        Case(merged="y", mask="float", axes=("b", "4", "s", "t")),
        Case(merged="v", mask="bool", axes=("b", "1", "1", "t")),
    ],
    "MultiHeadAttention": [
        Case(merged="qkvy", value_head=3),
        Case(head=5, scale=-0.4),
        Case(causal=True, square=True, merged="qkvy"),
        Case(merged="qkvy", mask="bool", axes=("b", "1", "1", "t")),
        Case(mask="bool", axes=("t",)),
        Case(mask="bool", axes=("1", "1", "t"), merged="vy"),
        Case(mask="bool", axes=("b", "1", "s", "t"), merged="qkvy"),
        Case(mask="float", axes=("4", "s", "t"), merged="qkvy"),
        Case(causal=True, square=True, mask="bool", axes=("b", "1", "1", "t")),
    ],
    "MultiHeadAttention, keys by head": [
        Case(merged="qy"),
        Case(causal=True, square=True),
        Case(mask="bool", axes=("b", "1", "1", "t")),
    ],
    "GroupQueryAttention": [
        Case(causal=True, square=True, merged="qkvy"),
        Case(causal=True, square=True, merged="vy", key_heads=1, softcap=1.5, scale=0.2),
        Case(causal=True, square=True, head=5, value_head=7, merged="qkvy"),
        Case(causal=True, square=True, head=8, value_head=16),
        Case(causal=True, fixed=(2, 4, 4), merged="qkvy"),
        Case(causal=True, square=True, mask="float", axes=("b", "4", "s", "t")),
        Case(causal=True, square=True, mask="bool", axes=("b", "1", "1", "t"), key_heads=2),
        Case(causal=True, square=True, mask="bool", axes=("s", "t"), value_head=3),
    ],
    "MatMul and Softmax": [
        Case(),
        Case(merged="qkvy", key_heads=2, causal=True, softcap=2.0, value_head=3),
        Case(causal=True, scale=1.0),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name, cases in TAKEN.items() for case in cases]
)
def test_a_kernel_is_taken_where_it_is_the_fastest(name: str, case: Case) -> None:
    model = model_of(case.text, 23)
    coverage = choose(model, prefer(name))
    assert coverage.changed >= 1
    assert OPERATOR.get(name, name) in op_types(model)
    if name != "Attention of rank 3":
        assert "Attention" not in op_types(model)
    case.check(model)


def test_movement_of_data_goes_with_the_attention() -> None:
    model = model_of(Case(merged="qkvy", fixed=(2, 3, 5)).text, 23)
    choose(model, prefer("MultiHeadAttention"))
    assert [kind for kind in op_types(model) if kind != "Constant"] == ["MultiHeadAttention"]


def test_tokens_that_are_read_apart_are_kept_apart() -> None:
    text = """(float[b,s,4,8] q0, float[b,s,4,8] k0, float[b,s,4,8] v0) => (float[b,s,4,8] y) {
    q = Transpose<perm=[0,2,1,3]>(q0) k = Transpose<perm=[0,2,1,3]>(k0) v = Transpose<perm=[0,2,1,3]>(v0)
    o = Attention(q, k, v) o2 = Transpose<perm=[0,2,1,3]>(o) y = Relu(o2) }"""
    model = model_of(text, 23)
    choose(model, prefer("MultiHeadAttention"))
    assert "Transpose" not in op_types(model)
    assert op_types(model).count("Reshape") == 4


REFUSED = {
    "MultiHeadAttention": [
        (Case(key_heads=2), "MultiHeadAttention"),
        (Case(softcap=1.0), "MultiHeadAttention"),
        (Case(causal=True), "MultiHeadAttention"),
    ],
    "GroupQueryAttention": [
        (Case(), "GroupQueryAttention"),
        (Case(causal=True), "GroupQueryAttention"),
        (Case(square=True, mask="bool", axes=("s", "t")), "GroupQueryAttention"),
    ],
    "Attention of rank 3": [(Case(), "")],
    "MatMul and Softmax": [(Case(mask="bool", axes=("s", "t")), "Softmax")],
    "MultiHeadAttention, keys by head": [
        (Case(merged="kv"), "MultiHeadAttention"),
        (Case(value_head=3), "MultiHeadAttention"),
    ],
}


@pytest.mark.parametrize(
    ("name", "case", "absent"), [(name, *rest) for name, found in REFUSED.items() for rest in found]
)
def test_a_kernel_that_would_compute_something_else_is_not_taken(
    name: str, case: Case, absent: str
) -> None:
    model = model_of(case.text, 23)
    coverage = choose(model, prefer(name))
    assert absent not in op_types(model)
    assert "Attention" in op_types(model)
    assert all(name not in said for said in coverage.declined.values())
    assert any("Attention 2 ms" in said for said in coverage.declined.values())
    case.check(model)


def test_without_a_gain_the_standard_operator_stays_and_times_are_told() -> None:
    model = model_of(Case(merged="qkvy").text, 23)
    prices = FakePrices(lambda _work, name: 6.2 if name != STANDARD else 5.5)
    coverage = choose(model, prices)
    said = next(iter(coverage.declined.values()))
    assert said.startswith("Attention 5.5 ms, Attention of rank 3 6.2 ms, MultiHeadAttention 6.2")
    assert (
        prices.asked[0] == "Attention [4,4,2x3,8] merged qkvy" or "merged qkvy" in prices.asked[0]
    )


@pytest.mark.parametrize("ms", [0.96, 1.0])
def test_a_gain_within_noise_is_none(ms: float) -> None:
    model = model_of(Case(merged="qkvy").text, 23)
    coverage = choose(model, FakePrices(lambda _work, name: ms if name != STANDARD else 1.0))
    assert coverage.changed == 0


UNRUNNABLE = [
    Case(mask="float", axes=("1", "t")),
    Case(mask="bool", axes=("t",)),
    Case(mask="bool", axes=("b", "1", "1", "t"), key_heads=2),
    Case(mask="float", axes=("b", "1", "1", "t"), causal=True, fixed=(2, 3, 5)),
    Case(mask="float", axes=("s", "1")),
    Case(mask="bool", axes=("4", "1", "t"), causal=True, square=True),
]


@pytest.mark.parametrize("case", UNRUNNABLE)
def test_what_the_runtime_refuses_is_spelled_otherwise_without_any_price(case: Case) -> None:
    model = model_of(case.text, 23)
    feeds = case.feeds(*(case.fixed or (2, 3, 5)))
    with pytest.raises(CannotRun):
        run(model, case.given(feeds))
    assert choose(model, None).changed == 1
    assert op_types(model)[-1] == "Attention"
    case.check(model)


def test_a_scale_that_is_not_positive_moves_to_the_query() -> None:
    case = Case(scale=-0.5)
    model = model_of(case.text, 23)
    with pytest.raises(CannotRun):
        run(model, case.feeds(2, 3, 5))
    assert choose(model, None).changed == 1
    assert op_types(model) == ["Mul", "Attention"]
    case.check(model)


def test_attentions_share_a_repeated_mask() -> None:
    text = """(float[b,4,s,8] q, float[b,4,s,8] k, bool[b,1,1,s] m) => (float[b,4,s,8] y) {
    a = Attention(q, k, q, m) y = Attention(a, k, a, m) }"""
    model = model_of(text, 23)
    assert choose(model, None).changed == 2
    assert op_types(model).count("Expand") == 1


def with_past(queries: str, keys: str, attributes: str, outputs: str, mask: str = "") -> str:
    extra = f", {mask} m" if mask else ""
    return f"""(float[b,2,{queries},8] q, float[b,2,{keys},8] k, float[b,2,{keys},8] v, float[b,2,p,8] pk,
    float[b,2,p,8] pv{extra}) => (float[b,2,{queries},8] y{", float[b,2,T,8] nk" * ("nk" in outputs)}) {{
    {outputs} = Attention<{attributes}>(q, k, v, {"m" if mask else ""}, pk, pv) }}"""


@pytest.mark.parametrize(
    ("queries", "keys", "attributes", "outputs", "mask"),
    [
        ("s", "s", "is_causal=1", "y", ""),
        ("s", "t", "is_causal=1", "y", ""),
        ("1", "t", "is_causal=1", "y, nk, nv", ""),
        ("1", "t", "is_causal=1", "y", "bool[b,1,1,1]"),
        ("s", "t", "is_causal=1", "y, nk, nv", "float[1,1]"),
        ("s", "t", "is_causal=0", "y", ""),
    ],
)
def test_a_past(queries: str, keys: str, attributes: str, outputs: str, mask: str) -> None:
    model = model_of(with_past(queries, keys, attributes, outputs, mask), 23)
    rng = np.random.default_rng(1)
    assert choose(model, prefer("GroupQueryAttention")).changed == 1
    for s, t, p in [(3, 5, 2), (1, 4, 3), (1, 1, 2)]:
        s = 1 if queries == "1" else s
        t = s if keys == "s" else t
        q, k, v = (rng.standard_normal((2, 2, n, 8)).astype(np.float32) for n in (s, t, t))
        pk, pv = (rng.standard_normal((2, 2, p, 8)).astype(np.float32) for _ in range(2))
        feeds = {"q": q, "k": k, "v": v, "pk": pk, "pv": pv}
        if mask.startswith("bool"):
            feeds["m"] = np.asarray([True, False]).reshape(2, 1, 1, 1)
        elif mask:
            feeds["m"] = np.full((1, 1), 0.5, np.float32)
        all_k, all_v = np.concatenate([pk, k], 2), np.concatenate([pv, v], 2)
        causal = attributes == "is_causal=1"
        expected = attention(q, all_k, all_v, feeds.get("m"), causal=causal, past=p)
        found = run(model, feeds)
        np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=2e-6)
        if "nk" in outputs:
            np.testing.assert_array_equal(found[1], all_k)


@pytest.mark.parametrize("low", [float("-inf"), LOWEST, -1e30])
def test_a_constant_causal_mask_suits_a_causal_kernel_if_it_leaves_nothing(low: float) -> None:
    text = """(float[b,2,2,8] q) => (float[b,2,2,8] y) <float[2,2] m = {0.5,0,1,2}>
    { y = Attention(q, q, q, m) }"""
    model = model_of(text, 23)
    mask = np.asarray([[0.5, low], [1, 2]], np.float32)
    model.graph.initializers["m"].const_value = onnx_ir.tensor(mask, name="m")
    choose(model, prefer("GroupQueryAttention"))
    assert ("GroupQueryAttention" in op_types(model)) == (low != -1e30)
    q = np.random.default_rng(0).standard_normal((2, 2, 2, 8)).astype(np.float32)
    found = run(model, {"q": q})[0]
    np.testing.assert_allclose(found, attention(q, q, q, mask), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    "name", ["MultiHeadAttention", "GroupQueryAttention", "MatMul and Softmax"]
)
@pytest.mark.parametrize(
    "mask",
    ["float[4,4] m = {0,1,2,3,4,-5,6,7,-80,9,1,2,3,4,5,6}", "bool[4,4] m = {1,0,0,0,1,1,0,0,1,0,1,1,1,1,1,1}"],
)  # fmt: skip
def test_a_constant_mask_that_hides_no_row_suits_every_kernel(name: str, mask: str) -> None:
    case = Case(heads=2, key_heads=2, causal=True, square=True, mask="float", axes=("s", "t"))
    kind = mask.split("[")[0]
    text = case.text.replace(", float[s,s] m", "").replace("{", f"<{mask}> {{", 1)
    model = model_of(text.replace("s,", "4,"), 23)
    assert choose(model, prefer(name)).changed == 1
    assert OPERATOR.get(name, name) in op_types(model)
    numbers = [float(x) for x in mask.split("{")[1][:-1].split(",")]
    feeds = case.feeds(2, 4, 4)
    feeds["m"] = np.asarray(numbers, kind).reshape(4, 4)
    found = run(model, {n: feeds[n] for n in "qkv"})[0]
    np.testing.assert_allclose(found, case.expected(feeds), rtol=1e-4, atol=2e-6)


COMPUTED = {
    "ALiBi": "p = MatMul(a, c) m = Mul(p, slope)",
    "distance": "d = MatMul(a, c) e = Abs(d) m = Neg(e)",
    "log": "d = MatMul(a, c) e = Abs(d) m = Log(e)",
    "lowest": "d = MatMul(a, c) e = Abs(d) m = Mul(e, low)",
    "input": "m = Add(a, c)",
    "infinite": "d = MatMul(a, c) w = Greater(d, slope) m = Where(w, slope, low)",
}


@pytest.mark.parametrize(("kind", "mild"), [(k, k in {"ALiBi", "distance"}) for k in COMPUTED])
def test_a_computed_mask_is_judged_by_what_gets_into_it(kind: str, mild: bool) -> None:
    text = f"""(float[b,2,s,8] q, float[s,1] a, float[1,s] c) => (float[b,2,s,8] y)
    <float slope = {{0.5}}, float low = {{-3e38}}> {{ {COMPUTED[kind]} y = Attention(q, q, q, m) }}"""
    model = model_of(text, 23)
    choose(model, prefer("MultiHeadAttention"))
    assert "MultiHeadAttention" in op_types(model)
    assert ("ReduceMax" not in op_types(model)) == mild


def test_a_padding_mask_within_a_causal_one_suits_a_causal_kernel() -> None:
    text = """(float[b,2,s,8] q, bool[b,1,1,s] pad) => (float[b,2,s,8] y)
    <int64 zero = {0}, int64 one = {1}, int64[1] last = {-1}, int64[1] first = {0}> {
    all = Shape<start=2, end=3>(q) n = Squeeze(all) keys = Range(zero, n, one)
    rows = Unsqueeze(keys, last) columns = Unsqueeze(keys, first) seen = LessOrEqual(columns, rows)
    m = And(pad, seen) y = Attention(q, q, q, m) }"""
    model = model_of(text, 23)
    assert choose(model, prefer("GroupQueryAttention")).changed == 1
    assert "GroupQueryAttention" in op_types(model)
    for b, s in [(2, 5), (3, 1)]:
        q = np.random.default_rng(b).standard_normal((b, 2, s, 8)).astype(np.float32)
        pad = np.arange(s)[None] >= np.arange(b)[:, None]
        pad = pad.reshape(b, 1, 1, s)
        found = run(model, {"q": q, "pad": pad})[0]
        np.testing.assert_allclose(
            found, attention(q, q, q, pad, causal=True), rtol=1e-4, atol=2e-6
        )


def test_keys_that_are_read_from_the_attention_keep_it() -> None:
    text = """(float[b,2,s,8] q) => (float[b,2,s,8] y, float[b,2,s,8] nk)
    { y, nk = Attention(q, q, q) }"""
    model = model_of(text, 23)
    coverage = choose(model, prefer("MultiHeadAttention"))
    assert coverage.declined == {"Attention_0": "the keys or the values are an output"}


def test_sizes_that_are_not_fixed_are_told() -> None:
    text = "(float[b,h,s,8] q) => (float[b,h,s,8] y) { y = Attention(q, q, q) }"
    coverage = choose(model_of(text, 23), prefer("MultiHeadAttention"))
    assert coverage.declined == {"Attention_0": "the number of heads of 'q' is not fixed"}
