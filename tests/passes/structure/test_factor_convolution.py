import numpy as np
import onnx_ir
import pytest
from fake_prices import FakePrices
from folding import BINDINGS, build, declines, ops

from whet.ir.execute import Executor
from whet.ir.verify import verify
from whet.passes.base import Coverage
from whet.passes.structure.factor_convolution import FactorConvolution
from whet.passes.workbench import Context, Workbench

RNG = np.random.default_rng(0)
TEXT = "(float[N,16,9,8] x) => (float[N,24,h,w] y) {{ y = Conv<{}>(x, k, b) }}"
BIAS = RNG.standard_normal(24).astype(np.float32)
PATCHES = "pads=[1,0,1,2], strides=[2,1], dilations=[1,2]"


def smooth(count: int, seed: int) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(seed).standard_normal((count, 16, 9, 8))
    return {"x": (drawn + np.roll(drawn, 1, 2) + np.roll(drawn, 1, 3)).astype(np.float32)}


def crossed(rank: int) -> np.ndarray:
    """Make kernels that are sums of products along both axes."""
    down, along = RNG.standard_normal((rank, 16, 3)), RNG.standard_normal((24, rank, 3))
    return np.einsum("ria,orb->oiab", down, along).astype(np.float32)


def flat(rank: int, groups: int = 1) -> np.ndarray:
    parts = [
        RNG.standard_normal((24 // groups, rank)) @ RNG.standard_normal((rank, 16 // groups * 9))
        for _ in range(groups)
    ]
    return np.concatenate(parts).reshape(24, 16 // groups, 3, 3).astype(np.float32)


def apply(
    model: onnx_ir.Model, step: FactorConvolution, prices: FakePrices | None = None
) -> tuple[Coverage, float]:
    before = onnx_ir.to_proto(model)
    data = Context(BINDINGS, calibration=(smooth(12, 1),), held_out=(smooth(4, 2),), prices=prices)
    work = Workbench(model, step, data)
    step.apply(work)
    verify(model)
    (old,), (new,) = (Executor(m).run(smooth(3, 3)) for m in (before, onnx_ir.to_proto(model)))
    return work.coverage, float(np.linalg.norm(new - old) / np.linalg.norm(old))


@pytest.mark.parametrize("attributes", [PATCHES, 'auto_pad="SAME_UPPER", strides=[2,2]'])
@pytest.mark.parametrize("form", ["pointwise", "separable"])
def test_factors_of_the_right_form_are_exact(form: str, attributes: str) -> None:
    kernel = flat(4) if form == "pointwise" else crossed(4)
    model = build(TEXT.format(attributes), {"k": kernel, "b": BIAS})
    coverage, error = apply(model, FactorConvolution(energy=1 - 1e-6))
    assert ops(model) == ["Conv", "Conv"], coverage
    assert coverage.damage[0].format == f"{form} of rank 4"
    assert error < 1e-3
    assert apply(model, FactorConvolution(energy=1 - 1e-6))[0].changed == 0


def test_groups_are_factored_apart() -> None:
    model = build(TEXT.format("group=2"), {"k": flat(3, 2), "b": BIAS})
    coverage, error = apply(model, FactorConvolution(energy=1 - 1e-6))
    assert coverage.damage[0].format == "pointwise of rank 3"
    assert coverage.damage[0].bytes_after == 4 * (2 * 3 * 8 * 9 + 24 * 3)
    assert error < 1e-3


def test_at_a_ratio_the_better_form_is_taken() -> None:
    constants = {"k": crossed(4) + 0.05 * flat(12), "b": BIAS}
    errors = {
        form: apply(
            build(TEXT.format(PATCHES), constants), FactorConvolution(ratio=0.4, form=form)
        )[1]
        for form in ("pointwise", "separable", "auto")
    }
    assert errors["auto"] == errors["separable"] < errors["pointwise"]


def test_the_form_that_is_slower_is_passed_over() -> None:
    prices = FakePrices(
        lambda _work, name: {"plain": 1.0, "s": 1.2}.get(name if name == "plain" else name[0], 0.5)
    )
    model = build(TEXT.format(PATCHES), {"k": crossed(4), "b": BIAS})
    coverage, _ = apply(model, FactorConvolution(ratio=0.4), prices)
    assert coverage.damage[0].format.startswith("pointwise")
    slow = FakePrices(lambda _work, name: 1.0)
    model = build(TEXT.format(PATCHES), {"k": crossed(4), "b": BIAS})
    (reason,) = apply(model, FactorConvolution(ratio=0.4), slow)[0].declined.values()
    assert reason.count("takes 1 ms, the weight 1 ms") == 2


def test_declines() -> None:
    depthwise = "(float[N,24,9,8] x) => (float[N,24,h,w] y) { y = Conv<group=24>(x, k) }"
    kernel = {"k": RNG.standard_normal((24, 1, 9, 9)).astype(np.float32)}
    declines(
        build(depthwise, kernel),
        FactorConvolution(form="separable"),
        "a kernel of 24 groups is not split",
    )
    declines(
        build(depthwise, kernel),
        FactorConvolution(),
        "rank 1 takes 1968 numbers, the weight has 1944",
    )
    pointwise = "(float[N,48,9,8] x) => (float[N,24,h,w] y) { y = Conv(x, k) }"
    kernel = {"k": RNG.standard_normal((24, 48, 1, 1)).astype(np.float32)}
    declines(
        build(pointwise, kernel), FactorConvolution(form="separable"), "a kernel of [1, 1] taps"
    )
