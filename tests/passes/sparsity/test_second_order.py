from collections.abc import Sequence

import numpy as np
import pytest
from sparsifying import bench_of, network, targets_of

from whet.errors import Mismatch
from whet.passes.sparsity import second_order
from whet.passes.sparsity.algorithms.budgets import by_price
from whet.passes.sparsity.algorithms.pattern import read_pattern
from whet.passes.sparsity.pricing import Priced, by_magnitude
from whet.passes.sparsity.second_order import Task, prune_by_fisher, prune_by_gradients

pytest.importorskip("torch")
PLAIN = read_pattern("unstructured")


def counts(priced: Sequence[Priced]) -> list[int]:
    return by_price([p.prices for p in priced], 0.6, 0.05)


def by_size() -> float:
    """Return the outputs' error when the smallest weights of all go."""
    work = bench_of(network())
    targets = targets_of(work)
    priced = [by_magnitude(t, PLAIN) for t in targets]
    masks = [p.mask(n) for p, n in zip(priced, counts(priced), strict=True)]
    weights = {
        t.name: np.where(m, t.matrix, np.float32(0)) for t, m in zip(targets, masks, strict=True)
    }
    judge = second_order.OutputError(work.model, work.context, 128)
    return second_order.judged(work, targets, weights, judge)


def test_both_lose_less_than_magnitudes() -> None:
    plain = by_size()
    work = bench_of(network())
    targets = targets_of(work)
    task = Task(work, targets, PLAIN, counts, 150, "gaussian")
    for found in (prune_by_fisher(task), prune_by_gradients(task)):
        assert found.error < plain
        kept = sum(int(m.sum()) for m in found.masks.values())
        assert kept == pytest.approx(0.4 * 288, abs=2)
        for target in targets:
            assert not found.weights[target.name][~found.masks[target.name]].any()


def test_groups_of_four() -> None:
    work = bench_of(network())
    targets = targets_of(work)
    pattern = read_pattern("2:4")

    def half(priced: Sequence[Priced]) -> list[int]:
        return [p.prices.size // 2 for p in priced]

    task = Task(work, targets, pattern, half, 64, "gaussian")
    for found in (prune_by_fisher(task), prune_by_gradients(task)):
        for mask in found.masks.values():
            assert (mask.reshape(-1, 4).sum(1) == 2).all()


def test_gradients_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_order, "_MOST_BYTES", 1000)
    work = bench_of(network())
    with pytest.raises(Mismatch, match="64 gradients of 288 weights take"):
        prune_by_gradients(Task(work, targets_of(work), PLAIN, counts, 64, "gaussian"))
