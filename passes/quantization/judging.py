"""Calibration data for passes that fit something to what is there: some to fit on, others to judge by."""

from collections.abc import Mapping, Sequence

from whet.ir.values import Array

__all__ = ["Feeds", "fitted_and_judged"]

Feeds = Mapping[str, Array]


def fitted_and_judged(
    calibration: Sequence[Feeds], held_out: Sequence[Feeds] = ()
) -> tuple[Sequence[Feeds], Sequence[Feeds]]:
    """Return what to fit on and what to judge by.

    Without data held out every fourth batch judges, the second one first; a single batch does both.
    """
    if held_out:
        return calibration, held_out
    judged = [batch for k, batch in enumerate(calibration) if k % 4 == 1]
    fitted = [batch for k, batch in enumerate(calibration) if k % 4 != 1]
    return fitted, judged or fitted
