"""The models that are timed compute the attention that they price."""

import math

import numpy as np
import onnx
import pytest
from fake_prices import FakePrices

from whet.errors import Mismatch
from whet.ir.execute import Executor
from whet.passes.attention.call import AttentionSizes
from whet.passes.attention.prices import AttentionWork, attention_times, fastest, mask_time

EQUAL = FakePrices(lambda _work, _name: 1.0)
SIZES = AttentionSizes(2, 4, 4, 6, 6, 8, 8)
CROSS = AttentionSizes(2, 4, 2, 6, 9, 5, 7)


def with_mask(sizes: AttentionSizes, *shape: int) -> AttentionSizes:
    return AttentionSizes(*[getattr(sizes, n) for n in list(vars(sizes))[:-1]], mask=shape)


def by_head(array: np.ndarray, heads: int) -> np.ndarray:
    if array.ndim == 4:
        return array
    return array.reshape(*array.shape[:2], heads, -1).swapaxes(1, 2)


def expected(work: AttentionWork, feeds: dict[str, np.ndarray]) -> np.ndarray:
    s = work.sizes
    counts = {"q": s.heads, "k": s.key_heads, "v": s.key_heads}
    q, k, v = (by_head(feeds[n], heads).astype(np.float64) for n, heads in counts.items())
    if work.rank:
        left, right = (np.repeat(feeds[n], s.batch, 0) for n in ("left", "right"))
        q, k = np.concatenate([left, q], -1), np.concatenate([right, k], -1)
    k, v = (np.repeat(x, s.heads // s.key_heads, 1) for x in (k, v))
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(s.head)
    scores = work.softcap * np.tanh(scores / work.softcap) if work.softcap else scores
    mask = feeds.get("mask")
    if mask is not None:
        scores = scores + (np.where(mask, 0, -np.inf) if mask.dtype == np.bool_ else mask)
    if work.causal:
        scores = np.where(np.tri(s.queries, s.keys) > 0, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = weights / weights.sum(-1, keepdims=True) @ v
    return y.swapaxes(1, 2).reshape(s.batch, s.queries, -1) if "y" in work.merged else y


WORKS = {
    "plain": AttentionWork(SIZES),
    "merged": AttentionWork(SIZES, causal=True, merged="qkvy"),
    "shared keys": AttentionWork(CROSS, softcap=1.5, merged="vy"),
    "padding": AttentionWork(with_mask(SIZES, 2, 1, 1, 6), mask="bool", merged="qkvy"),
    "bias": AttentionWork(with_mask(SIZES, 1, 4, 6, 6), mask="float", causal=True),
    "row": AttentionWork(with_mask(CROSS, 1, 4, 1, 9), mask="float"),
    "rank": AttentionWork(SIZES, rank=2, merged="qkvy", causal=True),
    "rank and mask": AttentionWork(with_mask(CROSS, 1, 1, 6, 9), mask="float", rank=3),
    "causal mask": AttentionWork(
        with_mask(SIZES, 2, 1, 6, 6), mask="float", mask_causal=True, hides_rows=True, merged="vy"
    ),
    "no row": AttentionWork(with_mask(SIZES, 1, 1, 6, 6), mask="bool", hides_rows=False),
}
KERNELS = {
    "plain": "Attention, MultiHeadAttention, MultiHeadAttention, keys by head, MatMul and Softmax",
    "merged": "Attention, Attention of rank 3, MultiHeadAttention, GroupQueryAttention, MatMul and Softmax",
    "shared keys": "Attention, Attention of rank 3, MatMul and Softmax",
    "padding": "Attention, Attention of rank 3, MultiHeadAttention",
    "bias": "Attention, MultiHeadAttention, MultiHeadAttention, keys by head, GroupQueryAttention, MatMul and Softmax",
    "row": "Attention, MatMul and Softmax",
    "rank": "Attention, Attention of rank 3, MultiHeadAttention, GroupQueryAttention, MatMul and Softmax",
    "rank and mask": "Attention, MatMul and Softmax",
    "causal mask": "Attention, Attention of rank 3, MultiHeadAttention, "
    "MultiHeadAttention, keys by head, GroupQueryAttention",
    "no row": "Attention, MultiHeadAttention, MultiHeadAttention, keys by head, MatMul and Softmax",
}


@pytest.mark.parametrize("name", WORKS)
def test_every_kernel_that_is_priced_computes_the_attention(name: str) -> None:
    prices, work = FakePrices(lambda _work, _name: 1.0), WORKS[name]
    assert ", ".join(attention_times(prices, work)) == KERNELS[name]
    for make in prices.models.values():
        data, feeds = make()
        found = Executor(onnx.load_from_string(data), optimization="all").run(feeds)[0]
        np.testing.assert_allclose(found, expected(work, dict(feeds)), rtol=1e-4, atol=2e-6)


def test_keys_name_everything_that_the_price_depends_on() -> None:
    assert [str(work) for work in WORKS.values()] == [
        "Attention [2,4,6x6,8]",
        "Attention [2,4,6x6,8] causal merged qkvy",
        "Attention [2,4/2,6x9,5/7] softcap 1.5 merged vy",
        "Attention [2,4,6x6,8] open bool mask [2,1,1,6] merged qkvy",
        "Attention [2,4,6x6,8] causal open float mask [1,4,6,6]",
        "Attention [2,4/2,6x9,5/7] open float mask [1,4,1,9]",
        "Attention [2,4,6x6,8] causal rank 2 merged qkvy",
        "Attention [2,4/2,6x9,5/7] open float mask [1,1,6,9] rank 3",
        "Attention [2,4,6x6,8] open float mask [2,1,6,6] that is causal that hides rows merged vy",
        "Attention [2,4,6x6,8] open bool mask [1,1,6,6] that hides no row",
    ]


def test_the_fastest_kernel_is_named_with_its_time() -> None:
    prices = FakePrices(lambda _work, name: 1.5 if name == "MultiHeadAttention" else 2.0)
    assert fastest(prices, WORKS["plain"]) == ("MultiHeadAttention", 1.5)


def test_an_attention_that_no_kernel_runs_has_no_price() -> None:
    with pytest.raises(Mismatch, match=r"no kernel for Attention \[2,4,6x6,8\]"):
        fastest(FakePrices(lambda _work, _name: 0.0), WORKS["plain"])


def test_a_mask_without_a_shape_has_no_price() -> None:
    with pytest.raises(Mismatch, match="shape None"):
        attention_times(EQUAL, AttentionWork(SIZES, mask="float"))


def test_the_time_of_a_mask() -> None:
    prices = FakePrices(lambda _work, _name: 3.0)
    assert mask_time(prices, WORKS["plain"]) == 0.0
    assert mask_time(prices, WORKS["bias"]) == 3.0
    assert prices.asked == ["float mask [1,4,6,6]"]
    data, feeds = next(iter(prices.models.values()))()
    found = Executor(onnx.load_from_string(data)).run(feeds)[0]
    np.testing.assert_array_equal(found, feeds["rows"] + feeds["columns"])
