import numpy as np
import pytest
from folding import build, weights

from whet.passes.quantization.algorithms.approximation import output_error
from whet.passes.quantization.input_moments import InputMoments, Seen
from whet.passes.quantization.low_bit_weights import low_bit_codes
from whet.passes.quantization.weight_codes import Codes, Weights


def case() -> tuple[Weights, Seen, np.ndarray]:
    """Return a Gemm whose inputs are correlated and have a mean, what is seen of them, and inputs never seen."""
    text = "(float[N,24] x) => (float[N,6] y) { y = Gemm(x, w, b) }"
    found = Weights.of(next(iter(build(text, weights(w=(24, 6), b=(6,))).graph)))
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((24, 24)) * (rng.random(24) + 0.1)
    x = (rng.standard_normal((3000, 24)) @ mix + 2).astype(np.float32)
    parts = []
    for part in (x[:1000], x[1000:2000]):
        sums = InputMoments().start()
        sums.add(part)
        parts.append(sums.result())
    return found, Seen(*parts), x[2000:]


def error(found: Weights, codes: Codes, x: np.ndarray) -> float:
    assert found.bias is not None
    assert codes.bias is not None
    wanted = x @ found.array + found.bias
    return float(np.linalg.norm(x @ codes.values() + codes.bias - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("bits", [4, 3])
def test_gptq_is_taken_where_it_is_better_on_other_data(bits: int) -> None:
    found, seen, x = case()
    by = {m: low_bit_codes(found, bits, m, seen) for m in ("nearest", "gptq", "auto")}
    assert by["auto"].method == "gptq"
    assert error(found, by["gptq"], x) < error(found, by["nearest"], x)
    assert np.array_equal(by["auto"].integers, by["gptq"].integers)
    assert np.abs(by["auto"].integers).max() < 2 ** (bits - 1)


def test_the_bias_takes_back_what_rounding_does_to_the_mean() -> None:
    found, seen, x = case()
    codes = low_bit_codes(found, 3, "nearest", seen)
    assert found.bias is not None
    plain = low_bit_codes(found, 3, "nearest", None)
    shift = (x @ codes.values() + codes.bias - x @ found.array - found.bias).mean(0)
    left = (x @ plain.values() + plain.bias - x @ found.array - found.bias).mean(0)
    assert np.linalg.norm(shift) < 0.3 * np.linalg.norm(left)


def test_without_data_weights_are_rounded_to_the_nearest() -> None:
    found, _, _ = case()
    codes = low_bit_codes(found, 4, "auto", None)
    assert codes.method == "nearest"
    assert output_error(found.array, codes.values(), None) < 0.02
