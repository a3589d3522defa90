"""Measure what weights of 4, 3 and 2 bits cost a small language model: perplexity by method, and bytes per weight.

``python -m whet.tools.bench.stories`` needs a folder with ``stories260k/stories260k.onnx`` and ``tokens_dev.npz``
(``--assets``), and torch for the Fisher information. Every matrix of every MatMul is approximated, the lookup of tokens
is left as it is. The first rows of tokens calibrate, others judge. The model was trained on such text: take the
differences, not the values.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir

from whet.analysis.fisher import Fisher
from whet.ir.execute import Executor
from whet.ir.files import load_model
from whet.ir.prepare import normalize
from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Approximation, Doubles, Layer
from whet.passes.quantization.algorithms.codebooks import half_tables, lean, refit, squeeze
from whet.passes.quantization.algorithms.eora import repair
from whet.passes.quantization.algorithms.gptq import gptq
from whet.passes.quantization.algorithms.outliers import keep_outliers
from whet.passes.quantization.algorithms.rounding import round_to_nearest
from whet.passes.quantization.layers import Weight, find_weights, layers_of, measure_grams
from whet.passes.workbench import Context
from whet.tools.bench.arguments import argument_parser

__all__ = ["main"]

Feeds = Mapping[str, Array]
Method = Callable[[Layer, int], Approximation]
_BATCH = 16
_METHODS: Mapping[str, Method] = {
    "RTN (extremes)": lambda layer, bits: round_to_nearest(layer, bits, clip="extremes"),
    "RTN (mse)": round_to_nearest,
    "GPTQ": gptq,
    "SqueezeLLM": lambda layer, bits: half_tables(squeeze(layer, bits)),
    "LeanQuant": lambda layer, bits: half_tables(lean(layer, bits)),
    "LeanQuant, refitted": lambda layer, bits: half_tables(refit(layer, lean(layer, bits))),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per method and number of bits."""
    parser = argument_parser(__doc__)
    parser.add_argument("--calibrate", type=int, default=128, help="rows of tokens to fit on")
    parser.add_argument("--judge", type=int, default=128, help="rows to judge by; 0: all others")
    parser.add_argument("--rank", type=int, default=4, help="rank of the repairing path")
    parser.add_argument("--outliers", type=float, default=0.01, help="share kept in full")
    parser.add_argument("--bits", type=int, nargs="*", default=[4, 3, 2])
    options = parser.parse_args(argv)
    folder = options.assets / "stories260k"
    if not folder.is_dir():
        print(f"skipped: no folder '{folder}'")
        return 0
    scene = _Scene.read(folder, options.calibrate, options.judge, options.threads)
    lines: list[dict[str, object]] = []
    for line in _table(scene, options.bits, options.rank, options.outliers):
        print(_spelled(line), flush=True)
        lines.append(line)
    if options.json is not None:
        options.json.write_text(json.dumps(lines, indent=1) + "\n")
    return 0


