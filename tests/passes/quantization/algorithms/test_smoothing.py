import numpy as np
import pytest

from whet.passes.quantization.algorithms.smoothing import (
    Product,
    Rounding,
    product_error,
    smoothing_scales,
)


def product(outlier: float, seed: int = 0, labels: np.ndarray | None = None) -> Product:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((256, 16))
    rows[:, 3] *= outlier
    weight = rng.standard_normal((16, 12))
    numbers = np.arange(16) if labels is None else labels
    return Product(rows, weight, rows.min(0), rows.max(0), numbers)


FREE = np.zeros(16, np.bool_)


def test_an_outlier_moves_into_the_weights() -> None:
    part = product(60.0)
    scales, before, after = smoothing_scales([part], FREE, Rounding(), 0.02)
    assert after < before / 4
    assert np.argmax(scales) == 3
    assert np.isclose(product_error(part, scales, Rounding()), after)


@pytest.mark.parametrize("rounding", [Rounding(), Rounding(4, 0), Rounding(4, 0, 5)], ids=str)
def test_never_worse_than_no_scales(rounding: Rounding) -> None:
    for outlier in (1.0, 3.0, 100.0):
        part = product(outlier)
        scales, before, after = smoothing_scales([part], FREE, rounding, 0.02)
        assert after <= before
        assert after < before or (scales == 1).all()


def test_frozen_channels_stay() -> None:
    frozen = FREE.copy()
    frozen[3] = True
    scales, _, _ = smoothing_scales([product(60.0)], frozen, Rounding(), 0.02)
    assert scales[3] == 1


def test_channels_shared_by_several_inputs_and_products() -> None:
    labels = np.repeat(np.arange(8), 2)
    parts = [product(40.0, 1, labels), product(1.0, 2, labels)]
    scales, before, after = smoothing_scales(parts, np.zeros(8, np.bool_), Rounding(), 0.02)
    assert scales.shape == (8,)
    assert after < before


def test_rounding_is_exact_on_its_own_grid() -> None:
    weight = np.asarray([[127.0, -5.0], [3.0, 127.0]])
    rows = np.asarray([[0.0, 255.0], [17.0, 4.0]])
    part = Product(rows, weight, np.zeros(2), np.full(2, 255.0), np.arange(2))
    assert product_error(part, np.ones(2), Rounding()) == 0.0
    assert product_error(part, np.ones(2), Rounding(4)) > 0.0
