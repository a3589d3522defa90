"""Second-order prices of candidates, and of any mixture of them, from slopes at the places where they act.

Let e_c(x) be what candidate c changes at the output of its site, and g the slope there of a draw whose mean outer
product is the Gauss-Newton matrix of the loss (:meth:`Loss.draws`). With v_c = <g, e_c>, a mixture that takes c(s) at
site s costs

    ΔL = 1/2 E[(Σ_s v_c(s))²]

to second order: the sum of squares is what each costs alone, products of pairs are how sites interact. For a change of
weights and rows of independent slopes this is 1/2 tr(G ΔW A ΔWᵀ) (Martens and Grosse 2015); rows of one sample are not
taken for independent here, and activations that are quantized count, too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir
import torch

from whet.analysis.curvature.losses import Loss
from whet.analysis.curvature.problem import Problem
from whet.ir.array import Array
from whet.ir.execute import Executor
from whet.ir.twin import run_observed
from whet.solve.allocation import Doubles
from whet.solve.grafting import Grafter
from whet.solve.variants import Piece

__all__ = ["directions"]

Feeds = Mapping[str, Array]


def directions(
    model: onnx_ir.Model,
    pieces: Sequence[Piece],
    samples: Sequence[Feeds],
    loss: Loss,
    *,
    draws: int = 4,
    seed: int = 0,
    threads: int = 0,
) -> Doubles:
    """Return v ``[pieces, samples * draws]``; a feed of ``samples`` is one sample."""
    errors = _Errors(model, pieces, threads)
    weights = [
        v.name or ""
        for v in model.graph.initializers.values()
        if v.const_value is not None and v.const_value.dtype.is_floating_point() and v.uses()
    ]
    problem = Problem(model, weights, samples, loss)
    generator = torch.Generator().manual_seed(seed)
    columns: list[list[float]] = []
    for feeds, (inputs, _) in zip(samples, problem.batches(), strict=True):
        found = errors.of(feeds)
        for slopes in _slopes(problem, inputs, errors.places, draws, generator):
            pairs = zip(pieces, found, strict=True)
            columns.append([float(np.vdot(slopes[piece.old], error)) for piece, error in pairs])
    return np.asarray(columns, np.float64).T


class _Errors:
    """Runs the original with all pieces beside it."""

    def __init__(self, model: onnx_ir.Model, pieces: Sequence[Piece], threads: int) -> None:
        grafter = Grafter(model)
        outputs = grafter.beside(pieces)
        self.places = list(dict.fromkeys(piece.old for piece in pieces))
        self._pieces = pieces
        self._names = [value.name or "" for value in outputs]
        graph = grafter.model.graph
        by_name = {v.name or "": v for node in graph for v in node.outputs}
        for name in dict.fromkeys((*self.places, *self._names)):
            if not by_name[name].is_graph_output():
                graph.outputs.append(by_name[name])
        self._executor = Executor(onnx_ir.to_proto(grafter.model), threads=threads)

    def of(self, feeds: Feeds) -> list[Doubles]:
        """Return what each piece changes, flattened."""
        names = [*self.places, *self._names]
        found = dict(zip(names, self._executor.run(feeds, names), strict=True))
        return [
            np.subtract(found[name], found[piece.old], dtype=np.float64).reshape(-1)
            for piece, name in zip(self._pieces, self._names, strict=True)
        ]


def _slopes(
    problem: Problem,
    inputs: tuple[torch.Tensor, ...],
    places: Sequence[str],
    draws: int,
    generator: torch.Generator,
) -> Iterator[dict[str, Doubles]]:
    """Yield the slope of each draw at each place, flattened."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[torch.Tensor], None]:
        def see(value: torch.Tensor) -> None:
            seen[name] = value

        return see

    outputs = run_observed(problem.twin, inputs, {name: keep(name) for name in places})
    for _ in range(draws):
        value = problem.loss.draws(outputs, generator).sum()
        found = torch.autograd.grad(
            value, [seen[n] for n in places], retain_graph=True, materialize_grads=True,
            allow_unused=True,
        )  # fmt: skip
        yield {
            name: slope.double().reshape(-1).numpy()
            for name, slope in zip(places, found, strict=True)
        }
