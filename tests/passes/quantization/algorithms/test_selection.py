import dataclasses

import numpy as np
import pytest

from whet.passes.quantization.algorithms.approximation import Layer, LowRank
from whet.passes.quantization.algorithms.rounding import round_to_nearest
from whet.passes.quantization.algorithms.selection import best, integer_candidates

LAYER = Layer(np.arange(1.0, 9.0, dtype=np.float32).reshape(2, 4))


def test_the_smallest_error_wins_and_all_are_told():
    name, found, errors = best(
        LAYER, {f"{bits} bits": lambda b=bits: round_to_nearest(LAYER, b) for bits in (2, 8, 4)}
    )
    assert name == "8 bits"
    assert found.bits == 8
    assert list(errors) == ["2 bits", "8 bits", "4 bits"]
    assert errors["8 bits"] < errors["4 bits"] < errors["2 bits"]
    assert errors[name] == LAYER.error(found)


def test_of_equals_the_simpler_is_kept():
    nearest = round_to_nearest(LAYER, 4)
    again = dataclasses.replace(nearest)
    name, found, _ = best(LAYER, {"nearest": lambda: nearest, "other": lambda: again})
    assert name == "nearest"
    assert found is nearest


@pytest.mark.parametrize("broken_first", [True, False])
def test_an_error_that_is_no_number_loses(broken_first):
    broken = LowRank(np.full((2, 1), np.nan, np.float32), np.ones((1, 4), np.float32))
    runs = {"broken": lambda: broken, "nearest": lambda: round_to_nearest(LAYER, 4)}
    if not broken_first:
        runs = dict(reversed(runs.items()))
    name, _, errors = best(LAYER, runs)
    assert name == "nearest"
    assert errors["broken"] == float("inf")


def test_inputs_held_out_are_what_errors_are_measured_on():
    layer = dataclasses.replace(LAYER, gram=np.eye(4), held_out=np.diag([1.0, 0, 0, 0]))
    exact_there = LowRank(np.array([[1.0], [5.0]], np.float32), np.eye(4, dtype=np.float32)[:1])
    runs = {"nearest": lambda: round_to_nearest(layer, 2), "first column": lambda: exact_there}
    assert best(layer, runs)[0] == "first column"


def test_nothing_to_choose_from():
    with pytest.raises(ValueError, match="no candidate"):
        best(LAYER, {})


def test_the_ways_to_round_to_integers():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((100, 16)) @ rng.standard_normal((16, 16))
    weights = rng.standard_normal((8, 16)).astype(np.float32)
    assert list(integer_candidates(Layer(weights), 3)) == ["nearest"]
    layer = Layer(weights, rows.T @ rows)
    name, found, errors = best(layer, integer_candidates(layer, 3, 8, symmetric=False))
    assert name == "gptq refined"
    assert errors["gptq refined"] < errors["gptq"] < errors["nearest"]
    assert found.zeros is not None
    assert found.size == 8