@dataclasses.dataclass
class _Scene:
    """The model, its matrices as layers, and the rows that judge."""

    model: onnx_ir.Model
    layers: list[tuple[Weight, Layer]]
    rows: Array
    threads: int

    @classmethod
    def read(cls, folder: Path, calibrate: int, judge: int, threads: int) -> "_Scene":
        model = normalize(load_model(folder / "stories260k.onnx"))
        rows = np.load(folder / "tokens_dev.npz")["input_ids"]
        last = calibrate + judge if judge else len(rows)
        batches = [
            {"input_ids": rows[k : min(k + _BATCH, calibrate)]} for k in range(0, calibrate, _BATCH)
        ]
        weights, _ = find_weights(list(model.graph))
        context = Context(calibration=batches, threads=threads)
        grams = measure_grams(model, weights, context, batches)
        names = tuple(w.value.name or "" for w in weights)
        gradients = Fisher(names, "next", calibrate).measure(model, context)
        layers = [
            (w, dataclasses.replace(layers_of(w, grams, {})[0], fisher=_seen(w, gradients)))
            for w in weights
        ]
        return cls(model, layers, rows[calibrate:last], threads)

    @property
    def count(self) -> int:
        """Return how many weights are approximated."""
        return sum(layer.weights.size for _, layer in self.layers)

    def loss(self, values: Mapping[Weight, Array]) -> float:
        """Return nats per token with other values for the weights."""
        kept = {weight: weight.value.const_value for weight in values}
        for weight, array in values.items():
            stored = np.ascontiguousarray(array.T if weight.transposed else array, np.float32)
            weight.value.const_value = onnx_ir.tensor(stored, name=weight.value.name)
        run = Executor(onnx_ir.to_proto(self.model), optimization="all", threads=self.threads)
        for weight, tensor in kept.items():
            weight.value.const_value = tensor
        total = 0.0
        for start in range(0, len(self.rows), _BATCH):
            tokens = self.rows[start : start + _BATCH]
            (logits,) = run.run({"input_ids": tokens})
            total += _nats(logits[:, :-1].astype(np.float64), tokens[:, 1:])
        return total / (self.rows.shape[0] * (self.rows.shape[1] - 1))


def _seen(weight: Weight, gradients: Mapping[str, Array]) -> Doubles:
    return np.asarray(weight.arranged(gradients[weight.value.name or ""]), np.float64)


def _nats(logits: Array, tokens: Array) -> float:
    """Return the sum of -log p(token)."""
    highest = logits.max(-1, keepdims=True)
    normal = np.log(np.exp(logits - highest).sum(-1)) + highest[..., 0]
    return float(
        (normal - np.take_along_axis(logits, tokens[..., None].astype(np.intp), -1)[..., 0]).sum()
    )


def _table(
    scene: _Scene, bits: Sequence[int], rank: int, outliers: float
) -> Iterator[dict[str, object]]:
    yield _line("float32", 32.0, scene.loss({}), None)
    for width in bits:
        for name, method in _METHODS.items():
            plain = [method(layer, width) for _, layer in scene.layers]
            yield _judged(scene, f"{name}, {width} bits", plain)
            repaired = [
                repair(layer, part, rank, half=True)
                for (_, layer), part in zip(scene.layers, plain, strict=True)
            ]
            yield _judged(scene, f"{name}, {width} bits + EoRA rank {rank}", repaired)
        sparse = [_sparse(layer, width, outliers) for _, layer in scene.layers]
        yield _judged(scene, f"SqueezeLLM, {width} bits + outliers {outliers:.1%}", sparse)


def _sparse(layer: Layer, bits: int, share: float) -> Approximation:
    return keep_outliers(layer, share, lambda rest: half_tables(squeeze(rest, bits)))


def _judged(scene: _Scene, name: str, approximations: Sequence[Approximation]) -> dict[str, object]:
    values = {
        weight: part.values()
        for (weight, _), part in zip(scene.layers, approximations, strict=True)
    }
    errors = [
        layer.error(part) for (_, layer), part in zip(scene.layers, approximations, strict=True)
    ]
    size = sum(part.nbytes for part in approximations)
    return _line(name, 8 * size / scene.count, scene.loss(values), float(np.mean(errors)))


def _line(name: str, bits: float, loss: float, error: float | None) -> dict[str, object]:
    return {
        "what": name,
        "bits per weight": bits,
        "nats per token": loss,
        "perplexity": math.exp(loss),
        "mean output error": error,
    }


def _spelled(line: Mapping[str, object]) -> str:
    error = line["mean output error"]
    return (
        f"{line['what']!s:45} {line['bits per weight']:6.2f} bits per weight, "
        f"{line['nats per token']:.4f} nats per token, perplexity {line['perplexity']:.3f}"
        + ("" if error is None else f", mean output error {error:.2e}")
    )


if __name__ == "__main__":
    raise SystemExit(main())
