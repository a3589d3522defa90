import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.passes.quantization.algorithms.approximation import Layer
from whet.passes.quantization.algorithms.gptq import factor, gptq, gptq_on_grid
from whet.passes.quantization.algorithms.grid import Grid
from whet.passes.quantization.algorithms.rounding import choose_grid, round_to_nearest, row_errors

shapes = st.tuples(st.integers(1, 6), st.integers(1, 40))
sizes = st.one_of(st.none(), st.integers(1, 48))
options = st.sampled_from(
    [
        {"order": "act"},
        {"order": "natural"},
        {"order": "natural", "static_groups": False},
    ]
)


def example(shape, seed, count=None):
    rng = np.random.default_rng(seed)
    inputs = shape[1]
    rows = rng.standard_normal((count or 3 * inputs, inputs)) @ rng.standard_normal((inputs,) * 2)
    return Layer(rng.standard_normal(shape).astype(np.float32), rows.T @ rows / len(rows))


@given(shapes, st.integers(0, 99), st.integers(2, 8), sizes, st.booleans(), options)
def test_independent_inputs_leave_nothing_to_make_up_for(shape, seed, bits, size, symmetric, how):
    layer = Layer(example(shape, seed).weights, np.eye(shape[1]))
    found = gptq(layer, bits, size, symmetric=symmetric, **how)
    nearest = round_to_nearest(layer, bits, size, symmetric=symmetric)
    np.testing.assert_array_equal(found.values(), nearest.values())


