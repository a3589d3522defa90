"""Equalize the channels between two linear operators."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.analysis.base import Analysis
from whet.analysis.channel_layout import is_linear
from whet.analysis.channel_statistics import Channels, PerChannel
from whet.analysis.statistics import Observations, Statistics
from whet.errors import Mismatch
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.fusion.linear import Linear
from whet.passes.option import option
from whet.passes.quantization.algorithms.equalization import (
    Consumer,
    Grids,
    Link,
    best_scales,
    predicted_error,
)  # fmt: skip
from whet.passes.quantization.scale_moves import ScaleMoves
from whet.passes.quantization.scaled_region import (
    LinearWriter,
    Reader,
    Region,
    find_region,
    positions,
)  # fmt: skip
from whet.passes.workbench import Workbench

__all__ = ["EqualizeChannels"]

Floats = NDArray[np.float64]
_SWEEPS = 40
_GAIN = 0.01
"""A step must lower the predicted error by this share."""


@dataclasses.dataclass(frozen=True)
class EqualizeChannels(Pass):
    """Replace ``W2 f(W1 x + b1)`` by ``(W2 s) f((W1 x + b1) / s)`` with scales that suit quantization better.

    f is anything that a positive scale per channel passes through: Relu, LeakyRelu, PRelu, pools, reshapes, products
    with something else, values in an attention (Clip and other activations are not). W1, W2 may be convolutions,
    depthwise ones included, Gemm and MatMul. Pairs are visited until no scale lowers the predicted error any more
    (``algorithms/equalization.py`` has the formula); what a scale would make worse is left. Without data,
    activations are taken to be what white inputs of the first operator give. Nagel et al. 2019.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    needs: ClassVar[tuple[type[Analysis[object]], ...]] = (Statistics,)

    weights: Literal["channel", "tensor"] = "channel"
    """Whether weights will have a grid per output channel or one for all."""
    weight_bits: int = option(8, at_least=1)
    """Of the grid that weights will have."""
    activation_bits: int = option(8, at_least=0)
    """0 if activations stay in float."""

    def apply(self, work: Workbench) -> None:
        """Plan the scales of all pairs on arrays, then move them one by one."""
        regions = _regions(work)
        seen = _observe(regions, work)
        plan = _Plan(regions, seen, self._grids)
        plan.settle()
        moves = ScaleMoves(work, LinearWriter.of)
        for number, region in enumerate(regions):
            node = region.writer.node
            before, after = plan.gain(number)
            if (plan.scales[number] == 1).all() or after > before * (1 - _GAIN):
                work.decline(node, f"no scale lowers the predicted error of {before:.3g}")
                continue
            moves.propose(region, plan.scales[number])

    @property
    def _grids(self) -> Grids:
        return Grids(self.weight_bits, self.activation_bits, self.weights == "channel")


def _regions(work: Workbench) -> list[Region]:
    order = positions(work.graph)
    found: list[Region] = []
    for node in work.nodes("Conv", "ConvTranspose", "Gemm", "MatMul"):
        if not is_linear(node):
            continue
        if node.metadata_props.get("whet.from", "").startswith(f"{work.running.name}:"):
            work.near_miss(node, "it is equalized already")
            continue
        try:
            region = find_region(LinearWriter.of(node), order)
        except Mismatch as reason:
            work.near_miss(node, str(reason))
            continue
        work.coverage.matched += 1
        found.append(region)
    return found


def _request(linear: Linear) -> tuple[str, Channels]:
    return linear.data.name or "", Channels(linear.axis_in)


def _observe(regions: Sequence[Region], work: Workbench) -> Observations | None:
    linears = [reader.linear for region in regions for reader in region.readers]
    linears += [_linear(region) for region in regions]
    if not work.context.calibration or not linears:
        return None
    return work.analyses.get(Statistics(frozenset(_request(linear) for linear in linears)))


