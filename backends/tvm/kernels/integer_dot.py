"""Products of bytes, four at a time, added up in 32 bits: which instruction a processor has for that.

x86 multiplies unsigned activations with signed weights (``vpdpbusd``), Arm signed ones with signed ones (``sdot``):
codes of the other sign are moved by 128, which turns one bit over, and sums are corrected by a constant of each output.
"""

import dataclasses

from whet.backends.tvm.api import Expr, tirx, tvm
from whet.backends.tvm.machine import Machine

__all__ = ["GROUP", "Dot", "find_dot", "flipped", "group_at", "groups"]

GROUP = 4
"""Bytes that one instruction multiplies and adds up for each sum."""


@dataclasses.dataclass(frozen=True)
class Dot:
    """The instruction."""

    name: str
    lanes: int
    """Sums of a vector."""
    dtype: str
    """Of activations."""

    @property
    def shift(self) -> int:
        """Return what is added to codes of the other sign."""
        return 128 if self.dtype == "uint8" else -128

    def apply(self, sums: Expr, group: Expr, weights: Expr) -> Expr:
        """Return sums plus the products of one group, as a number of 32 bits, with a vector of groups."""
        wide = tirx.Broadcast(group, self.lanes)
        bytes_ = tirx.reinterpret(f"{self.dtype}x{GROUP * self.lanes}", wide)
        kind = f"int32x{self.lanes}"
        return tirx.call_llvm_pure_intrin(kind, self.name, sums, bytes_, weights)


def find_dot(machine: Machine) -> Dot | None:
    """Return the widest instruction that the processor has; None if it has none."""
    has = tvm.get_global_func("target.target_has_feature")
    target = machine.target()
    if machine.lanes == 16 and has("avx512vnni", target):
        return Dot("llvm.x86.avx512.vpdpbusd.512", 16, "uint8")
    if machine.lanes == 8 and (has("avxvnni", target) or has("avx512vnni", target)):
        return Dot("llvm.x86.avx512.vpdpbusd.256", 8, "uint8")
    if machine.lanes == 4 and has("dotprod", target):
        return Dot("llvm.aarch64.neon.sdot", 4, "int8")
    return None


def groups(size: int) -> int:
    """Return how many groups hold so many bytes."""
    return -(-size // GROUP)


def group_at(buffer: Expr, at: Expr) -> Expr:
    """Return four bytes as one number."""
    return tirx.reinterpret("int32", buffer[tirx.Ramp(at, 1, GROUP)])


def flipped(code: Expr, source: str, dtype: str) -> Expr:
    """Return a code of one type in another, moved by 128 if that has the other sign."""
    if source == dtype:
        return code
    return tirx.reinterpret(dtype, code) ^ tirx.const(128 if dtype == "uint8" else -128, dtype)
