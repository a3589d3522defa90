"""Schedules for everything that is not written as a kernel: chains of elementwise operators, moves, reductions.

What can be computed where it is read is; what remains is spread over threads, and turned into vectors where rows lie
consecutively.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from whet.backends.tvm.api import s_tir, tirx, tvm
from whet.backends.tvm.machine import Machine

__all__ = ["USUAL", "mark_kernels", "schedule_all", "scheduled"]

USUAL: Mapping[str, int] = {"small": 14, "tasks": 8, "vectors": 1, "unrolled": 0}
"""Two to that power are the elements that are computed before a second thread has started; tasks that a thread gets,
vectors that are computed together, and up to how many steps of a sum are written out."""
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


def schedule_all(
    module: Any, machine: Machine, choose: Callable[[str, Any], Mapping[str, int]]
) -> Any:
    """Return the module with every function of blocks scheduled, as ``choose`` says for its name and code."""
    for name, function in list(module.functions.items()):
        if isinstance(function, tirx.PrimFunc) and not _written(function):
            schedule = choose(name.name_hint, function)
            module.update_func(name, scheduled(function, machine, schedule))
    return module


def _written(function: Any) -> bool:
    """Tell whether a function has loops of its own: it is a kernel, or TVM made it without blocks."""
    return "whet.kernel" in (function.attrs or {}) or not isinstance(
        function.body, s_tir.SBlockRealize
    )


def scheduled(function: Any, machine: Machine, schedule: Mapping[str, int] = USUAL) -> Any:
    """Return a function of blocks with its loops given to threads and vectors."""
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
        _spread(sch, block, machine, schedule)
    return sch.mod["main"]


def _reduces(sch: Any, block: Any) -> bool:
    return any(int(v.iter_type) != 0 for v in sch.get(block).iter_vars)


def _spread(sch: Any, block: Any, machine: Machine, schedule: Mapping[str, int]) -> None:
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
    if spatial < len(loops) and math.prod(extents[spatial:]) <= schedule["unrolled"]:
        for loop in loops[spatial:]:
            sch.unroll(loop)
    wide = machine.lanes * schedule["vectors"]
    if spatial == len(loops) and wide and extents[-1] % wide == 0:
        rest, inner = sch.split(outer[-1], [None, wide])
        outer[-1] = rest
        sch.vectorize(inner)
    if math.prod(extents) < 1 << schedule["small"] or math.prod(extents[:spatial]) < 2:
        return
    count = 0
    tasks = 1
    while count < len(outer) and tasks < schedule["tasks"] * machine.threads:
        tasks *= extents[count]
        count += 1
    fused = sch.fuse(*outer[:count]) if count > 1 else outer[0]
    sch.parallel(fused)
