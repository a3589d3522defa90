import numpy as np
import pytest

from whet.analysis.channel_statistics import Channels, Rows
from whet.errors import CalibrationError


@pytest.mark.parametrize("axis", [1, -1])
def test_channels_over_batches(axis: int) -> None:
    batches = [np.random.default_rng(k).standard_normal((k + 2, 3, 4)) for k in range(3)]
    accumulator = Channels(axis).start()
    for batch in batches:
        accumulator.add(batch.astype(np.float32))
    found = accumulator.result()
    rows = np.moveaxis(np.concatenate(batches), axis, -1)
    rows = rows.reshape(-1, rows.shape[-1])
    assert np.allclose(found.low, rows.min(0))
    assert np.allclose(found.high, rows.max(0))
    assert np.allclose(found.mean, rows.mean(0))
    assert np.allclose(found.square, (rows**2).mean(0))
    assert np.allclose(found.peak, np.abs(rows).max(0))


def test_rows_come_from_every_batch_up_to_the_count() -> None:
    accumulator = Rows(-1, count=10, batch=4).start()
    for k in range(5):
        accumulator.add(np.full((20, 3), k, np.float32))
    assert accumulator.result()[:, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 2
    accumulator = Rows(1, batch=8).start()
    accumulator.add(np.arange(6, dtype=np.float32).reshape(1, 3, 2))
    assert accumulator.result().tolist() == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("statistic", [Channels(), Rows()])
def test_without_data(statistic: Channels | Rows) -> None:
    with pytest.raises(CalibrationError, match="no batch"):
        statistic.start().result()
