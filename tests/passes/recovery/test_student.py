import numpy as np
import pytest
from folding import build, weights

from whet.ir.execute import Executor
from whet.passes.recovery.student import Student
from whet.passes.recovery.tunable import find_tunable

torch = pytest.importorskip("torch")
import onnx_ir  # noqa: E402

TEXT = "(float[N,12] x) => (float[N,10] y) { a = MatMul(x, w) b = Add(a, c) d = Relu(b) y = MatMul(d, v) }"
W = weights(w=(12, 20), c=(20,), v=(20, 10))
W["w"][3:5, :7] = 0
X = {"x": np.random.default_rng(1).standard_normal((6, 12)).astype(np.float32)}


def student(what: str, rank: int = 2, seed: int = 0, low: bool = False) -> Student:
    model = build(TEXT, W)
    tunable, _ = find_tunable(model.graph, list(model.graph))
    return Student(model, tunable, ["y", "d"], what=what, rank=rank, seed=seed, bfloat16=low)


@pytest.mark.parametrize("what", ["perp", "all"])
def test_it_begins_as_the_model(what: str) -> None:
    y, d = student(what)(X)
    truth = np.maximum(X["x"] @ W["w"] + W["c"], 0)
    np.testing.assert_allclose(d.detach().numpy(), truth, atol=1e-5)
    (wanted,) = Executor(onnx_ir.to_proto(build(TEXT, W))).run(X)
    np.testing.assert_allclose(y.detach().numpy(), wanted, atol=1e-4)


def test_what_is_free() -> None:
    sizes = {name: tuple(free.shape) for name, free in student("perp").free.items()}
    assert sizes == {
        "w\nleft": (12, 2), "w\nright": (2, 20), "c": (20,), "v\nleft": (20, 2), "v\nright": (2, 10),
    }  # fmt: skip
    # Rank 7 of a matrix 20 by 10 has more numbers than the matrix.
    assert set(student("perp", rank=7).free) == {"w\nleft", "w\nright", "c", "v"}
    assert set(student("all").free) == {"w", "c", "v"}


def test_adapters_are_merged_under_the_mask() -> None:
    made = student("perp")
    state = {n: torch.ones_like(free) for n, free in made.free.items()}
    found = dict(made.arrays(state))
    np.testing.assert_allclose(found["w"], np.where(W["w"] == 0, 0, W["w"] + 2), rtol=1e-6)
    np.testing.assert_allclose(found["v"], W["v"] + 2, rtol=1e-6)
    assert found["c"].tolist() == [1.0] * 20


def test_zeros_have_no_slope() -> None:
    made = student("all")
    made(X)[0].square().sum().backward()
    slope = made.free["w"].grad
    assert slope is not None
    assert np.array_equal(slope.numpy() == 0, (W["w"] == 0) | (slope.numpy() == 0))
    assert not slope[3:5, :7].any()


def test_products_in_bfloat16_are_near_and_exact_ones_exact() -> None:
    rough, whole = student("all", low=True), student("all")
    with torch.no_grad():
        one, other, same = rough(X)[0], whole(X)[0], rough(X, exact=True)[0]
    assert 0 < float((one - other).norm() / other.norm()) < 0.02
    assert torch.equal(same, other)


def test_seeds() -> None:
    one, same, other = (student("perp", seed=s).free["w\nright"] for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
