"""Run passes over experts on small models."""

import numpy as np
import onnx_ir

from whet.ir.bindings import Bindings
from whet.ir.execute import Executor
from whet.passes.base import Coverage, Pass
from whet.passes.workbench import Context, Workbench

BINDINGS = Bindings(({"N": 2}, {"N": 5}))


def rows(count: int, seed: int, width: int = 8) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(seed).standard_normal((count, width))
    return {"x": drawn.astype(np.float32)}


def context(*, data: bool = True, **options: object) -> Context:
    kept = {"calibration": (rows(32, 1), rows(16, 2)), "held_out": (rows(16, 3),)} if data else {}
    return Context(BINDINGS, **kept, **options)


def apply(model: onnx_ir.Model, step: Pass, *, data: bool = True) -> Coverage:
    work = Workbench(model, step, context(data=data))
    step.apply(work)
    return work.coverage


def run(model: onnx_ir.Model, seed: int = 4) -> np.ndarray:
    (found,) = Executor(onnx_ir.to_proto(model)).run(rows(40, seed))
    return found


def error(before: onnx_ir.Model, after: onnx_ir.Model) -> float:
    old, new = run(before), run(after)
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


def reasons(coverage: Coverage) -> str:
    return " | ".join(coverage.declined.values())
