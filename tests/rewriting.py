"""Run a pass or a recipe on a small model given as text, and compare everything that must not change."""

from collections.abc import Sequence

import onnx
import onnx.parser
import onnx_ir

from whet.ir.bindings import Bindings, candidates, symbols
from whet.ir.execute import Executor
from whet.ir.shapes import infer_shapes
from whet.ir.values import Array
from whet.ir.verify import verify
from whet.passes.base import Coverage, Pass
from whet.passes.pipeline import Fixpoint, Pipeline, Step
from whet.passes.workbench import Context, Workbench

__all__ = ["context_of", "declines", "model_of", "op_types", "outputs_of", "run_pass", "run_recipe"]


def model_of(text: str, opset: int = 21, domains: str = "") -> onnx_ir.Model:
    """Parse ``(float[N] x) => (float[N] y) { y = Relu(x) }``; nodes get names, values get shapes."""
    imports = f'"" : {opset}{domains}'
    proto = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{imports}]> g {text}")
    for number, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return infer_shapes(onnx_ir.serde.deserialize_model(proto))


def op_types(model: onnx_ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def context_of(model: onnx_ir.Model) -> Context:
    return Context(bindings=Bindings(tuple(candidates(symbols(model))[:2])))


def outputs_of(model: onnx_ir.Model, context: Context) -> list[list[Array]]:
    """Execute without any optimization at every binding."""
    proto = onnx_ir.serde.serialize_model(model)
    executor = Executor(proto)
    again = onnx_ir.serde.deserialize_model(proto)
    count = len(context.bindings.choices)
    return [executor.run(context.bindings.feeds(again, k)) for k in range(count)]


def assert_same_bits(old: Sequence[Sequence[Array]], new: Sequence[Sequence[Array]]) -> None:
    for before, after in zip(old, new, strict=True):
        for one, other in zip(before, after, strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            assert one.tobytes() == other.tobytes()


def interface(model: onnx_ir.Model) -> list[tuple[str | None, onnx_ir.DataType | None]]:
    return [(v.name, v.dtype) for v in (*model.graph.inputs, *model.graph.outputs)]


def check(model: onnx_ir.Model) -> None:
    verify(model)
    onnx.checker.check_model(onnx_ir.serde.serialize_model(model), full_check=True)


def run_pass(
    source: str | onnx_ir.Model, step: Pass, opset: int = 21
) -> tuple[onnx_ir.Model, Coverage]:
    """Run ``step`` with proofs; the model must stay valid and its outputs the same, and a second run change nothing."""
    model = model_of(source, opset) if isinstance(source, str) else source
    context = context_of(model)
    before, outside = outputs_of(model, context), interface(model)
    work = Workbench(model, step, context)
    step.apply(work)
    assert not work.coverage.failures
    check(model)
    assert interface(model) == outside
    assert_same_bits(before, outputs_of(model, context))
    again = Workbench(model, step, context)
    step.apply(again)
    assert again.coverage.changed == 0
    return model, work.coverage


def declines(source: str | onnx_ir.Model, step: Pass, reason: str = "", opset: int = 21) -> None:
    """Check that ``step`` changes nothing; with a ``reason`` also that it says so, else that it finds no place."""
    model = model_of(source, opset) if isinstance(source, str) else source
    before = str(onnx_ir.serde.serialize_model(model).graph.node)
    model, coverage = run_pass(model, step)
    assert coverage.changed == 0
    assert str(onnx_ir.serde.serialize_model(model).graph.node) == before
    said = [*coverage.declined.values(), *coverage.near_misses.values()]
    assert any(reason in text for text in said) if reason else not coverage.declined


def run_recipe(
    source: str | onnx_ir.Model, recipe: Fixpoint, opset: int = 21
) -> tuple[onnx_ir.Model, list[Step]]:
    """Run a fixpoint with proofs, with the same checks as :func:`run_pass`."""
    model = model_of(source, opset) if isinstance(source, str) else source
    context = context_of(model)
    before, outside = outputs_of(model, context), interface(model)
    model, steps = Pipeline((recipe,)).run(model, context)
    assert not [failure for step in steps for failure in step.coverage.failures]
    check(model)
    assert interface(model) == outside
    assert_same_bits(before, outputs_of(model, context))
    _, again = Pipeline((recipe,)).run(model, context)
    assert sum(step.coverage.changed for step in again) == 0
    return model, steps
