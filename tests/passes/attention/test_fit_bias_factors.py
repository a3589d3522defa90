import dataclasses

import numpy as np
import onnx_ir
import pytest
from fake_prices import FakePrices
from pairing import HEADS, PERCEPTRON, calibrated, drawn, of_pairs, outputs, workbench
from rewriting import context_of, op_types

from whet.ir.bindings import Bindings
from whet.ir.capture import capture
from whet.ir.prepare import normalize
from whet.ir.shapes import infer_shapes
from whet.ir.text import print_model
from whet.ir.values import dimensions
from whet.ir.verify import verify
from whet.passes.attention.fit_bias_factors import FitBiasFactors
from whet.passes.base import Coverage
from whet.passes.pipeline import Pipeline
from whet.passes.proof import relative_error
from whet.passes.recipes import exact
from whet.passes.workbench import Context, Workbench

STEP = FitBiasFactors(when="always", steps=0)
DISTANCE = """
    xi = Unsqueeze(x, two)  xj = Unsqueeze(x, one)
    d = Sub(xi, xj)  s = ReduceSumSquare<keepdims=0>(d, three)
    s1 = Add(s, unit)  r = Sqrt(s1)  n = Neg(r)
    bias = Unsqueeze(n, one)
"""


def pairs_left(model: onnx_ir.Model) -> list[str]:
    """Return the values that have a size for every pair of positions."""
    infer_shapes(model)
    return [
        node.op_type
        for node in model.graph
        for value in node.outputs
        if list(map(str, dimensions(value) or ())).count("N") > 1
    ]


def fit(model: onnx_ir.Model, step: FitBiasFactors = STEP, **changes: object) -> Coverage:
    context = calibrated(model, drawn(16, 32, 1), drawn(16, 32, 2))
    return workbench(model, step, dataclasses.replace(context, **changes)).coverage


def error_on_new_data(before: onnx_ir.Model, after: onnx_ir.Model) -> float:
    feeds = drawn(3, 40, 77)
    return relative_error(outputs(before, feeds)[0], outputs(after, feeds)[0])


@pytest.mark.parametrize("nodes", [PERCEPTRON, DISTANCE], ids=["perceptron", "distance"])
def test_factors_take_the_place_of_the_bias(nodes: str) -> None:
    before, model = of_pairs(nodes), of_pairs(nodes)
    coverage = fit(model)
    assert (coverage.matched, coverage.changed) == (1, 1)
    assert coverage.proofs == {"calibration": 1}
    assert 0 < coverage.max_error <= 2e-2
    assert coverage.damage[0].error == coverage.max_error
    assert coverage.damage[0].format.startswith("fitted factors of rank")
    verify(model)
    assert pairs_left(before)
    assert pairs_left(model) == []
    assert error_on_new_data(before, model) < 3e-2
    assert fit(model).matched == 0


def test_causal_attention_stays_causal() -> None:
    before, model = (of_pairs(attributes="<is_causal=1>") for _ in range(2))
    assert fit(model).changed == 1
    (node,) = (node for node in model.graph if node.op_type == "Attention")
    assert node.attributes["is_causal"].as_int() == 1
    assert error_on_new_data(before, model) < 3e-2


HIDDEN = """
    keep = Greater(xs, zero)  k4 = Unsqueeze(keep, ends)
    bias = Where(k4, free, low)
"""


@pytest.mark.parametrize("fill", ["-1e30", "-1e9"])
def test_hidden_keys_become_a_column(fill: str) -> None:
    nodes = PERCEPTRON.replace("bias", "free") + HIDDEN
    before, model = (
        of_pairs(nodes.replace("low", f"c{fill.count('9')}"), ", float[B,N] xs") for _ in range(2)
    )

    def batch(samples: int, seed: int) -> dict[str, np.ndarray]:
        shown = np.random.default_rng(seed).standard_normal((samples, 32)).astype(np.float32) + 1
        shown[:, 0] = 1
        return {**drawn(samples, 32, seed), "xs": shown}

    context = calibrated(model, batch(16, 1))
    assert workbench(model, STEP, context).coverage.changed == 1
    assert pairs_left(model) == []
    new = batch(4, 9)
    assert relative_error(outputs(before, new)[0], outputs(model, new)[0]) < 3e-2


def test_what_does_not_depend_on_the_input_stays_a_mask() -> None:
    nodes = PERCEPTRON.replace("bias", "free") + "bias = Add(free, table)"
    before, model = of_pairs(nodes), of_pairs(nodes)
    context = calibrated(model, drawn(16, 24, 1))
    assert workbench(model, STEP, context).coverage.changed == 1
    (node,) = (node for node in model.graph if node.op_type == "Attention")
    assert node.inputs[3] is not None
    feeds = drawn(3, 24, 77)
    assert relative_error(outputs(before, feeds)[0], outputs(model, feeds)[0]) < 3e-2


def test_training_with_torch_comes_closer_at_the_same_rank() -> None:
    pytest.importorskip("torch")
    short = dataclasses.replace(STEP, rank=2, error=7.5e-2)
    (reason,) = fit(of_pairs(), short).declined.values()
    assert reason.startswith("rank 2 reaches")
    model = of_pairs()
    assert fit(model, dataclasses.replace(short, steps=150)).changed == 1
    assert op_types(model).count("Gelu") == 2


def test_declines_without_calibration_data() -> None:
    model = of_pairs()
    work = workbench(model, STEP, context_of(model))
    assert list(work.coverage.declined.values()) == ["needs calibration data"]


