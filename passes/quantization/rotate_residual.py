"""Rotate the residual stream of a network into a basis that quantizes better."""

import dataclasses
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from whet.analysis.base import Analysis
from whet.analysis.residual_streams import ResidualStream, find_residual_streams
from whet.analysis.statistics import Gram, Statistics
from whet.errors import Mismatch
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.proposal import Proposal
from whet.passes.quantization.algorithms.rotations import (
    centering,
    hadamard,
    principal_axes,
    random_orthogonal,
)
from whet.passes.residual_turn import Bases, check_stream, turned
from whet.passes.workbench import Workbench

__all__ = ["RotateResidual"]

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class RotateResidual(Pass):
    """Rotate the residual stream of a pre-norm network by an orthogonal matrix Q, absorbed into weights.

    Everything that writes into the stream becomes ``W Q``, everything that reads it ``Q' diag(g) W``, with g the scale
    of the normalization in between: RMSNormalization of ``x Q`` is RMSNormalization of x, rotated. A LayerNormalization
    becomes RMSNormalization: its mean is subtracted by the writers' weights, its bias goes into the readers. Outlying
    channels are spread over all of them, which a grid for many weights or activations needs. Declines post-norm
    networks, and streams that anything but a normalization or a linear operator looks at. Ashkboos et al. 2024 (QuaRot,
    SliceGPT).
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    needs: ClassVar[tuple[type[Analysis[object]], ...]] = (Statistics,)

    basis: Literal["hadamard", "random", "principal"] = "hadamard"
    """``principal`` takes the principal axes of the stream's values on calibration data."""
    untie: bool = False
    """Store a weight twice that the stream is both written and read with, as tied embeddings are."""

    def apply(self, work: Workbench) -> None:
        """Rotate every residual stream."""
        for stream in find_residual_streams(work.graph):
            work.coverage.matched += 1
            root = stream.norms[0].node
            build = work.builder(root)
            try:
                self._check(stream, work)
                bases = Bases((self._matrix(stream, work),))
                proposal = turned(stream, bases, build, work.graph)
            except Mismatch as reason:
                Proposal((root,), (), tuple(build.nodes)).discard()
                work.decline(root, str(reason))
                continue
            work.propose(proposal)

    def _check(self, stream: ResidualStream, work: Workbench) -> None:
        for norm in stream.norms:
            if norm.node.metadata_props.get("whet.from", "").startswith(f"{self.name}:"):
                raise Mismatch("it is rotated already")
        check_stream(stream, work.opset, untie=self.untie)

    def _matrix(self, stream: ResidualStream, work: Workbench) -> Floats:
        rng = np.random.default_rng((work.context.seed, stream.size))
        if self.basis == "hadamard":
            return hadamard(stream.size, rng)
        if self.basis == "random":
            return random_orthogonal(stream.size, rng)
        if not work.context.calibration:
            raise Mismatch("principal axes need calibration data")
        names = [norm.node.inputs[0] for norm in stream.norms]
        requests = frozenset((v.name or "", Gram()) for v in names if v is not None)
        seen = work.analyses.get(Statistics(requests))
        total = sum(_normed(seen.of(name, gram).matrix) for name, gram in sorted(requests, key=str))
        center = centering(stream.size) if stream.centered else np.eye(stream.size)
        return principal_axes(center @ np.asarray(total) @ center)


def _normed(gram: Floats) -> Floats:
    return gram / max(float(np.trace(gram)), 1e-30)
