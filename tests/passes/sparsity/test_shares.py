import pytest
from sparsifying import bench_of, network, targets_of

from whet.passes.sparsity.algorithms.pattern import read_pattern
from whet.passes.sparsity.pricing import by_gram
from whet.passes.sparsity.shares import Budget, counts_of


@pytest.mark.parametrize("budget", ["uniform", "global", "pq", "second-order"])
def test_counts_reach_the_share(budget: Budget) -> None:
    work = bench_of(network())
    pattern = read_pattern("unstructured")
    priced = [by_gram(t, pattern) for t in targets_of(work)]
    counts = counts_of(work, priced, pattern, budget, 0.5, 0.05)
    assert abs(sum(counts) - 144) <= 2


def test_groups_say_so_themselves() -> None:
    work = bench_of(network())
    pattern = read_pattern("1:4")
    priced = [by_gram(t, pattern) for t in targets_of(work)]
    assert counts_of(work, priced, pattern, "second-order", 0.5, 0.05) == [144, 72]
