import numpy as np
import pytest

from whet.passes.experts.drop_experts import DropExperts
from whet.passes.experts.prune_experts import PruneExperts
from whet.tools.bench.experts import Digits, accuracy, compress, rows, train
from whet.tools.bench.experts_model import moe_model


@pytest.fixture(scope="module")
def trained() -> tuple[Digits, dict[str, np.ndarray]]:
    digits = Digits()
    return digits, train(digits, steps=200)


def test_a_trained_mixture_bears_what_it_should(
    trained: tuple[Digits, dict[str, np.ndarray]],
) -> None:
    digits, weights = trained
    whole = accuracy(moe_model(weights), digits)
    assert whole > 0.9
    pruned = compress(weights, PruneExperts(likelihood="categorical", limit=1e9), digits)
    assert accuracy(pruned, digits) > whole - 0.03
    random = compress(weights, DropExperts(choice="random", ratio=0.5, limit=1e9), digits)
    assert accuracy(random, digits) <= whole


def test_a_pass_that_changes_nothing_is_an_error(
    trained: tuple[Digits, dict[str, np.ndarray]],
) -> None:
    digits, weights = trained
    with pytest.raises(RuntimeError, match="changed nothing"):
        compress(weights, DropExperts(ratio=0.01), digits)


def test_every_pass_is_held_against_chance() -> None:
    assert [name for name, _, _ in rows(0.5)][:3] == [
        "drop-experts",
        "merge-experts",
        "prune-experts",
    ]
    assert all(step.ratio == random.ratio == 0.5 for _, step, random in rows(0.5))
