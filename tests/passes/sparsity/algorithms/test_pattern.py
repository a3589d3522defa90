import numpy as np
import pytest

from whet.passes.sparsity.algorithms.pattern import read_pattern


def test_blocks_go_whole_and_the_cheapest_first() -> None:
    pattern = read_pattern("2x3")
    prices = pattern.pooled(np.arange(24.0).reshape(4, 6))
    assert prices.tolist() == [[24.0, 42.0], [96.0, 114.0]]
    keep = pattern.keep(prices, 3)
    assert keep.sum() == 6
    assert keep[2:, 3:].all()


def test_groups_keep_as_many_as_the_pattern_says() -> None:
    pattern = read_pattern("1:4")
    rng = np.random.default_rng(0)
    prices = rng.random((5, 16))
    keep = pattern.keep(prices, 7)
    assert (keep.reshape(5, 4, 4).sum(-1) == 1).all()
    kept = np.where(keep, prices, 0).reshape(5, 4, 4).max(-1)
    assert (kept == prices.reshape(5, 4, 4).max(-1)).all()
    assert pattern.share == 0.75


def test_equals_go_in_their_order() -> None:
    keep = read_pattern("unstructured").keep(np.zeros((2, 3)), 2)
    assert keep.tolist() == [[False, False, True], [True, True, True]]


@pytest.mark.parametrize(
    ("text", "shape", "reason"),
    [
        ("unstructured", (5, 7), ""),
        ("4x1", (8, 7), ""),
        ("4x1", (10, 7), "10 outputs are no multiple of 4, 5 would fit"),
        ("1x4", (10, 27), "27 inputs are no multiple of 4, 3 would fit"),
        ("2:4", (10, 30), "30 inputs are no multiple of 4, 3 would fit"),
    ],
)
def test_what_does_not_divide(text: str, shape: tuple[int, int], reason: str) -> None:
    assert read_pattern(text).obstacle(shape) == reason


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("half", "is none of unstructured, N:M"),
        ("0:4", "keeps 0 of 4"),
        ("5:4", "keeps 5 of 4"),
        ("0x4", "blocks of 0 by 4"),
    ],
)
def test_what_is_no_pattern(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_pattern(text)
