"""Move outlying activations into the weights that read them."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.analysis.base import Analysis
from whet.analysis.channel_statistics import Channels, Rows
from whet.analysis.statistics import Observations, Request, Statistics
from whet.errors import Mismatch
from whet.ir.values import attribute_float, is_op
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.fusion.normalization import NORMALIZED
from whet.passes.option import option
from whet.passes.quantization.algorithms.smoothing import Product, Rounding, smoothing_scales
from whet.passes.quantization.scale_moves import ScaleMoves
from whet.passes.quantization.scaled_region import (
    GainWriter,
    LinearWriter,
    NormWriter,
    Reader,
    Region,
    Writer,
    find_region,
    positions,
)  # fmt: skip
from whet.passes.workbench import Workbench

__all__ = ["SmoothActivations"]

_GAIN = 0.02
"""The error of the quantized products must fall by this share."""


@dataclasses.dataclass(frozen=True)
class SmoothActivations(Pass):
    """Replace ``x W`` by ``(x / s) (s W)`` with s per channel, the division folded into what makes x.

    s_j = max|x_j|^α / max|W_j|^(1-α) takes outliers out of activations and puts them into weights, whose grids are per
    output channel. x may come from a LayerNormalization, an RMSNormalization, a product with a constant vector, or a
    linear operator, through reshapes, gates and attention (values pass through its weighted sums); everything that
    reads a channel must be able to take its scale. The α taken is the one with the least error of the quantized
    products on calibration data; where none is better than no scale, the place is left. Xiao et al. 2022.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    needs: ClassVar[tuple[type[Analysis[object]], ...]] = (Statistics,)

    weight_bits: int = option(8, at_least=1)
    """Of the grid that weights will have."""
    activation_bits: int = option(8, at_least=0)
    """0 if activations stay in float: then weights of few bits are protected where activations are large (AWQ)."""
    block: int = option(0, at_least=0)
    """Inputs that share a scale of the weights; 0 is a scale per output channel."""

    def apply(self, work: Workbench) -> None:
        """Visit every operator that can take scales, in the order of the graph."""
        regions = list(_regions(work))
        if not work.context.calibration:
            for region in regions:
                work.decline(region.writer.node, "needs calibration data")
            return
        requests = {request for region in regions for request in _requests(region)}
        if not requests:
            return
        seen = work.analyses.get(Statistics(frozenset(requests)))
        moves = ScaleMoves(work, _writer)
        for region in regions:
            self._smooth(region, seen, moves, work)

    def _smooth(
        self, region: Region, seen: Observations, moves: ScaleMoves, work: Workbench
    ) -> None:
        if moves.changed_readers(region):
            # What it reads has changed since it was observed.
            work.decline(region.writer.node, "what reads it was smoothed through another operator")
            return
        rounding = Rounding(self.weight_bits, self.activation_bits, self.block)
        products = [_product(reader, seen) for reader in region.readers]
        scales, before, after = smoothing_scales(products, region.frozen, rounding, _GAIN)
        if not after < before:
            reason = f"no scale lowers the error of the quantized products, {before**0.5:.3g}"
            work.decline(moves.writer(region), reason)
            return
        moves.propose(region, scales)


def _regions(work: Workbench) -> Iterator[Region]:
    order = positions(work.graph)
    for node in work.nodes(*NORMALIZED, "Mul", "MatMul", "Gemm"):
        if node.metadata_props.get("whet.from", "").startswith(f"{work.running.name}:"):
            work.near_miss(node, "it is smoothed already")
            continue
        try:
            region = find_region(_writer(node), order)
            _check(region)
        except Mismatch as reason:
            work.near_miss(node, str(reason))
            continue
        work.coverage.matched += 1
        yield region


def _writer(node: onnx_ir.Node) -> Writer:
    if is_op(node, *NORMALIZED):
        return NormWriter.of(node)
    return GainWriter.of(node) if is_op(node, "Mul") else LinearWriter.of(node)


def _check(region: Region) -> None:
    for reader in region.readers:
        if not is_op(reader.linear.node, "MatMul", "Gemm"):
            raise Mismatch(
                f"{reader.linear.node.op_type} reads it (equalize-channels is for those)"
            )


def _requests(region: Region) -> Iterator[Request]:
    for reader in region.readers:
        name, axis = reader.value.name or "", reader.linear.axis_in
        yield name, Channels(axis)
        yield name, Rows(axis)


def _product(reader: Reader, seen: Observations) -> Product:
    name, axis = reader.value.name or "", reader.linear.axis_in
    channels = seen.of(name, Channels(axis))
    alpha = attribute_float(reader.linear.node, "alpha", 1.0)
    return Product(
        rows=seen.of(name, Rows(axis)).astype(np.float64),
        weight=reader.linear.blocks[0, :, :, 0].T * alpha,
        low=channels.low,
        high=channels.high,
        labels=reader.labels,
    )
