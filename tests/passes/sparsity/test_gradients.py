import importlib.util

import numpy as np
import pytest
from sparsifying import network, samples

from whet.errors import Mismatch
from whet.passes.sparsity.gradients import loss_gradients


def test_products_have_the_mean_of_the_fisher_matrix() -> None:
    pytest.importorskip("torch")
    model, data = network(), samples(1)
    found = list(loss_gradients(model, ["v"], data, 600, "categorical", 0))
    assert len(found) == 600
    assert {count for _, count in found} == {2}
    rows = np.stack([g["v"].reshape(-1) for g, _ in found]).astype(np.float64)
    mean = rows.T @ rows / sum(count for _, count in found)
    assert np.allclose(mean, exact(model, data[0]["x"]), atol=0.25 * np.abs(mean).max())
    assert np.trace(mean) == pytest.approx(np.trace(exact(model, data[0]["x"])), rel=0.15)


def exact(model: object, x: np.ndarray) -> np.ndarray:
    """Return the mean of h hᵀ ⊗ (diag p - p pᵀ) for y = h v."""
    weights = {n: v.const_value.numpy() for n, v in model.graph.initializers.items()}  # type: ignore[attr-defined]
    hidden = np.maximum(x @ weights["u"] + weights["b"], 0).astype(np.float64)
    logits = hidden @ weights["v"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    parts = [
        np.kron(np.outer(h, h), np.diag(q) - np.outer(q, q)) for h, q in zip(hidden, p, strict=True)
    ]
    return np.mean(parts, 0)


def test_without_data_or_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Mismatch, match="gradients need calibration data"):
        next(loss_gradients(network(), ["v"], [], 1, "gaussian", 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(Mismatch, match="gradients need torch, which is not installed"):
        next(loss_gradients(network(), ["v"], samples(1), 1, "gaussian", 0))
