"""Measure what the rewrites that prepare for quantization gain, with weights rounded to the nearest grid point.

``python -m whet.tools.bench.preparing_rewrites`` needs a folder with ``resnet_cifar10``, ``mlperf_tiny_resnet8``,
``cifar10`` and ``stories260k`` (``--assets``); MiniLM needs the ``dev`` extra. Rounding is simulated: the numbers that
the integers would stand for, in float32. Nothing is timed.
"""

import argparse
import dataclasses
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.analysis.channel_layout import is_linear
from whet.analysis.channel_statistics import Channels
from whet.analysis.statistics import Statistics
from whet.ir.bindings import Bindings, candidates, symbols
from whet.ir.execute import Executor
from whet.ir.values import Array, constant, is_op
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.pipeline import Pipeline, Step
from whet.passes.proposal import Proposal
from whet.passes.quantization.algorithms.arrays import affine
from whet.passes.quantization.algorithms.formats import UINT8
from whet.passes.quantization.integer_spelling import decode, encode
from whet.passes.recipes import canonical, exact
from whet.passes.registry import parse_passes
from whet.passes.workbench import Context, Workbench
from whet.preparation import prepare

__all__ = ["main"]

Feeds = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class RoundProducts(Pass):
    """Round weights to the nearest of a grid, and activations to one grid per value; for measurements only."""

    changes: ClassVar[Change] = Change.WEIGHTS | Change.OPS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    bits: int = 4
    block: int = 0
    """Inputs that share a scale; 0 is a scale per output channel, -1 one for the whole weight."""
    activations: bool = False
    """Round the data operand to eight bits over its range."""

    def apply(self, work: Workbench) -> None:
        """Visit every linear operator."""
        nodes = [node for node in work.nodes() if is_linear(node)]
        names = frozenset((_name(node), Channels(-1)) for node in nodes) if self.activations else ()
        seen = work.analyses.get(Statistics(frozenset(names))) if names else None
        for node in nodes:
            build = work.builder(node)
            inputs = list(node.inputs)
            array = constant(node.inputs[1])
            assert array is not None
            inputs[1] = build.constant(self._rounded(array, node))
            if seen is not None and inputs[0] is not None:
                found = seen.of(_name(node), Channels(-1))
                grid = affine(float(found.low.min()), float(found.high.max()), UINT8)
                inputs[0] = decode(build, encode(build, inputs[0], grid, "x"), grid, "x")
            new = build.op(node.op_type, *inputs, attributes=node.attributes)
            work.accept(
                Proposal(
                    (node,),
                    ((node.outputs[0], new),),
                    tuple(build.nodes),
                    tuple(build.initializers),
                ),
                "simulated",
            )

    def _rounded(self, array: Array, node: onnx_ir.Node) -> Array:
        turned = is_op(node, "MatMul") or (is_op(node, "Gemm") and "transB" not in node.attributes)
        rows = np.moveaxis(array, -1 if turned else 0, 0).astype(np.float64)
        flat = rows.reshape(len(rows), -1)
        size = {0: flat.shape[1], -1: flat.shape[1]}.get(self.block, self.block)
        padded = np.zeros((len(flat), -(-flat.shape[1] // size) * size))
        padded[:, : flat.shape[1]] = flat
        blocks = padded.reshape(len(flat), -1, size)
        reach = 2 ** (self.bits - 1) - 1
        step = np.abs(blocks).max(axis=2, keepdims=True) / reach
        if self.block < 0:
            step = np.full_like(step, step.max())
        step[step == 0] = 1.0
        # Symmetric grids of two bits have three levels: the scale with the least error is looked for.
        best = _nearest(blocks, step, reach)
        rounded = best.reshape(padded.shape)[:, : flat.shape[1]].reshape(rows.shape)
        return np.ascontiguousarray(np.moveaxis(rounded, 0, -1 if turned else 0), array.dtype)


def _nearest(blocks: Array, step: Array, reach: int) -> Array:
    """Round, with the scale of each block shrunk by the factor of least squared error."""
    best: Array = np.zeros_like(blocks)
    least = np.full(step.shape, np.inf)
    for factor in np.linspace(1.0, 0.4, 25):
        found = np.clip(np.rint(blocks / (step * factor)), -reach, reach) * step * factor
        error = ((found - blocks) ** 2).sum(axis=2, keepdims=True)
        best = np.asarray(np.where(error < least, found, best))
        least = np.minimum(error, least)
    return best


def _name(node: onnx_ir.Node) -> str:
    value = node.inputs[0]
    return "" if value is None else value.name or ""


def _pipeline(recipe: str, lossy: Pass, behind: str = "") -> Pipeline:
    before = parse_passes(recipe) if recipe else ()
    after = parse_passes(behind) if behind else ()
    return Pipeline((canonical(), exact(), *before, exact(), lossy, *after))


def _compiled(
    source: Path, pipeline: Pipeline | None, calibration: Sequence[Feeds]
) -> tuple[Executor, str]:
    """Return the model behind a pipeline, and how many places each of the passes changed."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(source, folder=Path(folder))
        model: onnx_ir.Model = prepared.model
        steps: list[Step] = []
        if pipeline is not None:
            choices = tuple(candidates(symbols(model))[:2])
            context = Context(bindings=Bindings(choices), calibration=tuple(calibration))
            model, steps = pipeline.run(model, context)
        path = Path(folder) / "model.onnx"
        onnx_ir.save(model, path)
        changed = {s.name: s.coverage.changed for s in steps if s.name in _SHOWN}
        return Executor(path, optimization="basic", threads=2), ", ".join(
            f"{name} {count}" for name, count in changed.items()
        )


_SHOWN = ("equalize-channels", "smooth-activations", "rotate-residual", "correct-biases")


def _networks(assets: Path) -> Iterator[str]:
    """Yield top-1 of convolutional networks with rounded weights."""
    train = np.load(assets / "cifar10" / "train_10k.npz")["x"]
    test = np.load(assets / "cifar10" / "test_dev.npz")
    models: Mapping[str, tuple[Path, Callable[[Array], Array]]] = {
        "resnet20": (assets / "resnet_cifar10" / "resnet20.onnx", _normalized),
        "resnet8": (assets / "mlperf_tiny_resnet8" / "resnet8.onnx", _raw),
    }
    for name, (path, prepared) in models.items():
        feeds = [{"x": prepared(train[k : k + 64])} for k in range(0, 512, 64)]
        images = prepared(test["x"])
        for bits, block, activations in ((4, 0, False), (4, -1, False), (4, 0, True), (8, 0, True)):
            lossy = RoundProducts(bits, block, activations)
            options = (
                f"equalize-channels{{weight_bits={bits},activation_bits={8 if activations else 0}"
                f",weights={'channel' if block == 0 else 'tensor'}}}"
            )
            for recipe in ("", options):
                for behind in ("", "correct-biases"):
                    executor, changed = _compiled(path, _pipeline(recipe, lossy, behind), feeds)
                    found = _top1(executor, images, test["labels"])
                    yield f"{name} {_spelled(lossy):34} top-1 {found:.4f}  {changed or 'plain'}"


def _spelled(lossy: RoundProducts) -> str:
    weights = "tensor" if lossy.block < 0 else "channel"
    return f"W{lossy.bits} per {weights}" + (", A8" if lossy.activations else "")


def _top1(executor: Executor, images: Array, labels: Array) -> float:
    parts = [executor.run({"x": images[k : k + 500]})[0] for k in range(0, len(images), 500)]
    return float(np.mean(np.concatenate(parts).argmax(1) == labels))


def _normalized(x: Array) -> Array:
    mean = np.asarray((0.485, 0.456, 0.406), np.float32)
    deviation = np.asarray((0.229, 0.224, 0.225), np.float32)
    return _turned((x.astype(np.float32) / 255 - mean) / deviation)


def _raw(x: Array) -> Array:
    return _turned(x.astype(np.float32))


def _turned(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32)


def _stories(assets: Path) -> Iterator[str]:
    """Yield the perplexity of a small language model with rounded weights."""
    path = assets / "stories260k" / "stories260k.onnx"
    data = np.load(assets / "stories260k" / "tokens_dev.npz")
    tokens = data[data.files[0]].astype(np.int64)
    feeds = [{"input_ids": tokens[k : k + 16, :-1]} for k in range(0, 64, 16)]
    test = tokens[64:192]
    plain, _ = _compiled(path, None, ())
    yield f"stories260k float32 perplexity {_perplexity(plain, test):.3f}"
    for bits in (4, 3, 2):
        for block in (0, 32):
            awq = f"smooth-activations{{weight_bits={bits},activation_bits=0,block={block}}}"
            recipes = ("", "rotate-residual", "rotate-residual{basis=principal}", awq)
            for recipe in (*recipes, f"rotate-residual,{awq}"):
                lossy = RoundProducts(bits, block)
                executor, changed = _compiled(path, _pipeline(recipe, lossy), feeds)
                found = _perplexity(executor, test)
                yield (
                    f"stories260k {bits} bits, block {block:2}: perplexity {found:8.3f}"
                    f"  {recipe or 'plain'} ({changed})"
                )


def _perplexity(executor: Executor, tokens: Array) -> float:
    total, count = 0.0, 0
    for k in range(0, len(tokens), 32):
        part = tokens[k : k + 32]
        logits = executor.run({"input_ids": part[:, :-1]})[0].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(logits, part[:, 1:, None].astype(np.intp), -1)[..., 0]
        total += float((np.log(np.exp(logits).sum(-1)) - chosen).sum())
        count += chosen.size
    return float(np.exp(total / count))


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per model and setting; what needs data that are not there is skipped with the reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=Path("../shared/assets"))
    parser.add_argument("--only", choices=["networks", "stories"])
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    jobs = {"networks": _networks, "stories": _stories}
    for name, job in jobs.items():
        if options.only in (None, name):
            try:
                for line in job(options.assets):
                    print(line, flush=True)
            except FileNotFoundError as error:
                print(f"{name}: skipped: {error}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
