import pytest
from rewriting import declines, op_types, run_pass

from whet.passes.canonical.keep_reduced_axes import KeepReducedAxes

STEP = KeepReducedAxes()


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2"])
@pytest.mark.parametrize(("axes", "back"), [("-1", "2"), ("1", "-2"), ("1,2", "2,1"), ("0", "0")])
def test_unsqueeze(kind: str, axes: str, back: str) -> None:
    shape = [("N", "4", "6"), ("1", "1", "1")]
    gone = {int(a) % 3 for a in axes.split(",")}
    made = ",".join(shape[k in gone][k] for k in range(3))
    count = axes.count(",") + 1
    text = f"""(float[N,4,6] x) => (float[{made}] y)
    <int64[{count}] a = {{{axes}}}, int64[{count}] b = {{{back}}}>
    {{ r = {kind}<keepdims=0>(x, a) y = Unsqueeze(r, b) }}"""
    model, coverage = run_pass(text, STEP)
    assert op_types(model) == [kind]
    assert coverage.changed == 1


def test_all_axes_and_attributes() -> None:
    text = """(float[N,6] x) => (float[1,1] y) <int64[2] b = {0,1}>
    { r = ReduceSum<keepdims=0>(x) y = Unsqueeze(r, b) }"""
    model, _ = run_pass(text, STEP)
    assert op_types(model) == ["ReduceSum"]
    text = """(float[N,6] x) => (float[N,1] y) <int64[1] b = {1}>
    { r = ReduceMean<axes=[1], keepdims=0>(x) y = Unsqueeze(r, b) }"""
    model, _ = run_pass(text, STEP, opset=17)
    assert op_types(model) == ["ReduceMean"]


def test_reshape() -> None:
    text = """(float[2,4,6] x) => (float[2,4,1] y) <int64[1] a = {-1}, int64[3] s = {2,4,1}>
    { r = ReduceMean<keepdims=0>(x, a) y = Reshape(r, s) }"""
    model, _ = run_pass(text, STEP)
    assert op_types(model) == ["ReduceMean"]


UNTOUCHED = {
    "elsewhere": """(float[N,6] x) => (float[1,N] y) <int64[1] a = {1}, int64[1] b = {0}>
    { r = ReduceMean<keepdims=0>(x, a) y = Unsqueeze(r, b) }""",
    "other-shape": """(float[4,6] x) => (float[2,2] y) <int64[1] a = {1}, int64[2] s = {2,2}>
    { r = ReduceMean<keepdims=0>(x, a) y = Reshape(r, s) }""",
    "kept": """(float[4,6] x) => (float[4,1,1] y) <int64[1] a = {1}, int64[1] b = {1}>
    { r = ReduceMean(x, a) y = Unsqueeze(r, b) }""",
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_untouched(name: str) -> None:
    declines(UNTOUCHED[name], STEP)


def test_declines_other_readers() -> None:
    text = """(float[N,6] x) => (float[N,1] y, float[N] r) <int64[1] a = {1}, int64[1] b = {1}>
    { r = ReduceMean<keepdims=0>(x, a) y = Unsqueeze(r, b) }"""
    declines(text, STEP, "is read elsewhere too")
