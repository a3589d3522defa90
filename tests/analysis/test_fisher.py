import numpy as np
import pytest
from folding import build

from whet.analysis.fisher import Fisher
from whet.errors import CalibrationError
from whet.passes.workbench import Context

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(1)


def test_gaussian_is_the_diagonal_of_the_gram_matrix() -> None:
    """For y = x W with variance |y|², a gradient is noise times x / |y|: its square averages to x² / |y|²."""
    rng = np.random.default_rng(1)
    w = rng.standard_normal((3, 6)).astype(np.float32)
    model = build("(float[N,3] x) => (float[N,6] y) { y = MatMul(x, w) }", {"w": w})
    x = rng.standard_normal((300, 3)).astype(np.float32) * np.arange(1, 4, dtype=np.float32)
    context = Context(calibration=({"x": x},) * 25)
    found = Fisher(("w",), "gaussian", 7500).measure(model, context)["w"]
    shares = x.astype(np.float64) ** 2 / np.square(x @ w).sum(1, keepdims=True)
    wanted = np.repeat(shares.mean(0)[:, None], 6, 1)
    np.testing.assert_allclose(found, wanted, rtol=0.1, atol=0)


def test_categorical_is_that_of_logistic_regression() -> None:
    """For logits x W the Fisher information of w[i, k] is x_i² p_k (1 - p_k)."""
    rng = np.random.default_rng(2)
    w = rng.standard_normal((4, 3)).astype(np.float32)
    model = build("(float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", {"w": w})
    x = rng.standard_normal((1000, 4)).astype(np.float32)
    context = Context(calibration=({"x": x},) * 7)
    found = Fisher(("w",), samples=7000).measure(model, context)["w"]
    logits = x @ w
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = (x**2).T @ (p * (1 - p)) / len(x)
    np.testing.assert_allclose(found, wanted, rtol=0.1, atol=0)


def test_next_is_the_gradient_of_the_language_models_loss() -> None:
    text = "(int64[N,S] i) => (float[N,S,6] y) { h = Gather(e, i) y = MatMul(h, w) }"
    e = RNG.standard_normal((6, 4)).astype(np.float32)
    w = RNG.standard_normal((4, 6)).astype(np.float32)
    model = build(text, {"e": e, "w": w})
    tokens = RNG.integers(0, 6, (3, 8))
    context = Context(calibration=({"i": tokens[:2]}, {"i": tokens[2:]}))
    found = Fisher(("w",), "next").measure(model, context)["w"]
    weight = torch.tensor(w, requires_grad=True)
    total = np.zeros((4, 6))
    for row in tokens:
        logits = torch.tensor(e[row[:-1]]) @ weight
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:]))
        (gradient,) = torch.autograd.grad(loss, weight)
        total += gradient.numpy().astype(np.float64) ** 2
    np.testing.assert_allclose(found, total / 3, rtol=1e-4, atol=0)


def test_it_needs_data_and_is_deterministic() -> None:
    w = RNG.standard_normal((5, 3)).astype(np.float32)
    model = build("(float[N,5] x) => (float[N,3] y) { y = MatMul(x, w) }", {"w": w})
    with pytest.raises(CalibrationError, match="needs calibration data"):
        Fisher(("w",)).measure(model, Context())
    x = RNG.standard_normal((9, 5)).astype(np.float32)
    context = Context(calibration=({"x": x},), seed=3)
    first, second = (Fisher(("w",)).measure(model, context)["w"] for _ in range(2))
    assert np.array_equal(first, second)
