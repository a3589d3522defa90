"""Where measurements count: on the machine that code is made for, if it is this one."""

import os

from whet.backends.tvm.api import tvm
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.schedules import Schedules
from whet.backends.tvm.tuning.database import Database
from whet.errors import UsageError

__all__ = ["elsewhere", "known_schedules", "refuse_elsewhere"]


def elsewhere(machine: Machine) -> str:
    """Return why kernels for a machine cannot be timed here; empty if they can."""
    here = str(tvm.get_global_func("target.llvm_get_system_cpu")())
    count = os.cpu_count() or 1
    if machine.triple:
        return f"code is made for '{machine.triple}'"
    if machine.cpu != here:
        return f"code is made for '{machine.cpu}', this machine is a '{here}'"
    if machine.threads > count:
        return f"work is divided for {machine.threads} threads, this machine has {count}"
    return ""


def refuse_elsewhere(machine: Machine) -> None:
    """Raise UsageError where tuning means nothing."""
    reason = elsewhere(machine)
    if reason:
        raise UsageError(f"tuning times kernels on this machine, and {reason}: leave --tune away")


def known_schedules(machine: Machine, *, use: bool) -> Schedules:
    """Return the schedules that were measured here, for kernels of this machine; none if they are not to be used."""
    return Schedules(Database(machine).best) if use and not elsewhere(machine) else Schedules()
