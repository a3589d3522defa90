"""The most that a machine does, from three prices."""

import numpy as np
import pytest
from fake_prices import FakePrices

from whet.analysis.machine_peak import Peak, measure_peak
from whet.ir.execute import Executor


def test_rates_follow_from_times() -> None:
    times = {"float32": 1.0, "int8": 0.25}
    prices = FakePrices(lambda work, _: 2.0 if "sum" in work else times[work.split()[-1]])
    found = measure_peak(prices)
    assert found.flops == pytest.approx(2 * 512**3 / 1e-3)
    assert found.integer == pytest.approx(4 * found.flops)
    assert found.bytes == pytest.approx(4 * 64 * 2**17 / 2e-3)


def test_what_does_not_run_is_not_known() -> None:
    assert measure_peak(FakePrices(lambda *_: -1.0)) == Peak(0.0, 0.0, 0.0)


def test_the_models_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whet.analysis.machine_peak._SIDE", 8)
    monkeypatch.setattr("whet.analysis.machine_peak._LONG", 16)
    import onnx

    prices = FakePrices(lambda *_: 1.0)
    measure_peak(prices)
    for make in prices.models.values():
        data, feeds = make()
        (found,) = Executor(onnx.load_model_from_string(data)).run(feeds)
        assert np.isfinite(found).all()
