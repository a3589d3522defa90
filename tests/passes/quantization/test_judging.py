"""What is fitted on and what is judged by."""

import numpy as np

from whet.passes.quantization.judging import fitted_and_judged

BATCHES = [{"x": np.full(1, k)} for k in range(6)]


def test_every_fourth_batch_judges() -> None:
    fitted, judged = fitted_and_judged(BATCHES)
    assert [int(b["x"][0]) for b in fitted] == [0, 2, 3, 4]
    assert [int(b["x"][0]) for b in judged] == [1, 5]


def test_data_held_out_judge_alone() -> None:
    assert fitted_and_judged(BATCHES[:4], BATCHES[4:]) == (BATCHES[:4], BATCHES[4:])


def test_a_single_batch_does_both() -> None:
    assert fitted_and_judged(BATCHES[:1]) == (BATCHES[:1], BATCHES[:1])
