import numpy as np
from folding import build, weights

from whet.passes.recovery.samples import Batch
from whet.passes.recovery.teacher import Teacher

TEXT = "(float[N,4] x) => (float[N,3] y) { a = Relu(x) y = MatMul(a, w) }"
W = weights(w=(4, 3))


def batch(*numbers: int) -> Batch:
    return Batch(numbers, {"x": np.asarray(numbers, np.float32)[:, None].repeat(4, 1) - 2})


def teacher(most: int) -> Teacher:
    return Teacher(build(TEXT, W), ["y", "a"], 1, most)


def counted(made: Teacher, monkeypatch) -> list[int]:
    calls: list[int] = []
    whole = made.run
    monkeypatch.setattr(made, "run", lambda feeds: calls.append(1) or whole(feeds))
    return calls


def test_each_sample_is_asked_about_once(monkeypatch) -> None:
    made = teacher(1 << 20)
    calls = counted(made, monkeypatch)
    made.of(batch(0, 1, 2))
    made.of(batch(3, 4))
    y, a = made.of(batch(4, 0, 2))
    assert len(calls) == 2
    x = batch(4, 0, 2).feeds["x"]
    np.testing.assert_array_equal(a, np.maximum(x, 0))
    np.testing.assert_allclose(y, np.maximum(x, 0) @ W["w"], rtol=1e-5)


def test_what_does_not_fit_is_asked_about_again(monkeypatch) -> None:
    made = teacher(8)
    calls = counted(made, monkeypatch)
    made.of(batch(0, 1))
    made.of(batch(0, 1))
    assert len(calls) == 2


def test_a_batch_that_comes_again_is_kept_whole(monkeypatch) -> None:
    made = teacher(1 << 20)
    calls = counted(made, monkeypatch)
    first, again = made.together(batch(0, 1)), made.together(batch(0, 1))
    assert len(calls) == 1
    assert all(a is b for a, b in zip(first, again, strict=True))


def test_what_is_kept_whole_counts_too(monkeypatch) -> None:
    made = teacher(2 * (3 + 4) * 4)  # two samples
    calls = counted(made, monkeypatch)
    for _ in range(2):
        made.together(batch(0, 1))
        made.together(batch(2, 3))
        made.of(batch(4, 5))
    assert len(calls) == 5
