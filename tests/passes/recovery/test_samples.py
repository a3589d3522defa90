import numpy as np
from folding import build, weights

from whet.passes.recovery.samples import Samples

FREE = "(float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }"


def samples(text: str, feeds: list[dict[str, np.ndarray]], most: int = 1 << 20) -> Samples:
    return Samples(build(text, weights(w=(4, 3))), feeds, most)


def rows(count: int, width: int = 4, first: int = 0) -> dict[str, np.ndarray]:
    return {"x": (first + np.arange(count, dtype=np.float32))[:, None].repeat(width, 1)}


def test_every_tenth_sample_is_watched_and_never_trained_on() -> None:
    found = samples(FREE, [rows(30), rows(30, first=30)])
    assert len(found) == 60
    assert found.watched.tolist() == [9, 19, 29, 39, 49, 59]
    seen = [
        int(v) for batch in found.epoch(np.random.default_rng(0), 7) for v in batch.feeds["x"][:, 0]
    ]
    assert sorted(seen) == sorted(set(range(60)) - set(found.watched.tolist()))
    (watched,) = found.batches(found.watched, 100)
    assert watched.feeds["x"][:, 0].tolist() == found.watched.tolist()


def test_few_samples_are_shared_out() -> None:
    found = samples(FREE, [rows(3)])
    assert found.watched.tolist() == [1]
    assert found.trained.tolist() == [0, 2]


def test_only_samples_of_equal_shapes_share_a_batch() -> None:
    found = samples(FREE, [rows(12), rows(12, width=5)])
    shapes = [b.feeds["x"].shape for b in found.epoch(np.random.default_rng(0), 100)]
    assert sorted(shape[1] for shape in shapes) == [4, 5]


def test_a_fixed_batch_is_never_taken_apart() -> None:
    found = samples(FREE.replace("N", "6"), [rows(6, first=6 * k) for k in range(20)])
    assert found.fixed
    assert len(found) == 20
    assert {b.feeds["x"].shape for b in found.epoch(np.random.default_rng(0), 128)} == {(6, 4)}


def test_no_more_than_fits_into_memory() -> None:
    found = samples(FREE, [rows(10)] * 5, most=2 * 10 * 16)
    assert len(found) == 20
    assert not found.complete


def test_size_of_a_batch() -> None:
    assert samples(FREE, [rows(4)]).usual_batch() == 128
    assert samples(FREE, [rows(2, width=1 << 16)]).usual_batch() == 8
    assert samples(FREE, [rows(2, width=1 << 13)]).usual_batch() == 32
    assert samples(FREE, [{"x": np.ones((4, 9), np.int64)}]).usual_batch() == 32
