import numpy as np

from whet.passes.recovery.augmentation import augmented
from whet.passes.recovery.samples import Batch

PICTURES = np.arange(8 * 3 * 16 * 16, dtype=np.float32).reshape(8, 3, 16, 16)
BATCH = Batch(tuple(range(8)), {"x": PICTURES, "k": np.arange(8)})


def test_none_is_the_same_batch() -> None:
    assert augmented(BATCH, "none", np.random.default_rng(0)) is BATCH


def test_half_of_the_pictures_are_mirrored() -> None:
    found = augmented(BATCH, "flip", np.random.default_rng(0))
    assert found.numbers == ()
    assert np.array_equal(found.feeds["k"], BATCH.feeds["k"])
    same = [np.array_equal(a, b) for a, b in zip(found.feeds["x"], PICTURES, strict=True)]
    mirrored = [
        np.array_equal(a, b[..., ::-1]) for a, b in zip(found.feeds["x"], PICTURES, strict=True)
    ]
    assert sum(same) + sum(mirrored) == 8
    assert 0 < sum(same) < 8


def test_shifted_pictures_keep_their_size_and_numbers() -> None:
    found = augmented(BATCH, "shift", np.random.default_rng(0)).feeds["x"]
    assert found.shape == PICTURES.shape
    for made, picture in zip(found, PICTURES, strict=True):
        assert set(made.ravel()) <= set(picture.ravel())
        inner = made[:, 4:12, 4:12]
        steps = np.diff(inner, axis=1)
        assert np.all(steps == 16)
    again = augmented(BATCH, "shift", np.random.default_rng(0)).feeds["x"]
    assert np.array_equal(found, again)
