"""From Relax to a library: fusion, schedules, memory, machine code."""

from pathlib import Path
from typing import Any

from whet.backends.tvm.api import relax, s_tir, tvm
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.scheduling import mark_kernels, schedule_all

__all__ = ["build"]


def build(module: Any, machine: Machine, path: Path, compiler: str | None = None) -> None:
    """Write the library of a Relax module, linked by ``compiler`` or by the one that TVM finds."""
    passes = relax.transform
    target = machine.target()
    with target, tvm.transform.PassContext(opt_level=3):
        module = mark_kernels(passes.AnnotateTIROpPattern()(module))
        module = passes.FuseTIR()(passes.FuseOps()(module))
        module = schedule_all(module, machine)
        module = s_tir.transform.ConvertSSA()(module)
        executable = relax.build(module, target=target, relax_pipeline=_to_machine(passes))
    linker = {"cc": compiler} if compiler else {}
    # Names of temporary files would make every library a different one.
    executable.export_library(str(path), options=["-s"], **linker)


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