@given(shapes, st.integers(0, 99), st.integers(2, 8), sizes, st.booleans(), options)
def test_no_row_is_worse_than_rounded_to_the_nearest(shape, seed, bits, size, symmetric, how):
    layer = example(shape, seed, count=max(1, shape[1] // 2) if seed % 2 else None)
    found = gptq(layer, bits, size, symmetric=symmetric, **how)
    nearest = round_to_nearest(layer, bits, size, symmetric=symmetric)
    errors = [row_errors(layer.weights, b.values(), layer.gram) for b in (found, nearest)]
    assert (errors[0] <= errors[1]).all()
    assert layer.error(found) <= layer.error(nearest)


def by_optimal_brain_surgeon(weights, gram, grid, order):
    """Round one column at a time; those not yet rounded move to where least squares puts them."""
    values = np.array(weights, np.float64)
    free = list(order)
    for column in order:
        scale, zero = grid.column(column)
        low, high = grid.limits
        steps = np.clip(np.rint(values[:, column] / scale) + zero, low, high)
        rounded = (steps - zero) * scale
        free.remove(column)
        change = np.zeros_like(values)
        change[:, column] = rounded - values[:, column]
        if free:
            # Minimize (d H d) over the free entries of d, its entry at the column being fixed.
            inner = gram[np.ix_(free, free)]
            change[:, free] = -np.linalg.solve(
                inner, gram[free, column][:, None] * change[:, column]
            ).T
        values += change
    return values


@given(st.integers(0, 200), st.sampled_from(["natural", "act"]), st.integers(1, 5))
def test_the_update_is_the_one_of_optimal_brain_surgeon(seed, order, block):
    layer = example((3, 6), seed, count=40)
    damping = 0.01
    damped = layer.gram + damping * np.diagonal(layer.gram).mean() * np.eye(6)
    grid = choose_grid(layer, 3, 4)
    turn = range(6) if order == "natural" else np.argsort(-np.diagonal(layer.gram), kind="stable")
    wanted = by_optimal_brain_surgeon(layer.weights, damped, grid, list(turn))
    found = gptq_on_grid(layer, grid, order=order, damping=damping, block=block).values()
    nearest = grid.nearest(layer.weights).values()
    losses = [row_errors(layer.weights, v, layer.gram) for v in (wanted, nearest)]
    kept = np.where((losses[0] < losses[1])[:, None], wanted, nearest)
    np.testing.assert_allclose(found, kept, rtol=1e-5, atol=1e-6)


@given(st.integers(0, 50))
def test_close_to_the_best_codes_there_are(seed):
    """By brute force over all codes of 5 inputs; GPTQ is greedy, so it is only near."""
    layer = example((1, 5), seed, count=30)
    grid = Grid(np.full((1, 1), 0.7, np.float32), None, 3, 5)
    every = np.array(list(itertools.product(range(-3, 4), repeat=5)), np.float32) * np.float32(0.7)
    least = row_errors(np.repeat(layer.weights, len(every), 0), every, layer.gram).min()
    found = row_errors(layer.weights, gptq_on_grid(layer, grid).values(), layer.gram)[0]
    nearest = row_errors(layer.weights, grid.nearest(layer.weights).values(), layer.gram)[0]
    assert least - 1e-9 <= found <= nearest


def test_correlated_inputs_gain_much():
    layer = example((16, 64), 0)
    rounded, nearest = (
        row_errors(layer.weights, found.values(), layer.gram)
        for found in (gptq(layer, 3, 16), round_to_nearest(layer, 3, 16))
    )
    assert rounded.sum() < 0.6 * nearest.sum()
    assert (rounded < nearest).all()


@pytest.mark.parametrize("how", [{"order": "act"}, {"order": "natural", "static_groups": False}])
def test_more_bits_lose_less(how):
    layer = example((8, 48), 1)
    errors = [layer.error(gptq(layer, bits, 16, **how)) for bits in range(2, 9)]
    assert all(more < less for less, more in itertools.pairwise(errors))


def test_static_groups_keep_the_natural_order_of_storage():
    """The scales are those of the groups as they lie in the weights, whatever the order of rounding."""
    layer = example((4, 32), 3)
    layer.weights[:, 8:16] *= 50
    found = gptq(layer, 4, 8)
    grid = choose_grid(layer, 4, 8)
    np.testing.assert_array_equal(found.scales, grid.scales)
    assert (found.scales[:, 1] > 5 * found.scales[:, [0, 2, 3]].max(1)).all()


def test_groups_chosen_on_the_way_follow_the_moved_weights():
    layer = example((8, 48), 2)
    moved = gptq(layer, 3, 16, order="natural", static_groups=False, block=5)
    assert not np.array_equal(moved.scales, choose_grid(layer, 3, 16).scales)


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_the_number_of_columns_between_updates_changes_nothing(block):
    layer = example((4, 33), 4)
    np.testing.assert_array_equal(gptq(layer, 4, 8).codes, gptq(layer, 4, 8, block=block).codes)


def test_inputs_held_out_decide_what_is_kept():
    """Four samples of 32 inputs are fitted at the cost of all others: rows go back to the nearest."""
    few, many = example((8, 32), 5, count=4), example((8, 32), 5, count=4000)
    layer = Layer(few.weights, few.gram, held_out=many.gram)
    fitted, judged = (gptq(x, 3) for x in (Layer(few.weights, few.gram), layer))
    assert layer.error(judged) <= layer.error(round_to_nearest(layer, 3)) < layer.error(fitted)


def test_the_factor_is_unit_upper_triangular_and_gives_back_the_matrix():
    gram = example((1, 7), 6).gram
    order = [3, 1, 6, 0, 2, 5, 4]
    unit = factor(gram, 0.0, order).astype(np.float64)
    np.testing.assert_array_equal(unit, np.triu(unit))
    np.testing.assert_allclose(np.diagonal(unit), 1.0)
    inverse = np.linalg.inv(unit)
    middle = inverse @ gram[np.ix_(order, order)] @ inverse.T
    np.testing.assert_allclose(middle, np.diag(np.diagonal(middle)), atol=1e-4 * middle.max())


@pytest.mark.parametrize("how", [{}, {"order": "natural", "static_groups": False}])
@pytest.mark.parametrize(
    "gram",
    [
        np.zeros((5, 5)),
        np.ones((5, 5)),
        np.diag([1.0, 0.0, 2.0, 0.0, 3.0]),
        np.diag([1e-300, 1.0, 1e30, 1.0, 1e-30]),
    ],
)
def test_degenerate_inputs(gram, how):
    weights = np.array(
        [[0.0] * 5, [1.0, -2.0, 3.0, 0.5, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]], np.float32
    )
    found = gptq(Layer(weights, gram), 4, 2, damping="auto", **how)
    nearest = round_to_nearest(Layer(weights, gram), 4, 2)
    assert np.isfinite(found.values()).all()
    np.testing.assert_array_equal(found.values()[0], np.zeros(5))
    assert Layer(weights, gram).error(found) <= Layer(weights, gram).error(nearest)


def test_inputs_never_seen_are_rounded_to_the_nearest():
    layer = example((4, 6), 7)
    gram = layer.gram.copy()
    gram[2, :] = gram[:, 2] = 0
    grid = choose_grid(layer, 4)
    found = gptq_on_grid(Layer(layer.weights, gram), grid)
    np.testing.assert_array_equal(found.codes[:, 2], grid.nearest(layer.weights).codes[:, 2])


def test_no_damping_is_raised_until_the_matrix_can_be_factored():
    rows = np.random.default_rng(0).standard_normal((2, 8))
    layer = Layer(example((3, 8), 0).weights, rows.T @ rows)
    assert layer.error(gptq(layer, 4, damping=0.0)) <= layer.error(round_to_nearest(layer, 4))


def test_one_input():
    layer = Layer(np.array([[3.0], [-1.0]], np.float32), np.array([[2.0]]))
    np.testing.assert_allclose(gptq(layer, 3, 4).values(), layer.weights, rtol=1e-6)


@pytest.mark.parametrize(
    ("gram", "how", "message"),
    [
        (None, {}, "no Gram matrix"),
        (np.eye(2), {}, r"Gram matrix \[2, 2\] for a layer with 3 inputs"),
        (np.full((3, 3), np.nan), {}, "not a number"),
        (-np.eye(3) + 2 * np.ones((3, 3)), {"damping": 1e3}, None),
        (1 - np.eye(3) * 0.999 - 1e9 * (1 - np.eye(3)), {}, "not positive semidefinite"),
        (np.eye(3), {"static_groups": False}, "static_groups=True"),
        (np.eye(3), {"bits": 1}, "bits is 1"),
    ],
)
def test_what_cannot_be_done(gram, how, message):
    layer = Layer(np.ones((2, 3), np.float32), gram)
    arguments = {"bits": 4, **how}
    if message is None:
        assert gptq(layer, **arguments).codes.shape == (2, 3)
        return
    with pytest.raises(ValueError, match=message):
        gptq(layer, **arguments)
