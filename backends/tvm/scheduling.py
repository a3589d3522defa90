"""Schedules for everything that is not written as a kernel: chains of elementwise operators, moves, reductions.

What can be computed where it is read is; what remains is spread over threads, and turned into vectors where rows lie
consecutively.
"""

import math
from typing import Any

from whet.backends.tvm.api import s_tir, tirx, tvm
from whet.backends.tvm.machine import Machine

__all__ = ["mark_kernels", "schedule_all"]

_SMALL = 1 << 14
"""Elements that are computed before a second thread has started."""
_FREE = 4
"""Readers that may each compute a value anew."""


_OPAQUE = 8
"""TVM's number for what nothing may be fused with."""


def mark_kernels(module: Any) -> Any:
    """Return the module with the functions that have loops of their own kept apart from fusion."""
    for name, function in list(module.functions.items()):
        if isinstance(function, tirx.PrimFunc) and _written(function):
            module.update_func(name, function.with_attr("op_pattern", _OPAQUE))
    return module


def schedule_all(module: Any, machine: Machine) -> Any:
    """Return the module with every function of blocks scheduled."""
    for name, function in list(module.functions.items()):
        if isinstance(function, tirx.PrimFunc) and not _written(function):
            module.update_func(name, _scheduled(function, machine))
    return module


def _written(function: Any) -> bool:
    """Tell whether a function has loops of its own: it is a kernel, or TVM made it without blocks."""
    return "whet.kernel" in (function.attrs or {}) or not isinstance(
        function.body, s_tir.SBlockRealize
    )


def _scheduled(function: Any, machine: Machine) -> Any:
    sch = s_tir.Schedule(tvm.IRModule({"main": function}))
    try:
        root = sch.get_sblock("root")
    except s_tir.schedule.ScheduleError:
        return function  # TVM wrote loops without blocks
    for block in sch.get_child_blocks(root)[:-1]:
        if not _reduces(sch, block) and len(sch.get_consumers(block)) <= _FREE:
            try:
                sch.compute_inline(block)
            except s_tir.schedule.ScheduleError:
                continue
    for block in sch.get_child_blocks(root):
        _spread(sch, block, machine)
    return sch.mod["main"]


def _reduces(sch: Any, block: Any) -> bool:
    return any(int(v.iter_type) != 0 for v in sch.get(block).iter_vars)


def _spread(sch: Any, block: Any, machine: Machine) -> None:
    """Give the outer loops of a block to threads, the innermost one to vectors."""
    loops = list(sch.get_loops(block))
    kinds = [int(v.iter_type) for v in sch.get(block).iter_vars]
    if not loops or len(kinds) != len(loops):
        return
    extents = [int(sch.get(loop).extent) for loop in loops]
    spatial = next((k for k, kind in enumerate(kinds) if kind != 0), len(kinds))
    if any(kind == 0 for kind in kinds[spatial:]) or not spatial:
        return
    outer, inner = loops[:spatial], None
    if spatial == len(loops) and extents[-1] % machine.lanes == 0:
        rest, inner = sch.split(outer[-1], [None, machine.lanes])
        outer[-1] = rest
        sch.vectorize(inner)
    if math.prod(extents) < _SMALL or math.prod(extents[:spatial]) < 2:
        return
    count = 0
    tasks = 1
    while count < len(outer) and tasks < 8 * machine.threads:
        tasks *= extents[count]
        count += 1
    fused = sch.fuse(*outer[:count]) if count > 1 else outer[0]
    sch.parallel(fused)
