from folding import build, folds, ops, run

from whet.passes.onnxruntime.share_sizes import ShareSizes

STEP = ShareSizes()


def text(body: str) -> str:
    return f"(float[N,M,8] x) => (int64[1] y) {{ {body} }}"


def test_equal_sizes_are_computed_once() -> None:
    body = "a = Shape<start=1, end=2>(x) t = Transpose<perm=[0,2,1]>(x) b = Shape<start=2, end=3>(t) y = Add(a, b)"
    folds(build(text(body), opset=19), STEP, ["Shape", "Transpose", "Add"])


def test_other_sizes_stay() -> None:
    body = "a = Shape<start=0, end=1>(x) b = Shape<start=1, end=2>(x) y = Add(a, b)"
    model = build(text(body), opset=19)
    assert run(model, STEP).changed == 0
    assert ops(model) == ["Shape", "Shape", "Add"]


def test_sizes_that_depend_on_values_stay() -> None:
    sizes = "n = NonZero(x) a = Shape<start=1, end=2>(n) r = Relu(x) m = NonZero(r)"
    body = f"{sizes} b = Shape<start=1, end=2>(m) y = Max(a, b)"
    coverage = run(build(text(body), opset=19), STEP)
    assert coverage.changed == 0
    assert all("not known as expressions" in reason for reason in coverage.declined.values())