@dataclasses.dataclass
class _State:
    """What the scales so far have made of one operator: magnitudes of its weights, and of its inputs."""

    largest: Floats
    energy: Floats
    taps: int
    peak: Floats
    square: Floats

    @staticmethod
    def of(linear: Linear, peak: Floats, square: Floats) -> "_State":
        blocks = np.abs(linear.blocks)
        return _State(blocks.max(axis=3), (blocks**2).sum(axis=3), blocks.shape[3], peak, square)

    def scale_rows(self, factors: Floats) -> None:
        rows = factors.reshape(self.largest.shape[0], -1, 1)
        self.largest, self.energy = self.largest * rows, self.energy * rows**2

    def scale_columns(self, factors: Floats) -> None:
        columns = factors.reshape(self.largest.shape[0], 1, -1)
        self.largest, self.energy = self.largest * columns, self.energy * columns**2
        self.peak, self.square = self.peak / factors, self.square / factors**2


class _Plan:
    """Scales for every region, on arrays; an operator may be the first of one and the second of another."""

    def __init__(self, regions: Sequence[Region], seen: Observations | None, grids: Grids) -> None:
        self._regions = regions
        self._grids = grids
        self._states: dict[onnx_ir.Node, _State] = {}
        for region in regions:
            for reader in region.readers:
                peak, square = _inputs(region, reader, seen)
                self._states[reader.linear.node] = _State.of(reader.linear, peak, square)
        for region in regions:
            if region.writer.node not in self._states:
                peak, square = _outer(_linear(region), seen)
                self._states[region.writer.node] = _State.of(_linear(region), peak, square)
        self.scales = [np.ones(region.channels) for region in regions]

    def settle(self) -> None:
        """Take the best step everywhere until there is none."""
        for _ in range(_SWEEPS):
            if not any([self._improve(number) for number in range(len(self._regions))]):
                return

    def gain(self, number: int) -> tuple[float, float]:
        """Return the predicted error of a pair without its scales and with them."""
        link, scales = self._link(number), self.scales[number]
        after = predicted_error(link, np.ones_like(scales), self._grids)
        return predicted_error(link, 1 / scales, self._grids), after

    def _link(self, number: int) -> Link:
        region = self._regions[number]
        first = self._states[region.writer.node]
        users = [(reader, self._states[reader.linear.node]) for reader in region.readers]
        return Link(
            largest=first.largest.max(axis=2).reshape(-1),
            input_energy=float(first.square.sum()) / first.largest.shape[0] * first.taps,
            consumers=[
                Consumer(r.labels, u.largest, u.energy, u.taps, u.peak, u.square) for r, u in users
            ],
            frozen=region.frozen,
        )

    def _improve(self, number: int) -> bool:
        scales, before, after = best_scales(self._link(number), self._grids, _GAIN)
        if not after < before:
            return False
        region = self._regions[number]
        self.scales[number] = self.scales[number] * scales
        self._states[region.writer.node].scale_rows(1 / scales)
        for reader in region.readers:
            self._states[reader.linear.node].scale_columns(scales[reader.labels])
        return True


def _linear(region: Region) -> Linear:
    writer = region.writer
    assert isinstance(writer, LinearWriter)
    return writer.linear


def _outer(linear: Linear, seen: Observations | None) -> tuple[Floats, Floats]:
    """Return the peak and the mean square of an operator's inputs; those of white noise where nothing was seen."""
    if seen is None:
        return np.full(linear.channels_in, 3.0), np.ones(linear.channels_in)
    found: PerChannel = seen.of(*_request(linear))
    return found.peak, found.square


def _inputs(region: Region, reader: Reader, seen: Observations | None) -> tuple[Floats, Floats]:
    """Return the peak and the mean square of a reader's inputs; seen, or what white inputs of the writer give."""
    if seen is not None:
        return _outer(reader.linear, seen)
    first = _linear(region)
    bias = np.zeros(first.channels) if first.bias is None else np.abs(first.shift)
    deviation = np.sqrt((first.blocks**2).sum(axis=(2, 3)).reshape(-1))
    peak, square = bias + 3 * deviation, bias**2 + deviation**2
    return peak[reader.labels], square[reader.labels]
