import dataclasses

import numpy as np
import pytest
from sparsifying import bench_of, network, targets_of

from whet.errors import Mismatch
from whet.passes.sparsity.algorithms.pattern import read_pattern
from whet.passes.sparsity.algorithms.recovery import damped, masked_least_squares
from whet.passes.sparsity.pricing import by_fisher, by_gram, by_magnitude, by_wanda

PLAIN = read_pattern("unstructured")


def test_prices_have_the_form_of_the_units() -> None:
    for target in targets_of(bench_of(network())):
        for text, high, wide in (("unstructured", 1, 1), ("2x4", 2, 4)):
            pattern = read_pattern(text)
            wanted = (target.matrix.shape[0] // high, target.matrix.shape[1] // wide)
            for priced in (
                by_magnitude(target, pattern),
                by_wanda(target, pattern),
                by_gram(target, pattern),
            ):
                assert priced.prices.shape == wanted
                assert priced.mask(5).sum() == target.matrix.size - 5 * high * wide


def test_gram_prices_add_up_to_the_relative_loss() -> None:
    target = targets_of(bench_of(network()))[0]
    priced = by_gram(target, PLAIN)
    row = np.argsort(priced.prices[0])[:4]
    keep = np.ones((1, 12), np.bool)
    keep[0, row] = False
    gram = damped(target.grams[0], 1e-3)
    best = masked_least_squares(target.matrix[:1], gram, keep) - target.matrix[:1]
    energy = np.vdot(target.matrix.astype(np.float64) @ target.grams[0], target.matrix)
    wanted = 0.5 * float((best @ gram @ best.T)[0, 0]) / float(energy)
    # Prices never fall, so that sums may only be larger.
    assert priced.prices[0, row].sum() >= wanted * 0.999
    assert priced.prices[0, row].sum() <= wanted * 2


def test_fisher_blocks_of_the_gram_matrix_rank_like_it() -> None:
    target = targets_of(bench_of(network()))[0]
    hessian = np.tile(damped(target.grams[0], 1e-3), (16, 1, 1))
    one, other = by_fisher(target, PLAIN, hessian), by_gram(target, PLAIN)
    assert (one.mask(60) == other.mask(60)).all()
    halves = np.stack([m[k : k + 6, k : k + 6] for m in hessian for k in (0, 6)])
    assert by_fisher(target, PLAIN, halves).prices.shape == (16, 12)


def test_what_needs_data_says_so() -> None:
    target = dataclasses.replace(targets_of(bench_of(network()))[0], grams=())
    with pytest.raises(Mismatch, match="needs calibration data"):
        by_wanda(target, PLAIN)
