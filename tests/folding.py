"""Small models as text, one pass run on them, outputs compared: for the tests of rewrites."""

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir
from onnx import numpy_helper

from whet.ir.bindings import Bindings
from whet.ir.execute import Executor
from whet.ir.values import Array
from whet.passes.base import Coverage, Pass
from whet.passes.pipeline import Fixpoint, Pipeline, Step
from whet.passes.proof import compare
from whet.passes.workbench import Context, Workbench

BINDINGS = Bindings(({"N": 2, "M": 3}, {"N": 3, "M": 5}))


def weights(
    seed: int = 0, /, dtype: str = "float32", **shapes: tuple[int, ...]
) -> dict[str, Array]:
    """Draw weights; a name that starts with ``v`` is a variance and positive."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, Array] = {}
    for name, shape in shapes.items():
        numbers = rng.uniform(0.5, 2, shape) if name[0] == "v" else rng.standard_normal(shape)
        drawn[name] = numbers.astype(dtype)
    return drawn


def build(
    text: str, constants: Mapping[str, Array] | None = None, opset: int = 18
) -> onnx_ir.Model:
    """Parse ``(float[N,3] x) => (float[N,4] y) { y = MatMul(x, w) }`` and infer its shapes."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {text}')
    for name, array in (constants or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    for k, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{k}"
    onnx.checker.check_model(proto)
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    return onnx_ir.from_proto(proto)


def ops(model: onnx_ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def run(model: onnx_ir.Model, step: Pass, reproducers: Path | None = None) -> Coverage:
    """Run one pass, proving every rewrite."""
    context = Context(bindings=BINDINGS, reproducers=reproducers)
    work = Workbench(model, step, context)
    step.apply(work)
    return work.coverage


def worst_error(before: onnx.ModelProto, model: onnx_ir.Model) -> float:
    """Return the largest error of any output at any binding, both models run unoptimized."""
    after = onnx_ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    old, new = Executor(before), Executor(after)
    assert old.outputs == new.outputs
    errors: list[float] = []
    for choice in range(len(BINDINGS.choices)):
        feeds = BINDINGS.feeds(onnx_ir.from_proto(copy.deepcopy(before)), choice)
        errors += [compare(a, b) for a, b in zip(old.run(feeds), new.run(feeds), strict=True)]
    return max(errors)


def folds(model: onnx_ir.Model, step: Pass, expected: list[str]) -> Coverage:
    """Check that the pass leaves the ``expected`` operators and the outputs, and does nothing a second time."""
    before = onnx_ir.to_proto(model)
    coverage = run(model, step)
    assert not coverage.failures, coverage.failures
    assert ops(model) == expected, coverage
    assert coverage.changed >= 1
    assert worst_error(before, model) <= 1e-5
    assert run(model, step).changed == 0
    return coverage


def declines(model: onnx_ir.Model, step: Pass, reason: str) -> None:
    """Check that the pass leaves the model as it is and says why."""
    before = ops(model)
    coverage = run(model, step)
    said = [*coverage.declined.values(), *coverage.near_misses.values()]
    assert coverage.changed == 0
    assert ops(model) == before
    assert not coverage.failures
    assert any(reason in sentence for sentence in said), (coverage, reason)


def compile_with(model: onnx_ir.Model, *stages: Pass | Fixpoint) -> list[Step]:
    """Run a pipeline in place, proving every rewrite."""
    compiled, steps = Pipeline(stages).run(model, Context(bindings=BINDINGS))
    assert compiled is model
    return steps
