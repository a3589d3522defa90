"""Integer grids that weights and activations are rounded to."""

import dataclasses

import numpy as np

__all__ = ["INT7", "INT8", "INT8_ACTIVATION", "INT32", "UINT8", "UINT8_WEIGHT", "IntegerFormat"]


@dataclasses.dataclass(frozen=True)
class IntegerFormat:
    """Integers ``low`` to ``high``, stored in ``dtype``."""

    name: str
    dtype: type[np.signedinteger] | type[np.unsignedinteger]
    low: int
    high: int
    zero: int | None = None
    """The fixed zero point of a symmetric grid; None where it follows the data."""

    @property
    def steps(self) -> int:
        """Return how many scales lie between the two ends."""
        return self.high - self.low

    @property
    def reach(self) -> int:
        """Return the largest magnitude that a symmetric grid holds on both sides of its zero."""
        zero = self.zero or 0
        return min(self.high - zero, zero - self.low)


INT8 = IntegerFormat("int8", np.int8, -127, 127, zero=0)
INT7 = IntegerFormat("int7", np.int8, -63, 63, zero=0)
"""Seven bits in a byte: 255 * 63 * 2 fits into 16 bits, so the AVX2 kernels, which add two products there, do not
saturate."""

UINT8_WEIGHT = IntegerFormat("uint8", np.uint8, 1, 255, zero=128)
"""Symmetric around 128; the kernels for two unsigned operands do not saturate."""

UINT8 = IntegerFormat("uint8", np.uint8, 0, 255)
"""For activations: the zero point follows the range."""

INT8_ACTIVATION = IntegerFormat("int8", np.int8, -128, 127)

INT32 = IntegerFormat("int32", np.int32, -(2**31), 2**31 - 1, zero=0)
"""For biases: their scale is that of the products."""
