import os
from collections.abc import Mapping
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import onnx_ir
import pytest
from attention_reference import (
    AttentionModel,
    bucket_table,
    outputs,
    reference,
    relative_table_1d,
    relative_table_2d,
    shifted_windows,
    smooth_table,
)
from fake_prices import FakePrices
from rewriting import check, context_of, op_types

from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun
from whet.ir.files import load_model
from whet.ir.prepare import normalize
from whet.ir.values import initializers
from whet.passes.attention.factor_bias_table import FactorBiasTable
from whet.passes.attention.low_rank import factor
from whet.passes.base import Coverage
from whet.passes.pipeline import Pipeline
from whet.passes.recipes import canonical
from whet.passes.workbench import Context, Workbench

FULL = FactorBiasTable(energy=1.0, when="always")
ALWAYS = FactorBiasTable(when="always")


def apply(
    model: onnx_ir.Model, step: FactorBiasTable = ALWAYS, context: Context | None = None
) -> Coverage:
    work = Workbench(model, step, context or context_of(model))
    step.apply(work)
    assert not work.coverage.failures
    check(model)
    return work.coverage


def declined(
    model: onnx_ir.Model, step: FactorBiasTable = ALWAYS, context: Context | None = None
) -> str:
    coverage = apply(model, step, context)
    assert coverage.changed == 0
    (reason,) = coverage.declined.values()
    return reason


def feeds(
    model: onnx_ir.Model, binding: Mapping[str, int] | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    return Bindings((binding or {},)).feeds(model, 0, seed)


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def one_table(
    table: np.ndarray, batch: int | str = 2, heads: int = 2, d: int = 8, **attributes: float
) -> onnx_ir.Model:
    n, m = table.shape[-2:]
    graph = AttentionModel((batch, heads, n, d), (batch, heads, m, d))
    graph.attention(graph.build.constant(table.astype(np.float32), "table"), **attributes)
    return graph.finish()


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    heads=st.integers(1, 3),
    shared=st.booleans(),
    n=st.integers(2, 20),
    m=st.integers(2, 20),
    d=st.integers(1, 9),
    batched=st.booleans(),
    causal=st.booleans(),
    scale=st.sampled_from([0.0, 1.0, 0.3]),
    seed=st.integers(0, 999),
)
def test_full_rank_agrees_with_float64(
    heads: int,
    shared: bool,
    n: int,
    m: int,
    d: int,
    batched: bool,
    causal: bool,
    scale: float,
    seed: int,
) -> None:
    shape = (3 if batched else 1, 1 if shared else heads, n, m)
    table = 2 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    attributes: dict[str, float | int] = {
        "is_causal": int(causal),
        **({"scale": scale} if scale else {}),
    }
    model = one_table(table, 3, heads, d, **attributes)
    data = feeds(model, seed=seed)
    coverage = apply(model, FULL)
    assert coverage.changed == 1
    assert len([v for v in model.graph.initializers if "table" in v]) == 2
    wanted = reference(data, table, scale or None, causal)
    assert distance(outputs(model, data)[0], wanted) <= 1e-5
    assert coverage.damage[0].error <= 1e-5
    assert apply(model, FULL).changed == 0


