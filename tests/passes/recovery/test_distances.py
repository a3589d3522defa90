import numpy as np
import pytest

from whet.errors import Mismatch
from whet.passes.recovery.distances import Distance

torch = pytest.importorskip("torch")


def tensors(*shapes: tuple[int, ...], seed: int = 0):
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.standard_normal(shape)) for shape in shapes]


def test_outputs_are_relative_squares_averaged() -> None:
    wanted = [torch.full((2, 3), 2.0), torch.full((2, 1), 1.0)]
    found = [torch.full((2, 3), 1.0), torch.full((2, 1), 1.5)]
    distance = Distance("outputs", 2)
    assert float(distance.value(distance.measure(found, wanted))) == pytest.approx(
        (0.25 + 0.25) / 2
    )


def test_hidden_values_are_added_as_their_mean() -> None:
    wanted = [torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 5)]
    found = [torch.ones(2, 3) * 2, torch.ones(2, 4) * 3, torch.ones(2, 5)]
    distance = Distance("features", 1)
    assert float(distance.value(distance.measure(found, wanted))) == pytest.approx(1 + (4 + 0) / 2)


def test_divergence_is_that_of_distributions() -> None:
    (wanted, found) = tensors((6, 5), (6, 5))
    distance = Distance("divergence", 1)
    p, q = wanted.softmax(-1), found.softmax(-1)
    truth = float((p * (p / q).log()).sum(-1).mean())
    assert float(distance.value(distance.measure([found], [wanted]))) == pytest.approx(truth)


@pytest.mark.parametrize("loss", ["outputs", "divergence"])
def test_parts_add_up(loss: str) -> None:
    (wanted, found) = tensors((6, 5), (6, 5))
    distance = Distance(loss, 1)
    whole = distance.measure([found], [wanted])
    parts = distance.measure([found[:2]], [wanted[:2]]) + distance.measure(
        [found[2:]], [wanted[2:]]
    )
    assert float(distance.value(parts)) == pytest.approx(float(distance.value(whole)))


def test_infinite_scores_are_left_out_and_have_no_slope() -> None:
    wanted = torch.tensor([[1.0, -torch.inf]])
    found = torch.tensor([[2.0, -torch.inf]], requires_grad=True)
    distance = Distance("outputs", 1)
    value = distance.value(distance.measure([found], [wanted]))
    value.backward()
    assert float(value.detach()) == 1
    assert found.grad is not None
    assert found.grad.tolist() == [[2.0, 0.0]]


def test_what_cannot_be_compared() -> None:
    with pytest.raises(Mismatch, match="not comparable"):
        Distance("outputs", 1).measure(tensors((2, 3)), tensors((2, 4)))
    with pytest.raises(Mismatch, match="no logits"):
        Distance("divergence", 1).measure(tensors((2, 1)), tensors((2, 1)))
