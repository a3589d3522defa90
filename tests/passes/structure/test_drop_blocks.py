import numpy as np
import onnx_ir
import pytest
from residual import apply, tokens, transformer

from whet.errors import UsageError
from whet.ir.execute import Executor
from whet.ir.values import weight_bytes
from whet.ir.verify import verify
from whet.passes.structure.drop_blocks import DropBlocks
from whet.passes.workbench import Context
from whet.solve.variants import change, take_apart

WEAK = {"a1": 0.005, "f2": 0.01, "a0": 1.0, "f0": 1.0}


def error(before: onnx_ir.Model, after: onnx_ir.Model) -> float:
    (old,), (new,) = (Executor(onnx_ir.to_proto(m)).run(tokens(8, 9)) for m in (before, after))
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


@pytest.mark.parametrize("post", [False, True])
def test_the_weakest_go(post: bool) -> None:
    before, model = (transformer(3, post=post, strength=WEAK) for _ in range(2))
    size = weight_bytes(model)
    coverage = apply(model, DropBlocks(count=2))
    verify(model)
    assert coverage.changed == 2
    assert {row.format.split(",")[0] for row in coverage.damage} == {"no attention", "no mlp"}
    assert "a_1" not in {v.name for node in model.graph for v in node.outputs}
    assert error(before, model) < 0.05
    assert size - weight_bytes(model) == sum(row.bytes_before for row in coverage.damage) > 0
    assert coverage.damage[0].measured_on == "held-out data"
    assert coverage.proofs == {"error of the outputs on data held out": 2}
    assert apply(model, DropBlocks(count=2)).changed == 0
    assert apply(model, DropBlocks(count=3, limit=0.9)).changed == 1


def test_kinds_and_blocks() -> None:
    model = transformer(3, strength={"a1": 0.01, "f1": 0.01})
    coverage = apply(model, DropBlocks(kinds=("block",)))
    assert coverage.damage[0].format.startswith("no block")
    assert len([n for n in model.graph if n.op_type == "Softmax"]) == 2
    model = transformer(3, strength=WEAK)
    assert apply(model, DropBlocks(kinds=("mlp",))).damage[0].format.startswith("no mlp")


def test_neighbours_can_go_together() -> None:
    before, model = (
        transformer(3, strength={f"{k}{n}": 0.01 for k in "af" for n in (1, 2)}) for _ in range(2)
    )
    coverage = apply(model, DropBlocks(count=4, tries=2))
    assert coverage.changed == 4, coverage
    assert error(before, model) < 0.1


def test_the_limit_holds() -> None:
    model = transformer(2, strength={f"{k}{n}": 2.0 for k in "af" for n in (0, 1)})
    coverage = apply(model, DropBlocks(limit=0.02))
    assert coverage.changed == 0
    assert all("the limit is 0.02" in reason for reason in coverage.declined.values())
    assert coverage.matched == 4


def test_needs_data_and_true_options() -> None:
    coverage = apply(transformer(2), DropBlocks(), data=False)
    assert set(coverage.declined.values()) == {"needs calibration data"}
    with pytest.raises(
        UsageError, match="'kinds' of pass 'drop-blocks' has 'head', expected some of attention"
    ):
        DropBlocks(kinds=("head",))
    with pytest.raises(UsageError, match="'count' of pass 'drop-blocks' is 0"):
        DropBlocks(count=0)


def test_a_search_can_take_it() -> None:
    model = transformer(3, strength=WEAK)
    data = Context(calibration=(tokens(16, 1),), held_out=(tokens(8, 3),))
    step = DropBlocks(count=2)
    variant = take_apart(model, step, change(model, step, data))
    assert [len(pieces) for pieces in variant.pieces.values()] == [1, 1]
    assert {piece.old for pieces in variant.pieces.values() for piece in pieces} == {"p_1", "z_2"}
