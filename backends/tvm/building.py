"""From Relax to a library: fusion, schedules, memory, machine code."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.backends.tvm.api import relax, s_tir, tvm
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.schedules import Schedules
from whet.backends.tvm.scheduling import USUAL, mark_kernels, schedule_all
from whet.backends.tvm.works.chain import Chain

__all__ = ["build", "fuse"]


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
    compiler: str | None = None,
    schedules: Schedules | None = None,
) -> None:
    """Write the library of a Relax module, linked by ``compiler`` or by the one that TVM finds."""
    passes = relax.transform
    target = machine.target()
    module = fuse(module, machine, schedules or Schedules())
    with target, tvm.transform.PassContext(opt_level=3):
        module = s_tir.transform.ConvertSSA()(module)
        executable = relax.build(module, target=target, relax_pipeline=_to_machine(passes))
    linker = {"cc": compiler} if compiler else {}
    # Names of temporary files would make every library a different one.
    executable.export_library(str(path), options=["-s"], **linker)


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


def _to_machine(passes: Any) -> Any:
    """Return the passes that plan memory and make instructions for the virtual machine."""
    return tvm.transform.Sequential(
        [
            passes.ToNonDataflow(),
            passes.RemovePurityChecking(),
            passes.CallTIRRewrite(),
            passes.StaticPlanBlockMemory(),
            passes.LowerAllocTensor(),
            passes.KillAfterLastUse(),
            passes.LowerRuntimeBuiltin(),
            passes.ComputePrimValue(),
            passes.VMShapeLower(),
            passes.AttachGlobalSymbol(),
        ]
    )
