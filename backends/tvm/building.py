"""From Relax to a library: fusion, schedules, memory, machine code."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whet.backends.tvm.api import relax, s_tir, structural_walk, tirx, tvm
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.schedules import Schedules
from whet.backends.tvm.scheduling import USUAL, mark_kernels, schedule_all
from whet.backends.tvm.works.chain import Chain

__all__ = ["Working", "build", "fuse"]

_STACK = 1024
"""Bytes of a kernel's own memory that TVM takes from the stack."""


@dataclasses.dataclass
class Working:
    """Bytes that a run takes beside weights and inputs."""

    tensors: int = 0
    """What is planned for intermediate results and outputs."""
    scratch: int = 0
    """What kernels copy to for themselves, on all threads."""


def fuse(module: Any, machine: Machine, schedules: Schedules) -> Any:
    """Return a Relax module whose operators without kernels are fused and scheduled."""
    passes = relax.transform
    with machine.target(), tvm.transform.PassContext(opt_level=3):
        module = mark_kernels(passes.AnnotateTIROpPattern()(module))
        module = passes.FuseTIR()(passes.FuseOps()(module))
        calls = _calls(module)

        def choose(name: str, function: Any) -> Mapping[str, int]:
            count, results = calls[name]
            if results != 1:
                return USUAL
            return schedules.find(Chain(name, function, machine), count)

        return schedule_all(module, machine, choose)


def build(
    module: Any,
    machine: Machine,
    path: Path,
    compiler: str,
    schedules: Schedules | None = None,
) -> Working:
    """Write the library of a Relax module, linked by ``compiler``; return what it takes."""
    passes = relax.transform
    working = Working()
    target = machine.target()
    module = fuse(module, machine, schedules or Schedules())
    with target, tvm.transform.PassContext(opt_level=3):
        module = s_tir.transform.ConvertSSA()(module)
        executable = relax.build(module, target=target, relax_pipeline=_to_machine(passes, working))
    functions = [f for f in module.functions.values() if isinstance(f, tirx.PrimFunc)]
    working.scratch = machine.threads * max(map(_scratch, functions), default=0)
    # Names of temporary files would make every library a different one.
    executable.export_library(str(path), options=["-s"], cc=compiler)
    return working


def _calls(module: Any) -> Mapping[str, tuple[int, int]]:
    """Return how often each function is called, and how many results it has."""
    found: dict[str, tuple[int, int]] = {}
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Call) and getattr(call.op, "name", "") == "relax.call_tir":
                name = call.args[0].name_hint
                parameters = len(module[call.args[0]].params)
                count = found.get(name, (0, 0))[0] + 1
                found[name] = count, parameters - len(call.args[1].fields)
    return defaultdict(lambda: (0, 0), found)


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
