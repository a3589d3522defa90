import numpy as np
import onnx_ir
import pytest
from residual import apply, tokens, transformer

from whet.errors import UsageError
from whet.ir.execute import Executor
from whet.ir.values import weight_bytes
from whet.ir.verify import verify
from whet.passes.structure.share_blocks import ShareBlocks
from whet.passes.workbench import Context
from whet.solve.variants import change, take_apart


def error(before: onnx_ir.Model, after: onnx_ir.Model) -> float:
    (old,), (new,) = (Executor(onnx_ir.to_proto(m)).run(tokens(8, 9)) for m in (before, after))
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


def alike(strength: dict[str, float] | None = None) -> onnx_ir.Model:
    """Make the weights of the last block those of the block in front of it, but for a little noise."""
    model = transformer(3, strength=strength)
    rng = np.random.default_rng(5)
    for kind in "qkvoud":
        source = model.graph.initializers[f"{kind}1"].const_value.numpy()
        noise = 0.02 * rng.standard_normal(source.shape).astype(np.float32) * np.std(source)
        value = model.graph.initializers[f"{kind}2"]
        value.const_value = onnx_ir.tensor(source + noise, name=value.name)
    return model


def test_similar_branches_share_their_weights() -> None:
    before, model = alike(), alike()
    size = weight_bytes(model)
    coverage = apply(model, ShareBlocks(count=2))
    verify(model)
    assert len(coverage.damage) == 2, coverage
    assert error(before, model) < 0.05
    assert size - weight_bytes(model) == sum(row.bytes_before for row in coverage.damage)
    assert weight_bytes(model) < size
    assert apply(model, ShareBlocks(count=2)).changed == 0


def test_what_takes_part_is_chosen_by_the_outputs() -> None:
    coverage = apply(alike(), ShareBlocks(kinds=("mlp",)))
    (row,) = coverage.damage
    assert row.format.startswith("mlp of 'Add_")
    assert row.error < 0.05


def test_the_limit_holds() -> None:
    coverage = apply(
        transformer(2, strength=dict.fromkeys(("a0", "a1", "f0", "f1"), 3.0)),
        ShareBlocks(limit=0.01),
    )
    assert coverage.changed == 0
    assert all("the limit is 0.01" in reason for reason in coverage.declined.values())


def test_declines_without_data_or_neighbours() -> None:
    assert set(apply(transformer(2), ShareBlocks(), data=False).declined.values()) == {
        "needs calibration data"
    }
    reasons = apply(transformer(1), ShareBlocks()).declined.values()
    assert set(reasons) == {"no other branch has weights of the same shapes"}
    with pytest.raises(UsageError, match="'limit' of pass 'share-blocks' is -1"):
        ShareBlocks(limit=-1)


def test_a_search_can_take_it() -> None:
    data = Context(calibration=(tokens(16, 1),), held_out=(tokens(8, 3),))
    model, step = alike(), ShareBlocks()
    variant = take_apart(model, step, change(model, step, data))
    assert variant.pieces
    assert all(piece.reads for pieces in variant.pieces.values() for piece in pieces)