def test_declines_too_few_samples() -> None:
    model = of_pairs()
    work = workbench(model, STEP, calibrated(model, drawn(2, 16)))
    (reason,) = work.coverage.declined.values()
    assert reason.startswith("it takes three calibration samples")
    assert "there are 2" in reason


def test_declines_what_no_function_of_positions_tells() -> None:
    chaos = PERCEPTRON.replace("bias", "plain") + "far = Mul(plain, big)  bias = Sin(far)"
    model = of_pairs(chaos)
    text = print_model(model)
    coverage = fit(model)
    (reason,) = coverage.declined.values()
    assert reason.startswith("rank 16 reaches ")
    assert "on held-out data" in reason
    assert reason.endswith("allowed 2.0e-02")
    assert print_model(model) == text


def test_declines_a_pair_representation_that_is_an_input() -> None:
    nodes = "bias = Transpose<perm=[0, 3, 1, 2]>(z)"
    model = of_pairs(nodes, f", float[B,N,N,{HEADS}] z")
    pair = np.random.default_rng(0).standard_normal((6, 16, 16, HEADS)).astype(np.float32)
    work = workbench(model, STEP, calibrated(model, {**drawn(6, 16), "z": pair}))
    assert list(work.coverage.declined.values()) == [
        "'z', an input of the model, has a value for every pair"
    ]


def test_declines_a_cap_below_the_bias() -> None:
    coverage = fit(of_pairs(attributes="<softcap=3.0>"))
    assert list(coverage.declined.values()) == ["the scores are capped before the bias is added"]


def test_declines_where_nothing_may_be_measured() -> None:
    coverage = fit(of_pairs(), dataclasses.replace(STEP, when="measured"))
    (reason,) = coverage.declined.values()
    assert "nothing may be measured" in reason


def test_declines_before_it_fits_where_it_would_not_pay() -> None:
    prices = FakePrices(lambda work, _: 9.0 if "rank" in work else 1.0)
    coverage = fit(of_pairs(), dataclasses.replace(STEP, when="measured"), prices=prices)
    assert coverage.changed == 0
    assert prices.asked


def test_leaves_constant_and_padding_masks_to_others() -> None:
    for nodes in ("bias = Identity(table)", HIDDEN.replace("free", "zero").replace("low", "c0")):
        inputs = ", float[B,N] xs" if "xs" in nodes else ""
        model = of_pairs(nodes, inputs)
        work = workbench(model, STEP, context_of(model))
        assert work.coverage.matched == 0


def test_the_same_seed_gives_the_same_bytes() -> None:
    texts: list[str] = []
    for seed in (0, 0, 1):
        model = of_pairs()
        assert fit(model, seed=seed).changed == 1
        texts.append(print_model(model, elide=1 << 30))
    assert texts[0] == texts[1]
    assert texts[0] != texts[2], "waves of random frequency depend on it"


def test_a_torch_module_with_a_pair_representation() -> None:
    torch = pytest.importorskip("torch")
    model, context = captured_pairformer(torch)
    new = features(4, 99)
    before = outputs(model, new)[0]
    changed = model.clone()
    work = Workbench(changed, FitBiasFactors(when="always", steps=0), context)
    work.running.apply(work)
    assert work.coverage.changed == 1
    assert work.coverage.max_error <= 2e-2
    assert relative_error(before, outputs(changed, new)[0]) < 2e-2
    strict = Workbench(
        model, FitBiasFactors(when="always", steps=0, error=1e-6, samples=8), context
    )
    strict.running.apply(strict)
    (reason,) = strict.coverage.declined.values()
    assert "allowed 1.0e-06" in reason


def features(samples: int, seed: int) -> dict[str, np.ndarray]:
    mixing = np.random.default_rng(3).standard_normal((2, 16))
    x = np.random.default_rng(seed).standard_normal((samples, 32, 2)) @ mixing
    return {"single": np.tanh(x).astype(np.float32)}


def captured_pairformer(torch) -> tuple[onnx_ir.Model, Context]:
    """Capture a block whose pairs start as an outer sum and are mixed and normalized."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.columns = nn.Linear(16, 8), nn.Linear(16, 8)
            self.mix = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
            self.norm = nn.LayerNorm(8)
            self.bias = nn.Linear(8, 2, bias=False)
            self.packed = nn.Linear(16, 48)
            self.out = nn.Linear(16, 16)

        def forward(self, single):
            pair = self.rows(single)[:, :, None] + self.columns(single)[:, None]
            pair = self.norm(pair + self.mix(pair))
            batch, length, width = single.shape
            q, k, v = self.packed(single).view(batch, length, 3, 2, 8).permute(2, 0, 3, 1, 4)
            bias = self.bias(pair).permute(0, 3, 1, 2)
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            return self.out(mixed.transpose(1, 2).reshape(batch, length, width))

    torch.manual_seed(0)
    block = Block().eval().requires_grad_(False)
    batch, length = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("n", min=2, max=64)
    inputs = {"single": torch.from_numpy(features(2, 0)["single"])}
    found = capture(block, inputs, dynamic_shapes={"single": {0: batch, 1: length}})
    model = normalize(found.model)
    context = Context(bindings=Bindings(({"batch": 2, "n": 8}, {"batch": 3, "n": 12})))
    model, _ = Pipeline((exact(),)).run(model, context)
    return model, dataclasses.replace(context, calibration=(features(32, 1),))
