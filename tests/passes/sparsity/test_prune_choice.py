"""Which groups go, in which order."""

import numpy as np
from pruning import graph

from whet.analysis.coupling import Coupled
from whet.passes.sparsity.prune_choice import choose, order_steps
from whet.passes.sparsity.prune_weights import Cost, layer_weights


def setting(name: str) -> tuple[Coupled, Cost, dict[int, float]]:
    """Return what is coupled, a cost of one per element, and scores that rise with the atom."""
    coupled = Coupled(graph(name).graph)
    cost = Cost(
        "parameters",
        {slot: float(slot.value.const_value.size) for slot in layer_weights(coupled)},
    )
    groups = [group for family in coupled.families for group in family.groups]
    return coupled, cost, {group.atom: 1.0 + group.atom for group in groups}


def test_multiples_stay() -> None:
    """Of 32 and 24 channels multiples of eight are left; of eight, which are too few, any number."""
    coupled, cost, scores = setting("inverted residual")
    steps = order_steps(coupled, coupled.families, scores, cost, 8, 0.75)
    sizes = {len(step.family.groups): len(step.groups) for step in steps}
    assert sizes == {32: 8, 8: 1}
    kept = [step for step in steps if len(step.family.groups) == 32]
    assert len(kept) == 3, "three quarters of 32 may go"


def test_the_least_score_goes_first() -> None:
    """Steps of one family are in the order of their scores."""
    coupled, cost, scores = setting("residual")
    steps = order_steps(coupled, coupled.families, scores, cost, 1, 0.9)
    for family in coupled.families:
        atoms = [g.atom for step in steps if step.family is family for g in step.groups]
        assert atoms == sorted(atoms)
        assert len(atoms) == int(0.9 * len(family.groups))


def test_saves_what_was_asked_for() -> None:
    """The fewest steps that reach the ratio; all of them where it cannot be reached."""
    coupled, cost, scores = setting("residual")
    steps = order_steps(coupled, coupled.families, scores, cost, 1, 0.9)
    for ratio in (0.1, 0.5):
        gone = choose(coupled, steps, cost, ratio)
        saved = 1 - cost.left(coupled, gone) / cost.whole
        assert ratio <= saved < ratio + 0.1
    everything = choose(coupled, steps, cost, 1.0)
    assert not coupled.emptied(everything)
    assert cost.left(coupled, everything) < 0.1 * cost.whole
    assert np.isclose(cost.left(coupled, ()), cost.whole)
