import pytest
from sparsifying import bench_of, network, targets_of

from whet.passes.sparsity.algorithms.pattern import read_pattern
from whet.passes.sparsity.mask_choice import choose
from whet.passes.sparsity.sparsify_weights import SparsifyWeights


@pytest.mark.parametrize("method", ["auto", "magnitude", "wanda", "gram"])
@pytest.mark.parametrize("text", ["unstructured", "2:4", "2x1"])
def test_masks_have_the_share_and_the_weights_follow_them(method: str, text: str) -> None:
    work = bench_of(network())
    step = SparsifyWeights(method=method, pattern=text, minimum=1)
    found = choose(step, work, read_pattern(text), targets_of(work))
    kept = sum(int(m.sum()) for m in found.masks.values())
    assert kept == pytest.approx(144, abs=4)
    for name, weights in found.weights.items():
        assert not weights[~found.masks[name]].any()
    expected = {"auto": {"gram", "magnitude"}}.get(method, {method})
    assert set(found.how.values()) <= expected


def test_exchange_says_so() -> None:
    work = bench_of(network())
    step = SparsifyWeights(method="magnitude", surgeon=True, minimum=1)
    found = choose(step, work, read_pattern("unstructured"), targets_of(work))
    assert set(found.how.values()) == {"magnitude and exchange"}