SMOOTH = {
    "relative": relative_table_1d(np.sin(np.arange(127)[:, None] / np.array([20.0, 11.0])), 64)[
        None
    ],
    "swin": relative_table_2d(np.cos(np.arange(225)[:, None] / 225 * np.array([1.0, 3.0])), 8, 8)[
        None
    ],
    "buckets": bucket_table(
        np.tile(np.exp(-np.arange(16) / 6), 2)[:, None] * np.array([1.0, 0.5]), 64
    )[None],
    "shared": smooth_table(1, 64, 64)[None],
    "rectangular": smooth_table(2, 48, 96)[None],
    "rank 2 tensor": smooth_table(1, 64, 64)[0],
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_tables_lose_little_at_995_per_mille_of_the_energy(name: str) -> None:
    table = SMOOTH[name]
    model = one_table(table)
    data = feeds(model)
    before = outputs(model, data)[0]
    coverage = apply(model)
    (damage,) = coverage.damage
    assert 0 < damage.error <= 1e-2
    assert distance(outputs(model, data)[0], before) <= 1e-2
    rank = int(damage.format.removeprefix("bias rank "))
    assert 1 <= rank <= 40
    assert damage.bytes_before == table.size * 4
    heads = 1 if table.ndim == 2 else table.shape[-3]
    assert damage.bytes_after == rank * heads * sum(table.shape[-2:]) * 4


def test_a_place_keeps_its_error_where_the_energy_alone_would_not() -> None:
    model = one_table(8 * SMOOTH["shared"])
    loose = apply(one_table(8 * SMOOTH["shared"]), FactorBiasTable(when="always", error=0.5))
    tight = apply(model, FactorBiasTable(when="always", error=1e-3))
    assert tight.damage[0].error <= 1e-3 < loose.damage[0].error
    assert int(tight.damage[0].format.split()[-1]) > int(loose.damage[0].format.split()[-1])


def test_a_rank_can_be_given_and_is_held_to_the_error() -> None:
    table = SMOOTH["shared"]
    coverage = apply(one_table(table), FactorBiasTable(rank=4, error=0.5, when="always"))
    assert coverage.damage[0].format == "bias rank 4"
    assert "of its norm" in declined(one_table(8 * table), FactorBiasTable(rank=1, when="always"))


def test_white_tables_are_declined_with_the_rank() -> None:
    table = np.random.default_rng(0).standard_normal((1, 2, 64, 64)).astype(np.float32)
    reason = declined(one_table(table), FactorBiasTable())
    assert "rank 32 of a table of 64 x 64 keeps 0." in reason
    assert "no gain" in reason


def test_nothing_is_changed_where_nothing_may_be_measured() -> None:
    assert "nothing may be measured" in declined(one_table(SMOOTH["swin"]), FactorBiasTable())


def prices(pays_from: int) -> FakePrices:
    """Say that factors take half the time from some length on, and twice the time below."""

    def rule(work: str, _kernel: str) -> float:
        length = int(work.split(",")[2].split("x")[0])
        if "rank" not in work:
            return 2.0
        return 1.0 if length >= pays_from else 4.0

    return FakePrices(rule)


def test_places_where_factors_are_measured_to_be_faster_are_changed() -> None:
    model = one_table(SMOOTH["swin"])
    coverage = apply(model, FactorBiasTable(), Context(prices=prices(64)))
    (damage,) = coverage.damage
    assert (damage.ms_before, damage.ms_after) == (2.0, 1.0)
    assert [str(at.length) for at in coverage.break_even["n"]] == ["64"]
    assert damage.rank is not None
    lost = coverage.spectra["n"]
    assert lost[0] == 1.0
    assert list(lost) == sorted(lost, reverse=True)
    assert lost[damage.rank] <= 0.005 < lost[0]


def test_places_where_they_are_not_are_declined_with_the_length_from_which_on_they_are() -> None:
    reason = declined(one_table(SMOOTH["swin"]), FactorBiasTable(), Context(prices=prices(1024)))
    assert "length 64: 2 ms with the bias" in reason
    assert "they would pay from length 1024 on" in reason


def test_layers_with_equal_tables_share_their_factors() -> None:
    graph = AttentionModel((1, 2, 64, 8), (1, 2, 64, 8))
    same = graph.build.constant(SMOOTH["swin"].astype(np.float32), "table")
    copy = graph.build.constant(SMOOTH["swin"].astype(np.float32), "copy")
    for table in (same, same, copy):
        graph.attention(table)
    model = graph.finish()
    assert apply(model, FULL).changed == 3
    large = [
        v for v in model.graph.initializers.values() if v.const_value and v.const_value.size > 8
    ]
    assert len(large) == 2


def grouped_model(table: np.ndarray) -> onnx_ir.Model:
    n, m = table.shape[-2:]
    graph = AttentionModel((2, 4, n, 8), (2, 2, m, 8))
    graph.attention(graph.build.constant(table, "table"))
    return graph.finish()


@pytest.mark.parametrize("heads", [1, 4])
def test_heads_that_share_their_keys_share_a_factor(heads: int) -> None:
    table = smooth_table(heads, 24, 40)[None]
    for step, bound in ((FULL, 1e-5), (ALWAYS, 1e-2)):
        model = grouped_model(table)
        data = feeds(model)
        assert apply(model, step).changed == 1
        assert distance(outputs(model, data)[0], reference(data, table)) <= bound


def attention_of(model: onnx_ir.Model) -> onnx_ir.Node:
    return next(node for node in model.graph if node.op_type == "Attention")


def padded(graph: AttentionModel, batch: int | str, keys: int | str) -> onnx_ir.Value:
    """Return 0 or -3.4e38 from an input of booleans ``[batch, 1, 1, keys]``."""
    seen = graph.input("seen", (batch, 1, 1, keys), onnx_ir.DataType.BOOL)
    low, zero = (graph.build.constant(np.asarray(x, np.float32)) for x in (-3.4e38, 0.0))
    return graph.build.op("Where", seen, zero, low)


def masked_reference(data: Mapping[str, np.ndarray], table: np.ndarray) -> np.ndarray:
    return np.asarray(reference(data, np.where(data["seen"], table, -3.4e38)))


def test_padding_becomes_a_column_of_the_factors() -> None:
    table = SMOOTH["buckets"].astype(np.float32)
    graph = AttentionModel(("b", 2, 64, 8), ("b", 2, 64, 8))
    weight = graph.build.constant(table, "table")
    graph.attention(graph.build.op("Add", weight, padded(graph, "b", 64)))
    model = graph.finish()
    assert apply(model, FULL).changed == 1
    assert attention_of(model).inputs[3:] in ((), (None,))
    data = feeds(model, {"b": 3})
    data["seen"][..., 0] = True
    assert distance(outputs(model, data)[0], masked_reference(data, table)) <= 1e-5


@pytest.mark.parametrize("causal", [False, True])
def test_other_computed_masks_stay_masks(causal: bool) -> None:
    table = SMOOTH["buckets"].astype(np.float32)
    graph = AttentionModel(("b", 2, 64, 8), ("b", 2, 64, 8))
    weight = graph.build.constant(table, "table")
    rows = 1 if causal else 64
    other = graph.input("other", ("b", 1, rows, 64))
    graph.attention(graph.build.op("Add", weight, other), is_causal=int(causal))
    model = graph.finish()
    assert apply(model, FULL).changed == 1
    assert attention_of(model).inputs[3] is not None
    data = feeds(model, {"b": 3})
    wanted = reference(data, table + data["other"], causal=causal)
    assert distance(outputs(model, data)[0], wanted) <= 1e-5


def test_a_table_inside_a_where_is_taken_out() -> None:
    table = SMOOTH["shared"].astype(np.float32)
    graph = AttentionModel((2, 2, 64, 8), (2, 2, 64, 8))
    seen = graph.input("seen", (2, 1, 1, 64), onnx_ir.DataType.BOOL)
    low = graph.build.constant(np.asarray(-3.4e38, np.float32))
    graph.attention(graph.build.op("Where", seen, graph.build.constant(table, "table"), low))
    model = graph.finish()
    assert apply(model, FULL).changed == 1
    data = feeds(model)
    data["seen"][..., 0] = True
    assert distance(outputs(model, data)[0], masked_reference(data, table)) <= 1e-5


def test_a_condition_that_always_holds_disappears() -> None:
    graph = AttentionModel(("b", 2, 64, 8), ("b", 2, 64, 8))
    build = graph.build
    ones = build.constant(np.ones((1, 1, 64, 1), bool))
    count = build.op("Shape", graph.q, attributes={"start": 0, "end": 1})
    shape = build.op("Concat", count, build.ints(1, 64, 64), attributes={"axis": 0})
    zero, low = (build.constant(np.asarray(x, np.float32)) for x in (0.0, -3.4e38))
    mask = build.op("Where", build.op("Expand", ones, shape), zero, low)
    graph.attention(build.op("Add", build.constant(SMOOTH["swin"].astype(np.float32)), mask))
    model = graph.finish()
    assert apply(model, FULL).changed == 1
    assert "Where" not in op_types(model)
    assert attention_of(model).inputs[3:] in ((), (None,))


@pytest.mark.parametrize("low", [-np.inf, -1e9])
def test_a_causal_mask_in_the_table_becomes_an_attribute(low: float) -> None:
    table = SMOOTH["relative"].astype(np.float32)
    model = one_table(np.where(np.tri(64, dtype=bool), table, np.float32(low)))
    data = feeds(model)
    assert apply(model, FULL).changed == 1
    assert attention_of(model).attributes["is_causal"].as_int() == 1
    assert distance(outputs(model, data)[0], reference(data, table, causal=True)) <= 1e-5


def test_a_mask_of_many_forms_in_the_table_stays_a_mask() -> None:
    table = SMOOTH["shared"].astype(np.float32)
    hidden = np.random.default_rng(3).random((1, 1, 64, 64)) < 0.3
    bias = np.where(hidden, np.float32(-np.inf), table)
    model = one_table(bias)
    data = feeds(model)
    assert apply(model, FULL).changed == 1
    assert distance(outputs(model, data)[0], reference(data, bias)) <= 1e-5
    assert apply(model, FULL).changed == 0


def test_queries_that_see_no_key_keep_their_masks() -> None:
    table = np.where(np.tri(64, dtype=bool), SMOOTH["shared"], -3.4e38).astype(np.float32)
    graph = AttentionModel((2, 2, 64, 8), (2, 2, 64, 8))
    mask = padded(graph, 2, 64)
    graph.attention(graph.build.op("Add", graph.build.constant(table, "table"), mask))
    model = graph.finish()
    data = feeds(model)
    data["seen"][:, ..., :8] = False
    before = outputs(model, data)[0]
    assert apply(model, FULL).changed == 1
    assert "is_causal" not in attention_of(model).attributes
    assert distance(outputs(model, data)[0], before) <= 1e-5


@pytest.mark.parametrize("spelling", ["folded", "expanded", "tiled", "whole batch"])
def test_shifted_windows(spelling: str) -> None:
    table, mask = SMOOTH["swin"][:, :, :16, :16].astype(np.float32), shifted_windows(8, 4, 2)
    windows = 4
    batch: int | str = windows if spelling in {"folded", "whole batch"} else "4*images"
    graph = AttentionModel((batch, 2, 16, 8), (batch, 2, 16, 8))
    build = graph.build
    weight = build.constant(table, "table")
    if spelling == "folded":
        bias = build.constant(table + mask)
    elif spelling == "whole batch":
        bias = build.op("Add", weight, build.constant(mask))
    else:
        bias = build.op("Add", weight, repeated(graph, mask, spelling == "tiled"))
    graph.attention(bias)
    model = graph.finish()
    context = Context(bindings=Bindings(({"images": 1}, {"images": 3})))
    assert apply(model, FULL, context).changed == 1
    images = 1 if isinstance(batch, int) else 3
    data = feeds(model, {"images": images})
    wanted = reference(data, np.tile(table + mask, (images, 1, 1, 1)))
    assert distance(outputs(model, data)[0], wanted) <= 1e-5
    assert apply(model, FULL, context).changed == 0


def repeated(graph: AttentionModel, mask: np.ndarray, tiled: bool) -> onnx_ir.Value:
    """Repeat a mask of windows for every image, as Swin does (or by Tile)."""
    build, count = graph.build, len(mask)
    batch = build.op("Shape", graph.q, attributes={"start": 0, "end": 1})
    images = build.op("Div", batch, build.ints(count))
    if tiled:
        repeats = build.op("Concat", images, build.ints(1, 1, 1), attributes={"axis": 0})
        result = build.op("Tile", build.constant(mask), repeats)
    else:
        sizes = build.op("Concat", images, build.ints(*mask.shape), attributes={"axis": 0})
        wide = build.op("Expand", build.constant(mask[None]), sizes)
        wide.shape = onnx_ir.Shape(("images", *mask.shape))
        wide.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
        result = build.op("Reshape", wide, build.ints(-1, *mask.shape[1:]))
    result.shape = onnx_ir.Shape((f"{count}*images", *mask.shape[1:]))
    result.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    return result


def dynamic_buckets(graph: AttentionModel, weights: np.ndarray) -> onnx_ir.Value:
    """Compute ``[1, heads, n, n]`` from the length: a clipped relative index, as T5 and MPNet do at run time."""
    build = graph.build
    zero, one = (build.constant(np.asarray(k, np.int64)) for k in (0, 1))
    end = build.op("Squeeze", build.op("Shape", graph.q, attributes={"start": 2, "end": 3}))
    places = build.op("Range", zero, end, one)
    keys, queries = (
        build.op("Unsqueeze", places, build.ints(0)),
        build.op("Unsqueeze", places, build.ints(1)),
    )
    far = len(weights) // 2
    low, high, middle = (build.constant(np.asarray(k, np.int64)) for k in (-far, far, far))
    offset = build.op("Clip", build.op("Sub", keys, queries), low, high)
    found = build.op("Gather", build.constant(weights, "buckets"), build.op("Add", offset, middle))
    heads = build.op("Transpose", found, attributes={"perm": [2, 0, 1]})
    return build.op("Unsqueeze", heads, build.ints(0))


LENGTHS = Context(bindings=Bindings(({"n": 20}, {"n": 33})))


def bucket_model(weights: np.ndarray, *, mask: bool = False) -> onnx_ir.Model:
    graph = AttentionModel((2, 2, "n", 8), (2, 2, "n", 8))
    bias = dynamic_buckets(graph, weights)
    graph.attention(graph.build.op("Add", bias, padded(graph, 2, "n")) if mask else bias)
    return graph.finish()


def bumps(far: int) -> np.ndarray:
    offset = np.arange(-far, far + 1)[:, None] / far
    return np.exp(-((offset / np.array([0.4, 0.9])) ** 2)).astype(np.float32)


@pytest.mark.parametrize("mask", [False, True])
def test_a_table_of_a_free_length_becomes_rows_of_factors_up_to_a_greatest_length(
    mask: bool,
) -> None:
    weights = bumps(24)
    model = bucket_model(weights, mask=mask)
    step = FactorBiasTable(energy=1.0, when="always", max_length=40)
    assert apply(model, step, LENGTHS).changed == 1
    assert "Gather" not in op_types(model)
    for n in (7, 40):
        data = feeds(model, {"n": n})
        data["seen"] = data.get("seen", np.ones((2, 1, 1, n), bool))
        data["seen"][..., 0] = True
        index = np.clip(np.arange(n) - np.arange(n)[:, None], -24, 24) + 24
        table = np.moveaxis(weights[index], -1, 0)[None]
        given = data if mask else {name: data[name] for name in "qkv"}
        assert distance(outputs(model, given)[0], masked_reference(data, table)) <= 1e-5
    with pytest.raises(CannotRun):
        outputs(model, feeds(model, {"n": 41}))


def test_a_table_of_a_free_length_needs_a_greatest_one() -> None:
    reason = declined(bucket_model(bumps(24)), ALWAYS, LENGTHS)
    assert "the length 'n' is free" in reason
    assert "max_length" in reason


def test_entries_that_depend_on_the_length_are_declined() -> None:
    graph = AttentionModel((2, 2, "n", 8), (2, 2, "n", 8))
    build = graph.build
    bias = dynamic_buckets(graph, bumps(24))
    length = build.op(
        "Cast", build.op("Shape", graph.q, attributes={"start": 2, "end": 3}), attributes={"to": 1}
    )
    graph.attention(build.op("Div", bias, length))
    step = FactorBiasTable(when="always", max_length=40)
    assert "depend on the length" in declined(graph.finish(), step, LENGTHS)


def test_a_slice_of_a_stored_table_needs_no_greatest_length() -> None:
    table = smooth_table(2, 48, 48)[None]
    graph = AttentionModel((2, 2, "n", 8), (2, 2, "n", 8))
    build = graph.build
    end = build.op("Shape", graph.q, attributes={"start": 2, "end": 3})
    rows = build.op("Slice", build.constant(table, "table"), build.ints(0), end, build.ints(2))
    cut = build.op("Slice", rows, build.ints(0), end, build.ints(3))
    graph.attention(cut)
    model = graph.finish()
    assert apply(model, FULL, LENGTHS).changed == 1
    data = feeds(model, {"n": 31})
    assert distance(outputs(model, data)[0], reference(data, table[..., :31, :31])) <= 1e-5


def test_a_computed_bias_is_no_table() -> None:
    graph = AttentionModel((1, 2, 16, 8), (1, 2, 16, 8))
    graph.attention(graph.input("bias", (1, 2, 16, 16)))
    assert declined(graph.finish()) == "no part of the bias is a constant table"


def test_a_table_of_other_samples_than_the_batch_is_declined_and_leaves_no_trace() -> None:
    graph = AttentionModel(("b", 2, 16, 8), ("b", 2, 16, 8))
    graph.attention(graph.build.constant(smooth_table(6, 16, 16).reshape(3, 2, 16, 16)))
    model = graph.finish()
    context = Context(bindings=Bindings(({"b": 4}, {"b": 5})))
    assert declined(model, FULL, context) == "the table has 3 samples, the batch 4"
    assert [use.node.op_type for use in model.graph.inputs[0].uses()] == ["Attention"]


def test_constant_rows_are_said_to_be_nothing() -> None:
    table = np.broadcast_to(np.arange(16, dtype=np.float32)[:, None], (1, 2, 16, 16))
    assert "constant" in declined(one_table(table))


def test_capped_scores_are_declined() -> None:
    assert "capped" in declined(one_table(SMOOTH["swin"], softcap=5.0))


def test_attention_without_a_bias_is_no_match() -> None:
    graph = AttentionModel((1, 2, 16, 8), (1, 2, 16, 8))
    graph.attention(None)
    assert apply(graph.finish()).matched == 0


def test_calibration_data_decide_the_rank_and_are_what_is_reported() -> None:
    model = one_table(SMOOTH["relative"], batch="b")
    data = feeds(model, {"b": 4})
    data["q"] *= 8
    context = Context(bindings=Bindings(({"b": 2}, {"b": 3})), calibration=(data,))
    before = outputs(model, data)[0]
    coverage = apply(model, ALWAYS, context)
    assert coverage.proofs == {"calibration": 1}
    assert distance(outputs(model, data)[0], before) == pytest.approx(
        coverage.damage[0].error, rel=0.05
    )


SHARED = Path(os.environ.get("WHET_SHARED", Path(__file__).parents[4] / "shared"))
NGSWIN = SHARED / "assets/super_resolution/ngswin_x2.onnx"


@pytest.fixture(scope="module")
def window_tables() -> list[np.ndarray]:
    """Return the tables ``[1, heads, 64, 64]`` of a trained network of windows."""
    if not NGSWIN.exists():
        pytest.skip(f"{NGSWIN} is not there")
    model = normalize(load_model(NGSWIN))
    model, _ = Pipeline((canonical(),)).run(model, Context(prove=False))
    found = [v.const_value.numpy() for v in initializers(model) if v.const_value is not None]
    tables = [array for array in found if array.ndim == 4 and array.shape[2:] == (64, 64)]
    assert len(tables) == 20
    return tables


def test_trained_tables_of_small_windows_have_nearly_full_rank(
    window_tables: list[np.ndarray],
) -> None:
    ranks = [factor(table, energy=0.995).rank for table in window_tables]
    assert min(ranks) >= 48
    reason = declined(one_table(window_tables[0], 1, 6), FactorBiasTable())
    assert "rank 32 of a table of 64 x 64" in reason


def test_trained_tables_are_exact_at_full_rank(window_tables: list[np.ndarray]) -> None:
    for table in window_tables[::5]:
        model = one_table(table, 2, table.shape[1])
        coverage = apply(model, FULL)
        assert coverage.damage[0].format == "bias rank 63"
        assert coverage.damage[0].error <= 1e-5
