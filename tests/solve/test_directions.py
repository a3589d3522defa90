import numpy as np
import onnx_ir
import pytest
from mixing import context, network, variants

torch = pytest.importorskip("torch")

from whet.analysis.curvature.losses import OwnDistribution, OwnValues  # noqa: E402
from whet.ir.execute import Executor  # noqa: E402
from whet.solve.directions import directions  # noqa: E402
from whet.solve.grafting import Grafter  # noqa: E402
from whet.solve.losses import divergence, output_loss  # noqa: E402

X = context().held_out[0]["x"]
SAMPLES = [{"x": X[k : k + 1]} for k in range(len(X))]


def pieces() -> list:
    return [p for v in variants() for part in v.pieces.values() for p in part]


def outputs(model: onnx_ir.Model) -> list[np.ndarray]:
    return Executor(onnx_ir.to_proto(model)).run({"x": X})


@pytest.mark.parametrize("loss", [OwnValues(), OwnDistribution()])
def test_the_price_of_a_small_change_is_its_measured_loss(loss) -> None:
    found = directions(network(), pieces()[:3], SAMPLES, loss, draws=64)
    assert found.shape == (3, 64 * len(X))
    before = outputs(network())
    for row, piece in zip(found, pieces(), strict=False):
        after = outputs(Grafter(network()).replace([piece]))
        measured = (
            output_loss(before, after)
            if isinstance(loss, OwnValues)
            else divergence(before[0], after[0])
        )
        assert 0.5 * np.mean(row**2) == pytest.approx(measured, rel=0.15)


def test_mixtures_are_priced_with_their_interactions() -> None:
    found = directions(network(), pieces()[:3], SAMPLES, OwnValues(), draws=64)
    after = outputs(Grafter(network()).replace(pieces()[:3]))
    measured = output_loss(outputs(network()), after)
    assert 0.5 * np.mean(found.sum(0) ** 2) == pytest.approx(measured, rel=0.15)


def test_equal_seeds_give_equal_directions() -> None:
    first, again, other = (
        directions(network(), pieces()[:1], SAMPLES[:2], OwnValues(), seed=s) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
