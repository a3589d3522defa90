import numpy as np
import pytest

from whet.passes.structure.unit_grams import UnitGram


@pytest.mark.parametrize("centered", [False, True])
def test_all_vectors_count_alike(centered: bool) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2, 40, 6)) * rng.lognormal(0, 2, (2, 40, 1)) + 1
    asked = UnitGram(centered).start()
    for batch in rows:
        asked.add(batch.astype(np.float32))
    found = asked.result()
    moved = rows.reshape(-1, 6) - (rows.reshape(-1, 6).mean(-1, keepdims=True) if centered else 0)
    unit = moved / np.sqrt((moved**2).mean(-1, keepdims=True))
    np.testing.assert_allclose(found.matrix, unit.T @ unit / 80, atol=1e-5)
    assert np.trace(found.matrix) == pytest.approx(6)
    assert found.rows == 80
