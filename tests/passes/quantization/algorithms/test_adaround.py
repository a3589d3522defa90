import numpy as np
import pytest
import torch

from whet.passes.quantization.algorithms.adaround import Schedule, adaround
from whet.passes.quantization.algorithms.approximation import Layer
from whet.passes.quantization.algorithms.grid import grid_of
from whet.passes.quantization.algorithms.rounding import round_to_nearest

RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((6, 12)).astype(np.float32)
INPUTS = (RNG.standard_normal((256, 12)) @ RNG.standard_normal((12, 12))).astype(np.float32)
SHORT = Schedule(steps=150, rate=0.05)


def linear(x, matrix):
    return x @ matrix.T


def rectified(x, matrix):
    return torch.relu(x @ matrix.T)


def lost(function, blocks, inputs, targets):
    outputs = function(torch.from_numpy(inputs), torch.from_numpy(blocks.values())).numpy()
    return float(((outputs - targets) ** 2).sum())


@pytest.mark.parametrize("function", [linear, rectified])
@pytest.mark.parametrize("symmetric", [True, False])
def test_outputs_come_nearer_than_by_rounding_to_the_nearest(function, symmetric):
    targets = function(torch.from_numpy(INPUTS), torch.from_numpy(WEIGHTS)).numpy()
    start = round_to_nearest(Layer(WEIGHTS), 3, 4, symmetric=symmetric)
    found = adaround(WEIGHTS, start, INPUTS, targets, function, schedule=SHORT)
    assert lost(function, found, INPUTS, targets) < 0.95 * lost(function, start, INPUTS, targets)


def test_codes_stay_next_to_where_they_started_and_on_the_grid():
    start = round_to_nearest(Layer(WEIGHTS), 2, 4)
    found = adaround(WEIGHTS, start, INPUTS, INPUTS @ WEIGHTS.T, linear, schedule=SHORT)
    np.testing.assert_array_equal(found.scales, start.scales)
    moved = found.codes.astype(int) - start.codes
    assert np.abs(moved).max() == 1
    low, high = grid_of(start).limits
    assert low <= found.codes.min() <= found.codes.max() <= high
    wanted = WEIGHTS / np.repeat(start.scales, 4, axis=1) - start.codes
    assert (np.sign(moved) == np.sign(wanted))[moved != 0].all()


def test_what_the_inputs_lost_is_made_up_for():
    """Inputs are a tenth smaller in the quantized model; the targets are those of the float one."""
    start = round_to_nearest(Layer(WEIGHTS), 4)
    targets = INPUTS @ WEIGHTS.T
    found = adaround(WEIGHTS, start, 0.9 * INPUTS, targets, linear, schedule=SHORT)
    before, after = (lost(linear, b, 0.9 * INPUTS, targets) for b in (start, found))
    assert after < 0.9 * before


def test_the_same_seed_gives_the_same_codes():
    start = round_to_nearest(Layer(WEIGHTS), 3)
    first, again = (
        adaround(WEIGHTS, start, INPUTS, INPUTS @ WEIGHTS.T, linear, schedule=Schedule(steps=30))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.codes, again.codes)


def test_rows_that_get_worse_on_other_samples_stay():
    """Two samples say nothing about the rest: held-out samples keep the start."""
    start = round_to_nearest(Layer(WEIGHTS), 3)
    noise = RNG.standard_normal((8, 6)).astype(np.float32) * 10
    found = adaround(WEIGHTS, start, INPUTS[:8], noise, linear, schedule=SHORT)
    kept = np.random.default_rng(0).permutation(8)[:2]
    for row in range(6):
        errors = [
            ((INPUTS[kept] @ b.values()[row] - noise[kept, row]) ** 2).sum() for b in (found, start)
        ]
        assert errors[0] <= errors[1] * (1 + 1e-6)


def test_channels_may_lie_on_another_axis():
    images = RNG.standard_normal((32, 3, 4, 4)).astype(np.float32)

    def convolve(x, matrix):
        return torch.relu(torch.nn.functional.conv2d(x, matrix.reshape(6, 3, 2, 2)))

    targets = convolve(torch.from_numpy(images), torch.from_numpy(WEIGHTS)).numpy()
    start = round_to_nearest(Layer(WEIGHTS), 3)
    found = adaround(WEIGHTS, start, images, targets, convolve, axis=1, schedule=SHORT)
    assert lost(convolve, found, images, targets) < lost(convolve, start, images, targets)


def test_one_sample():
    start = round_to_nearest(Layer(WEIGHTS), 3)
    found = adaround(WEIGHTS, start, INPUTS[:1], INPUTS[:1] @ WEIGHTS.T, linear, schedule=SHORT)
    data = INPUTS[:1], INPUTS[:1] @ WEIGHTS.T
    assert lost(linear, found, *data) <= lost(linear, start, *data)


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (INPUTS, INPUTS[:3] @ WEIGHTS.T, "256 inputs for 3 targets"),
        (INPUTS[:0], INPUTS[:0] @ WEIGHTS.T, "0 inputs for 0 targets"),
        (INPUTS * np.nan, INPUTS @ WEIGHTS.T, "not a number"),
    ],
)
def test_data_that_do_not_fit(inputs, targets, message):
    with pytest.raises(ValueError, match=message):
        adaround(WEIGHTS, round_to_nearest(Layer(WEIGHTS), 3), inputs, targets, linear)
