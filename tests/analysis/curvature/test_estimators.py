"""Every estimator against the exact Hessian of small bending."""

import numpy as np
import pytest

pytest.importorskip("torch")
import bending
import torch
from bending import exact_hessian, flat, problem

from whet.analysis.curvature.fisher import fisher_diagonal, sample_gradients
from whet.analysis.curvature.hutchinson import block_means, hessian_diagonal, hessian_traces
from whet.analysis.curvature.kronecker import gradient_grams, predicted_loss
from whet.analysis.curvature.lanczos import top_eigenvalue
from whet.analysis.curvature.losses import Labels, Loss, OwnDistribution, OwnValues
from whet.analysis.curvature.problem import Problem
from whet.errors import CalibrationError, UsageError

LOSSES: list[Loss] = [OwnDistribution(), OwnValues()]
CASES = [(name, loss) for name in bending.NETWORKS for loss in LOSSES]
cases = pytest.mark.parametrize(("name", "loss"), CASES)


def per_weight(of: Problem, diagonal: np.ndarray) -> dict[str, np.ndarray]:
    ends = np.cumsum([w.numel() for w in of.weights.values()])
    return dict(zip(of.weights, np.split(diagonal, ends[:-1]), strict=True))


@cases
def test_products_with_the_hessian_are_exact(name: str, loss: Loss) -> None:
    of = problem(name, loss)
    hessian = exact_hessian(of)
    rng = np.random.default_rng(0)
    vector = {
        n: torch.from_numpy(rng.standard_normal(tuple(w.shape))) for n, w in of.weights.items()
    }
    (found,) = of.hessian_times([vector])
    np.testing.assert_allclose(flat(found), hessian @ flat(vector), rtol=1e-9, atol=1e-12)


@cases
def test_traces_come_within_five_percent_at_256_probes(name: str, loss: Loss) -> None:
    of = problem(name, loss)
    exact = per_weight(of, np.diag(exact_hessian(of)))
    found = hessian_traces(of, 256, seed=1)
    total = sum(trace.value for trace in found.values())
    assert total == pytest.approx(sum(d.sum() for d in exact.values()), rel=0.05)
    for weight, trace in found.items():
        assert abs(trace.value - exact[weight].sum()) <= 4 * trace.error
        assert trace.size == exact[weight].size


@cases
def test_the_diagonal_converges_as_its_error_says(name: str, loss: Loss) -> None:
    of = problem(name, loss)
    exact = per_weight(of, np.diag(exact_hessian(of)))
    found = hessian_diagonal(of, 64)
    for weight, diagonal in found.items():
        off = np.abs(diagonal.value.reshape(-1) - exact[weight])
        assert (off <= 5 * diagonal.error.reshape(-1) + 1e-12).all()


@cases
def test_the_true_fisher_diagonal_is_that_of_the_hessian(name: str, loss: Loss) -> None:
    of = problem(name, loss)
    exact = per_weight(of, np.diag(exact_hessian(of)))
    found = fisher_diagonal(of, "true", draws=25)
    assert found.samples == 25 * bending.SAMPLES
    for weight, mean in found.mean.items():
        off = np.abs(mean.reshape(-1) - exact[weight])
        assert (off <= 5 * found.error[weight].reshape(-1) + 1e-12).all()


@pytest.mark.parametrize("name", list(bending.NETWORKS))
def test_the_empirical_fisher_diagonal_is_exact_for_the_samples(name: str) -> None:
    of = problem(name, Labels(), labelled=True)
    found = fisher_diagonal(of, "empirical")
    squares: list[np.ndarray] = []
    for inputs, labels in of.samples():
        value = Labels().values(of.twin(*inputs), labels).sum()
        slopes = torch.autograd.grad(value, list(of.weights.values()))
        squares.append(np.concatenate([s.reshape(-1).numpy() ** 2 for s in slopes]))
    np.testing.assert_allclose(flat(found.mean), np.mean(squares, 0), rtol=1e-12)


