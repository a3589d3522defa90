"""Recognize layer normalization however it is spelled."""

import dataclasses
from typing import ClassVar

from whet.passes.base import Change, Fidelity, Pass
from whet.passes.fusion.normalization import lift_normalizations
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class LiftLayerNormalization(Pass):
    """Write ``g (x - mean(x)) / sqrt(mean((x - mean(x))**2) + epsilon) + b`` as one ``LayerNormalization``.

    The sum is recognized by its meaning: variance as a mean of squares or as ``mean(x**2) - mean(x)**2``, the root as
    Sqrt or Pow, any order of products and sums, casts in between. Constants along the normalized axes become scale and
    bias; computed factors and summands stay behind the operator. The axes must be the last ones. Ba et al., Layer
    Normalization, 2016.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    explains: ClassVar[bool] = True

    def apply(self, work: Workbench) -> None:
        """Lift from every root of a variance."""
        lift_normalizations(work, "LayerNormalization")
