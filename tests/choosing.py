"""Run a pass that chooses among spellings by invented prices, on small models; both spellings are executed."""

import copy
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir
from fake_prices import FakePrices
from folding import BINDINGS, ops, worst_error

from whet.analysis.prices import KernelModel, Prices
from whet.comparison import relative_error
from whet.ir.execute import Executor
from whet.ir.verify import verify
from whet.passes.base import Coverage, Pass
from whet.passes.spelling_prices import PLAIN
from whet.passes.workbench import Context, Workbench

TIE = FakePrices(lambda _work, name: 1.0 if name == PLAIN else 0.96)
FASTER = FakePrices(lambda _work, name: 1.0 if name == PLAIN else 0.9)
ONLY_PLAIN = FakePrices(lambda _work, name: 1.0 if name == PLAIN else -1.0)


class Executing:
    """Run what would be measured, check that both spellings compute the same, and favour the other one."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def lookup(
        self, work: str, formats: Mapping[str, KernelModel], rounds: int = 5
    ) -> Mapping[str, float]:
        self.asked.append(work)
        found = {name: _outputs(make) for name, make in formats.items()}
        for outputs in found.values():
            for one, other in zip(found[PLAIN], outputs, strict=True):
                assert relative_error(one, other)[0] <= 1e-5
        return FASTER.lookup(work, formats)


def _outputs(make: KernelModel) -> list[np.ndarray]:
    data, feeds = make()
    executor = Executor(onnx.load_model_from_string(data), optimization="all")
    assert set(feeds) == set(executor.inputs)
    return list(executor.run(feeds))


def run_priced(model: onnx_ir.Model, step: Pass, prices: Prices | None) -> Coverage:
    work = Workbench(model, step, Context(bindings=BINDINGS, prices=prices))
    step.apply(work)
    verify(model)
    return work.coverage


def chooses(model: onnx_ir.Model, step: Pass, expected: list[str]) -> list[str]:
    """Check that the pass leaves ``expected`` and equal outputs, twice; return what it asked prices for."""
    before = onnx_ir.to_proto(model)
    prices = Executing()
    coverage = run_priced(model, step, prices)
    assert not coverage.failures, coverage.failures
    assert ops(model) == expected, coverage
    assert worst_error(before, model) <= 1e-5
    assert run_priced(model, step, prices).changed == 0
    return prices.asked


def keeps(
    model: onnx_ir.Model, step: Pass, reason: str, prices: Prices | None = FASTER
) -> Coverage:
    """Check that the pass leaves the model as it is, saying why (or nothing, where it finds no place)."""
    before = str(copy.deepcopy(onnx_ir.to_proto(model)))
    coverage = run_priced(model, step, prices)
    assert coverage.changed == 0
    assert not coverage.failures
    assert str(onnx_ir.to_proto(model)) == before
    said = [*coverage.declined.values(), *coverage.near_misses.values()]
    assert any(reason in text for text in said) if reason else not said, said
    return coverage


def keeps_without_gain(model: onnx_ir.Model, step: Pass) -> None:
    """Check that nothing changes where nothing may be measured, and where the plain operators are as fast."""
    keeps(model, step, "nothing may be measured", None)
    keeps(model, step, "takes 0.96 ms, the plain operators 1 ms", TIE)
    keeps(model, step, "the runtime does not run", ONLY_PLAIN)
