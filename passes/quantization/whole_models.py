"""Complete copies of a model with some of its steps on integers: to be timed, or to be held against the original."""

from collections.abc import Mapping

import onnx
import onnx_ir

from whet.passes.proposal import Builder, FreshNames
from whet.passes.quantization.algorithms.arrays import Affine
from whet.passes.quantization.integer_rewriting import CodesOf, Rewriting
from whet.passes.quantization.integer_steps import find_steps
from whet.passes.quantization.placement_race import Placed
from whet.passes.workbench import Workbench

__all__ = ["WholeModels"]


class WholeModels:
    """Make copies; the model itself is left as it is."""

    def __init__(self, work: Workbench, grids: Mapping[str, Affine], codes: CodesOf) -> None:
        """Copy the model of ``work``, in which nothing may have been rewritten yet."""
        self._source, self._grids, self._codes = work.model, grids, codes
        allowed = set(work.nodes())
        self._positions = [k for k, node in enumerate(work.graph) if node in allowed]

    def proto(self, placed: Placed) -> onnx.ModelProto:
        """Return the model with the steps of ``placed`` on integers."""
        copy = self._source.clone()
        nodes, fresh = list(copy.graph), FreshNames(copy)
        steps, _ = find_steps([nodes[k] for k in self._positions])
        rewriting = Rewriting(
            steps,
            placed,
            self._grids,
            self._codes,
            lambda near: Builder(fresh, near),
            copy.graph.opset_imports.get("", 1),
        )
        for number in sorted(placed):
            written = rewriting.write(number)
            written.proposal.commit("quantize-static")
            rewriting.made(written)
        return onnx_ir.to_proto(copy)
