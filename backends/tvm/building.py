"""From Relax to a library: fusion, schedules, memory, machine code."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from whet.backends.tvm.api import relax, s_tir, structural_walk, tirx, tvm
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.scheduling import mark_kernels, schedule_all

__all__ = ["Working", "build"]

_STACK = 1024
"""Bytes of a kernel's own memory that TVM takes from the stack."""


@dataclasses.dataclass
class Working:
    """Bytes that a run takes beside weights and inputs."""

    tensors: int = 0
    """What is planned for intermediate results and outputs."""
    scratch: int = 0
    """What kernels copy to for themselves, on all threads."""


def build(module: Any, machine: Machine, path: Path, compiler: str) -> Working:
    """Write the library of a Relax module, linked by ``compiler``; return what it takes."""
    passes = relax.transform
    working = Working()
    target = machine.target()
    with target, tvm.transform.PassContext(opt_level=3):
        module = mark_kernels(passes.AnnotateTIROpPattern()(module))
        module = passes.FuseTIR()(passes.FuseOps()(module))
        module = schedule_all(module, machine)
        module = s_tir.transform.ConvertSSA()(module)
        executable = relax.build(module, target=target, relax_pipeline=_to_machine(passes, working))
    functions = [f for f in module.functions.values() if isinstance(f, tirx.PrimFunc)]
    working.scratch = machine.threads * max(map(_scratch, functions), default=0)
    # Names of temporary files would make every library a different one.
    executable.export_library(str(path), options=["-s"], cc=compiler)
    return working


def _to_machine(passes: Any, working: Working) -> Any:
    """Return the passes that plan memory and make instructions for the virtual machine."""

    def count(module: Any, _context: Any) -> Any:
        working.tensors = _planned(module["main"])
        return module

    return tvm.transform.Sequential(
        [
            passes.ToNonDataflow(),
            passes.RemovePurityChecking(),
            passes.CallTIRRewrite(),
            passes.StaticPlanBlockMemory(),
            passes.LowerAllocTensor(),
            tvm.transform.module_pass(count, opt_level=0, name="Count"),
            passes.KillAfterLastUse(),
            passes.LowerRuntimeBuiltin(),
            passes.ComputePrimValue(),
            passes.VMShapeLower(),
            passes.AttachGlobalSymbol(),
        ]
    )


def _planned(function: Any) -> int:
    """Return the bytes of all memory that a function asks for."""
    found: list[int] = []

    def visit(node: Any) -> None:
        if isinstance(node, relax.Call) and node.op == tvm.ir.Op.get("relax.memory.alloc_storage"):
            found.append(int(node.args[0].values[0]))

    relax.analysis.post_order_visit(function.body, visit)
    return sum(found)


def _scratch(function: Any) -> int:
    """Return the bytes that a kernel takes for itself on each thread."""
    found: list[int] = []
    found_in = {
        tirx.AllocBuffer: lambda node: found.append(_bytes(node.buffer)),
        s_tir.SBlock: lambda node: found.extend(map(_bytes, node.alloc_buffers)),
    }
    structural_walk(function.body, tuple(found_in.items()))
    return sum(size for size in found if size > _STACK)


def _bytes(buffer: Any) -> int:
    shape = [int(n) for n in buffer.shape]
    return math.prod(shape) * np.dtype(str(buffer.dtype)).itemsize
