"""The processor that code is made for."""

import dataclasses
import functools
from typing import Any

from whet.backends.tvm.api import tvm
from whet.backends.tvm.processor import EXTENSIONS, Processor
from whet.errors import UsageError

__all__ = ["Machine", "arrival", "find_machine"]

_LANES = {"avx512f": 16, "avx": 8}
_NEAR, _FLOW = 1 << 22, 16
"""Bytes that stay near from call to call, and how many come from afar in a cycle."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """What kernels are cut to."""

    cpu: str = ""
    """LLVM's name of the processor; empty for the plainest one of the triple."""
    triple: str = ""
    """LLVM's triple; empty for this machine's."""
    features: str = ""
    """More instructions, as LLVM spells them (``+dotprod``)."""
    threads: int = 2
    """Work is divided so that as many threads are busy; any number can run it."""
    lanes: int = 4
    """Floats in a vector."""
    registers: int = 16
    """Vector registers."""

    def target(self) -> Any:
        """Return TVM's description."""
        return _target(self.cpu, self.triple, self.features)

    @property
    def extensions(self) -> frozenset[str]:
        """Return the vector extensions that code may use, as Linux spells them."""
        has, target = tvm.get_global_func("target.target_has_feature"), self.target()
        return frozenset(name for name, spelled in EXTENSIONS.items() if has(spelled, target))


def arrival(size: int) -> float:
    """Return the cycles that constants of so many bytes take to arrive: with few rows, all that a product waits for."""
    return size / _FLOW if size > _NEAR else 0


@functools.cache
def _target(cpu: str, triple: str, features: str) -> Any:
    found: dict[str, object] = {"kind": "llvm", "opt-level": 3}
    if cpu:
        found["mcpu"] = cpu
    if triple:
        found["mtriple"] = triple
    if features:
        found["mattr"] = features.split(",")
    try:
        return tvm.target.Target(found)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"TVM knows no processor {found}: {error}") from error


def find_machine(processor: Processor) -> Machine:
    """Return the machine with a processor; without a name and a triple this one.

    Raises:
        UsageError: TVM does not know it.
    """
    cpu, triple, features = processor.cpu, processor.triple, processor.features
    if not cpu and not triple:
        cpu = str(tvm.get_global_func("target.llvm_get_system_cpu")())
    has = tvm.get_global_func("target.target_has_feature")
    target = _target(cpu, triple, features)
    lanes = next((n for name, n in _LANES.items() if has(name, target)), 4)
    wide = lanes == 16 or has("neon", target)
    return Machine(cpu, triple, features, processor.threads, lanes, 32 if wide else 16)
