import pytest
from rewriting import model_of

from whet.analysis.base import Analyses
from whet.analysis.sizes import KnownSizes, Sizes
from whet.passes.base import Change
from whet.passes.workbench import Context


def shapes(text: str, opset: int = 21) -> dict[str | None, str]:
    """Return what is known of every value once the annotations of all but the inputs are gone."""
    model = model_of(text, opset)
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    known = KnownSizes(model.graph)
    values = [value for node in model.graph for value in node.outputs]
    return {v.name: ",".join(map(str, known.shape(v) or ("?",))) for v in values}


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("y = Transpose<perm = [2, 0, 1]>(x)", "4,N,M"),
        ("y = Softmax(x)", "N,M,4"),
        ("y = Add(x, v)", "N,M,4"),
        ("y = MatMul(x, w)", "N,M,6"),
        ("y = Concat<axis = 1>(x, x)", "N,2*M,4"),
        ("y = Reshape(x, s)", "M*N,4"),
        ("y = Expand(v, e)", "3,4"),
        ("y = Slice(x, zero, huge, one)", "N,M,4"),
        ("y = Slice(x, zero, one, one)", "N,None,4"),
        ("t = NonZero(v) u = Squeeze(t, zero) y = Slice(x, zero, u, one)", "N,None,4"),
        ("t = NonZero(v) u = Squeeze(t, zero) y = Slice(x, zero, huge, u)", "?"),
        ("y = ReduceMean(x, one)", "N,1,4"),
        ("y = ReduceSum<keepdims = 0>(x, back)", "N,M"),
        ("y = Unsqueeze(x, one)", "N,1,M,4"),
        ("u = Unsqueeze(x, back) y = Squeeze(u, back)", "N,M,4"),
        ("y = Gather<axis = 1>(x, one)", "N,1,4"),
        ("y = Where(c, x, v)", "N,M,4"),
        ("y = Tile(v, two)", "8"),
        ("t = Concat<axis = 0>(two, one, two) y = Tile(x, t)", "2*N,M,8"),
        ("t = Shape<start = 1, end = 2>(x) u = Squeeze(t) y = Range(i, u, k)", "M"),
        ("t = Shape<start = 1, end = 2>(x) u = Squeeze(t) z = Add(u, k) y = Range(k, z, k)", "M"),
        ("t = Shape<start = 1, end = 2>(x) u = Squeeze(t) y = Range(k, u, k)", "?"),
        ("t = Shape<start = 1, end = 2>(x) u = Squeeze(t) y = Range(i, u, u)", "?"),
        ("t = Shape<start = 2>(x) u = Squeeze(t) y = Range(k, u, k)", "3"),
        ("y = NonZero(x)", "?"),
    ],
)
def test_shapes_of_results(body: str, shape: str) -> None:
    found = shapes(
        f"""(float[N, M, 4] x, bool[N, 1, 1] c) => (float y) <float[4] v = {{1, 2, 3, 4}},
            float[4, 6] w = {{{", ".join("1" * 24)}}}, int64[2] s = {{-1, 4}}, int64[2] e = {{3, 1}},
            int64 i = {{0}}, int64 k = {{1}},
            int64[1] two = {{2}}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] back = {{-1}},
            int64[1] huge = {{9223372036854775807}}> {{ {body} }}"""
    )
    assert found["y"] == shape


def test_results_are_cached_until_operators_change() -> None:
    model = model_of("(float[N] x) => (float[N] y) { y = Relu(x) }")
    analyses = Analyses(model, Context())
    first = analyses.get(Sizes())
    analyses.invalidate(Change.WEIGHTS)
    assert analyses.get(Sizes()) is first
    analyses.invalidate(Change.OPS)
    assert analyses.get(Sizes()) is not first
