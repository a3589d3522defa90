import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.passes.quantization.algorithms.approximation import Layer
from whet.passes.quantization.algorithms.gptq import gptq
from whet.passes.quantization.algorithms.grid import Grid, grid_of
from whet.passes.quantization.algorithms.refinement import refine_codes
from whet.passes.quantization.algorithms.rounding import round_to_nearest, row_errors


def example(shape, seed, count=None):
    rng = np.random.default_rng(seed)
    inputs = shape[1]
    rows = rng.standard_normal((count or 3 * inputs, inputs)) @ rng.standard_normal((inputs,) * 2)
    return Layer(rng.standard_normal(shape).astype(np.float32), rows.T @ rows / len(rows))


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 40)),
    st.integers(0, 99),
    st.integers(2, 8),
    st.one_of(st.none(), st.integers(1, 48)),
    st.booleans(),
    st.booleans(),
)
def test_no_row_is_worse_than_before(shape, seed, bits, size, symmetric, rescale):
    layer = example(shape, seed, count=max(1, shape[1] // 2) if seed % 2 else None)
    start = round_to_nearest(layer, bits, size, symmetric=symmetric)
    kept = start.values()
    found = refine_codes(layer, start, rescale=rescale, sweeps=3, block=7)
    errors = [row_errors(layer.weights, v, layer.gram) for v in (found.values(), kept)]
    assert (errors[0] <= errors[1]).all()
    np.testing.assert_array_equal(start.values(), kept)
    low, high = grid_of(start).limits
    assert low <= found.codes.min() <= found.codes.max() <= high
    if not rescale:
        np.testing.assert_array_equal(found.scales, start.scales)


@given(st.integers(0, 50))
def test_no_single_change_helps_any_more(seed):
    layer = example((1, 5), seed, count=30)
    grid = Grid(np.full((1, 1), 0.7, np.float32), None, 3, 5)
    found = refine_codes(layer, grid.nearest(layer.weights), rescale=False, damping=0, sweeps=50)
    here = row_errors(layer.weights, found.values(), layer.gram)[0]
    for column, code in itertools.product(range(5), range(-3, 4)):
        codes = found.codes.copy()
        codes[0, column] = code
        other = row_errors(layer.weights, grid.blocks(codes).values(), layer.gram)[0]
        assert here <= other * (1 + 1e-4) or here < 1e-3 * (layer.weights**2).sum()


def test_the_scale_is_the_best_for_its_codes():
    layer = Layer(np.array([[1.0, 2.0, 3.0]], np.float32), np.eye(3))
    start = Grid(np.array([[0.9]], np.float32), None, 3, 3).nearest(layer.weights)
    found = refine_codes(layer, start, damping=0)
    np.testing.assert_allclose(found.values(), layer.weights, rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gains_on_top_of_gptq(bits):
    layer = example((16, 64), 0, count=512)
    rounded = gptq(layer, bits, 16)
    assert layer.error(refine_codes(layer, rounded)) < 0.9 * layer.error(rounded)


def test_inputs_held_out_decide_what_is_kept():
    few, many = example((8, 32), 5, count=4), example((8, 32), 5, count=4000)
    layer = Layer(few.weights, few.gram, held_out=many.gram)
    start = round_to_nearest(layer, 3)
    assert layer.error(refine_codes(layer, start)) <= layer.error(start)


@pytest.mark.parametrize("gram", [np.zeros((4, 4)), np.ones((4, 4)), np.diag([1.0, 0, 2.0, 0])])
def test_degenerate_inputs(gram):
    layer = Layer(np.array([[0.0] * 4, [1.0, -2.0, 3.0, 0.5]], np.float32), gram)
    start = round_to_nearest(layer, 3, 3)
    found = refine_codes(layer, start, damping=0)
    assert np.isfinite(found.values()).all()
    assert layer.error(found) <= layer.error(start)


def test_needs_a_gram_matrix():
    layer = Layer(np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match="no Gram matrix"):
        refine_codes(layer, round_to_nearest(layer, 4))