@cases
def test_the_top_eigenvalue_is_that_of_the_dense_matrix(name: str, loss: Loss) -> None:
    of = problem(name, loss)
    hessian = exact_hessian(of)
    found = top_eigenvalue(of)
    assert found.value == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-4)
    assert found.residual <= 1e-3 * found.value
    first = next(iter(of.weights))
    size = of.weights[first].numel()
    alone = top_eigenvalue(of, first)
    assert alone.value == pytest.approx(np.linalg.eigvalsh(hessian[:size, :size])[-1], rel=1e-3)


def test_gradient_grams_are_the_mean_curvature_of_the_outputs() -> None:
    of = problem("dense", OwnValues(), repeat=500, batch=6000)
    found = gradient_grams(of, {"y": 1, "b": 1}, draws=8)
    y = torch.cat([of.twin(*inputs)[0].detach() for inputs, _ in of.batches()])
    wanted = np.eye(bending.CLASSES) * float((1 / y.square().sum(1)).mean())
    assert np.abs(found["y"] - wanted).max() <= 0.05 * wanted[0, 0]
    bend = 1 - torch.tanh(_before_tanh(of)).square()
    slopes = of.weights["w2"].detach().T * bend[:, None] / y.norm(dim=1)[:, None, None]
    exact = torch.einsum("nci,ncj->ij", slopes, slopes).numpy() / len(y)
    assert np.abs(found["b"] - exact).max() <= 0.05 * np.abs(exact).max()


def _before_tanh(of: Problem) -> torch.Tensor:
    x = torch.cat([inputs[0] for inputs, _ in of.batches()])
    return (x @ of.weights["w1"] + of.weights["b1"]).detach()


def test_the_predicted_loss_is_the_kronecker_form() -> None:
    rng = np.random.default_rng(0)
    change, x, g = (rng.standard_normal(s) for s in ((3, 5), (40, 5), (40, 3)))
    a, b = x.T @ x / 40, g.T @ g / 40
    wanted = 0.5 * change.reshape(-1) @ np.kron(b, a) @ change.reshape(-1)
    assert predicted_loss(change, a, b) == pytest.approx(wanted)


def test_one_seed_gives_the_same_bits() -> None:
    of = problem("dense", OwnDistribution())
    runs = [[flat(g) for g in sample_gradients(of, seed=s)] for s in (0, 0, 1)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_batches_change_nothing() -> None:
    found = [hessian_traces(problem("dense", OwnValues(), batch=b), 8) for b in (1, 5, 12)]
    for other in found[1:]:
        for name, trace in found[0].items():
            assert other[name].value == pytest.approx(trace.value, rel=1e-9)


def test_several_positions_count_as_their_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(1, 5, 3, dtype=torch.float64, generator=generator)
    logits = one.repeat(20000, 1, 1).requires_grad_()
    value = OwnDistribution().draws([logits], generator).sum()
    (slopes,) = torch.autograd.grad(value, logits)
    rows = slopes.flatten(1)
    hessian = torch.autograd.functional.hessian(
        lambda z: OwnDistribution().values([z], None).sum(), one
    ).reshape(15, 15)
    found = rows.T @ rows / len(rows)
    assert float((found - hessian).abs().max()) < 0.03 * float(hessian.max())


def test_block_means() -> None:
    rows = np.asarray([[1.0, 3.0, 5.0, 7.0, 9.0]])
    np.testing.assert_allclose(block_means(rows, 2), [[2, 2, 6, 6, 9]])
    kernel = np.arange(8.0).reshape(1, 2, 2, 2)
    np.testing.assert_allclose(block_means(kernel, 2)[0, :, 0, 0], [1.5, 5.5])
    assert block_means(rows, 1) is rows


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="no floating-point weight named 'w9'"):
        Problem(bending.model("dense"), ["w9"], [], OwnValues())
    of = problem("dense", Labels())
    with pytest.raises(CalibrationError, match="labels have shape None"):
        list(sample_gradients(of, "empirical"))
