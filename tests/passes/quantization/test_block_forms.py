from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir
import pytest
from fake_prices import FakePrices

from whet.ir.array import Array
from whet.ir.execute import Executor
from whet.passes.kernels import kernel, noise
from whet.passes.proposal import Builder
from whet.passes.quantization.algorithms.approximation import Blocks, Layer
from whet.passes.quantization.algorithms.rounding import round_to_nearest
from whet.passes.quantization.block_forms import (
    DECODED,
    FORMS,
    INTEGERS,
    PACKED,
    BlockPrices,
    Form,
    Kept,
)
from whet.passes.quantization.choice import FLOAT

CASES = [
    (bits, symmetric, inputs, size)
    for bits in (2, 4, 8)
    for symmetric in (True, False)
    for inputs, size in ((64, 32), (72, 32), (48, 128))
]


def rounded(bits: int, inputs: int, size: int, *, symmetric: bool) -> Blocks:
    return round_to_nearest(
        Layer(noise((20, inputs), 1)), bits, size, symmetric=symmetric, full=True
    )


def execute(feeds: dict[str, Array], blocks: Blocks, form: Form, opset: int, what: str) -> Array:
    def body(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        kept = Kept(blocks, "w", opset)
        if what == "lookup":
            return kept.lookup(build, values[0], form)
        codes = build.ops("DynamicQuantizeLinear", [values[0]], 3) if form == INTEGERS else ()
        return kept.product(build, values[0], form, codes)

    data, given = kernel(feeds, body, opset)()
    return Executor(onnx.load_from_string(data), optimization="all").run(dict(given))[0]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("bits", "symmetric", "inputs", "size"), CASES)
def test_every_form_multiplies_by_the_decoded_matrix(
    bits: int, symmetric: bool, inputs: int, size: int, form: Form
) -> None:
    blocks = rounded(bits, inputs, size, symmetric=symmetric)
    x = noise((5, inputs))
    expected = x @ blocks.values().T
    for opset in (13, 21):
        found = execute({"x": x}, blocks, form, opset, "product")
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < (1e-5 if form in (DECODED, PACKED) else 0.02)


@pytest.mark.parametrize("form", [DECODED, PACKED], ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_lookup_returns_rows(bits: int, symmetric: bool, form: Form) -> None:
    blocks = rounded(bits, 64, 32, symmetric=symmetric)
    ids = np.array([[0, 19, -1], [3, 3, 7]])
    for opset in (13, 21):
        found = execute({"ids": ids}, blocks, form, opset, "lookup")
        np.testing.assert_allclose(found, blocks.values()[ids], atol=1e-6)


def test_prices_are_asked_once_for_every_form() -> None:
    prices = FakePrices(lambda _work, _name: 1.0)
    found = BlockPrices(prices, 21, 4, symmetric=True).product(3, (20, 64), [32, 64], FORMS)
    packed = {f"packed {size} level {level}" for size in (32, 64) for level in (0, 4)}
    assert set(found) == {FLOAT, "decoded", "integers", *packed}
    assert prices.asked == ["MatMul [3,64] x [64,20], 4 bits in 32+64"]
    outputs = [_run(make) for make in prices.models.values()]
    assert {output.shape for output in outputs} == {(3, 20)}


def test_the_price_of_a_lookup_is_that_of_its_kernel() -> None:
    prices = FakePrices(lambda _work, _name: 1.0)
    found = BlockPrices(prices, 21, 8, symmetric=False).lookup((2, 3), (20, 64), [32])
    assert set(found) == {FLOAT, "packed 32 level 0"}
    assert prices.asked == ["Gather [2, 3] from [20,64], 8 bits in 32 with zero points"]
    assert {_run(make).shape for make in prices.models.values()} == {(2, 3, 64)}


def _run(make: object) -> Array:
    data, feeds = make()  # type: ignore[operator]
    return Executor(onnx.load_from_string(data), optimization="all").run(dict(feeds))[0]
