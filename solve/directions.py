"""Second-order prices of candidates, and of any mixture of them, from slopes at the places where they act.

Let e_c(x) be what candidate c changes at the output of its site, and g the slope there of a draw whose mean outer
product is the Gauss-Newton matrix of the loss (:meth:`Loss.draws`). With v_c = <g, e_c>, a mixture that takes c(s) at
site s costs

    ΔL = 1/2 E[(Σ_s v_c(s))²]

to second order: the sum of squares is what each costs alone, products of pairs are how sites interact. For a change of
weights and rows of independent slopes this is 1/2 tr(G ΔW A ΔWᵀ) (Martens and Grosse 2015); rows of one sample are not
taken for independent here, and activations that are quantized count, too.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir
import torch

from whet.analysis.curvature.losses import Loss
from whet.ir.array import Array
from whet.ir.execute import Executor as Runtime
from whet.ir.twin import from_numpy, run_observed, to_fx
from whet.solve.allocation import Doubles
from whet.solve.executor import Executor, InProcess
from whet.solve.grafting import Grafter
from whet.solve.variants import Piece

__all__ = ["directions"]

Feeds = Mapping[str, Array]
Floats = npt.NDArray[np.float32]
_TOGETHER = 16
"""Samples that are sent at a time."""


def directions(
    model: onnx_ir.Model,
    pieces: Sequence[Piece],
    samples: Sequence[Feeds],
    loss: Loss,
    *,
    draws: int = 4,
    seed: int = 0,
    threads: int = 0,
    executor: Executor | None = None,
) -> Doubles:
    """Return v ``[pieces, samples * draws]``; a feed of ``samples`` is one sample.

    Every sample draws by a seed of its own, so that it does not matter which machine of the ``executor`` it goes to.
    """
    work = _Work(
        onnx_ir.to_proto(model).SerializeToString(),
        *_beside(model, pieces),
        loss,
        draws,
        threads,
    )
    numbered = [(sample, [seed, k]) for k, sample in enumerate(samples)]
    parts = [numbered[k : k + _TOGETHER] for k in range(0, len(numbered), _TOGETHER)]
    return np.concatenate(list((executor or InProcess()).map(work, parts)), axis=1)


def _beside(
    model: onnx_ir.Model, pieces: Sequence[Piece]
) -> tuple[bytes, tuple[str, ...], tuple[str, ...]]:
    """Return the original with all pieces beside it, their names, and the places that they are for."""
    grafter = Grafter(model)
    names = tuple(value.name or "" for value in grafter.beside(pieces))
    olds = tuple(piece.old for piece in pieces)
    graph = grafter.model.graph
    by_name = {v.name or "": v for node in graph for v in node.outputs}
    for name in dict.fromkeys((*olds, *names)):
        if not by_name[name].is_graph_output():
            graph.outputs.append(by_name[name])
    return onnx_ir.to_proto(grafter.model).SerializeToString(), names, olds


@dataclasses.dataclass(frozen=True)
class _Work:
    """Computes the columns of some samples; can be sent to another machine, where both models are loaded once."""

    model: bytes
    beside: bytes
    names: tuple[str, ...]
    places: tuple[str, ...]
    """The value of the original that each piece is for."""
    loss: Loss
    draws: int
    threads: int

    def __call__(self, samples: Sequence[tuple[Feeds, Sequence[int]]]) -> Doubles:
        """Return v ``[pieces, samples * draws]``."""
        columns: list[Doubles] = []
        for feeds, seed in samples:
            slopes = self._slopes(feeds, seed)
            pairs = zip(self.places, self._errors(feeds), strict=True)
            columns.append(np.array([slopes[place] @ error for place, error in pairs], np.float64))
        return np.concatenate(columns, axis=1)

    def __getstate__(self) -> dict[str, object]:
        """Leave out what was loaded."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @functools.cached_property
    def _executor(self) -> Runtime:
        return Runtime(onnx.ModelProto.FromString(self.beside), threads=self.threads)

    @functools.cached_property
    def _twin(self) -> tuple[torch.fx.GraphModule, list[str]]:
        model = onnx_ir.from_proto(onnx.ModelProto.FromString(self.model))
        inputs = [v.name or "" for v in model.graph.inputs if v.const_value is None]
        return to_fx(model), inputs

    def _errors(self, feeds: Feeds) -> Iterator[Floats]:
        """Yield what each piece changes, flattened."""
        wanted = list(dict.fromkeys((*self.places, *self.names)))
        found = dict(zip(wanted, self._executor.run(feeds, wanted), strict=True))
        for place, name in zip(self.places, self.names, strict=True):
            yield np.subtract(found[name], found[place], dtype=np.float32).reshape(-1)

    def _slopes(self, feeds: Feeds, seed: Sequence[int]) -> dict[str, Floats]:
        """Return the slopes at each place ``[draws, size]``."""
        seen: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Callable[[torch.Tensor], None]:
            def see(value: torch.Tensor) -> None:
                seen[name] = value

            return see

        twin, inputs = self._twin
        places = list(dict.fromkeys(self.places))
        generator = torch.Generator().manual_seed(_mixed(seed))
        arguments = tuple(from_numpy(feeds[name]) for name in inputs)
        outputs = run_observed(twin, arguments, {name: keep(name) for name in places})
        found = [
            torch.autograd.grad(
                self.loss.draws(outputs, generator).sum(), [seen[n] for n in places],
                retain_graph=True, materialize_grads=True, allow_unused=True,
            )
            for _ in range(self.draws)
        ]  # fmt: skip
        stacked = (
            torch.stack(slopes).float().flatten(1).numpy() for slopes in zip(*found, strict=True)
        )
        return dict(zip(places, stacked, strict=True))


def _mixed(seed: Sequence[int]) -> int:
    """Return one seed that stands for several numbers."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> np.uint64(1))
