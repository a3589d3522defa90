"""Observe an attention on calibration data: features, bias, scores and values, in three sets of samples."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir
from onnx import helper

from whet.analysis.activations import observe
from whet.analysis.dataset import batch_size
from whet.errors import Mismatch
from whet.ir.execute import CannotRun, Executor
from whet.ir.values import Array, is_constant
from whet.passes.attention.call import AttentionCall
from whet.passes.attention.emission import Emitter
from whet.passes.attention.factor_functions import feature_array
from whet.passes.attention.feature_basis import Doubles
from whet.passes.attention.fit_factors import PairData
from whet.passes.attention.input_bias import InputBias
from whet.passes.proposal import Proposal
from whet.passes.workbench import Workbench

__all__ = ["Feeds", "PairSampler", "Samples", "boundary", "observe_all", "split_samples"]

Feeds = Mapping[str, Array]
_HIDES = -1e4
_SCORES = 1 << 23
"""Scores of one set; of longer attentions some of the queries are taken."""
_ROLES = (0, 1, 2, 0)
"""What every fourth sample is for: to fit, to choose, to judge, to fit."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """Calibration data in three sets that share no sample."""

    fit: tuple[Feeds, ...]
    choose: tuple[Feeds, ...]
    judge: tuple[Feeds, ...]

    @property
    def sets(self) -> tuple[tuple[Feeds, ...], ...]:
        """Return the three sets."""
        return self.fit, self.choose, self.judge


def split_samples(model: onnx_ir.Model, batches: Sequence[Feeds], most: int) -> Samples:
    """Deal up to ``most`` samples out to three sets; raises Mismatch if there are fewer than three.

    A model that fixes its batch cannot take single samples: then whole batches are dealt out.
    """
    free = batch_size(model, default=0) == 0
    total = sum(len(_single(feeds)) if free else 1 for feeds in batches)
    if total < 3:
        what = "samples" if free else "batches"
        raise Mismatch(
            f"it takes three calibration {what}, to fit, to choose and to judge; there are {total}"
        )
    wanted = set(np.linspace(0, total - 1, min(most, total)).astype(int).tolist())
    parts = (part for feeds in batches for part in (_single(feeds) if free else [feeds]))
    taken = [
        {n: np.array(a) for n, a in part.items()} for k, part in enumerate(parts) if k in wanted
    ]
    sets = [[p for k, p in enumerate(taken) if _ROLES[k % 4] == role] for role in range(3)]
    return Samples(*(tuple(_joined(part)) if free else tuple(part) for part in sets))


def _single(feeds: Feeds) -> list[Feeds]:
    counts = {array.shape[0] if array.ndim else 0 for array in feeds.values()}
    if len(counts) != 1:
        return [feeds]
    return [{n: a[k : k + 1] for n, a in feeds.items()} for k in range(counts.pop())]


def _joined(parts: Sequence[Feeds]) -> list[Feeds]:
    """Join samples of one shape into a batch."""
    groups: dict[tuple[object, ...], list[Feeds]] = {}
    for part in parts:
        groups.setdefault(tuple(sorted((n, a.shape) for n, a in part.items())), []).append(part)
    return [{n: np.concatenate([p[n] for p in g]) for n in g[0]} for g in groups.values()]


def boundary(nodes: Sequence[onnx_ir.Node]) -> list[str]:
    """Return the names of what nodes read and neither make nor have as a constant."""
    made = {v for node in nodes for v in node.outputs}
    read = dict.fromkeys(v for node in nodes for v in node.inputs if v is not None)
    return [v.name or "" for v in read if v not in made and v.const_value is None]


def observe_all(work: Workbench, names: Sequence[str], feeds: Sequence[Feeds]) -> list[Feeds]:
    """Return the named values for each of ``feeds``; raises Mismatch where the model does not run on them."""
    found: list[dict[str, Array]] = [{} for _ in feeds]
    counts = dict.fromkeys(names, 0)
    try:
        for name, array in observe(work.model, list(counts), feeds, threads=work.context.threads):
            found[counts[name]][name] = array
            counts[name] += 1
    except CannotRun as error:
        raise Mismatch(f"the model does not run on the calibration data: {error}") from error
    return list(found)


class _Target:
    """Computes the part of the mask that is to be fitted."""

    def __init__(self, work: Workbench, call: AttentionCall, bias: InputBias) -> None:
        build = work.builder(call.node)
        result = Emitter(build, call, onnx_ir.DataType.FLOAT).bias(bias.fitted)
        nodes, weights = tuple(build.nodes), tuple(build.initializers)
        self.name = result.name or ""
        self.names = boundary(nodes)
        self._executor: Executor | None = None
        try:
            if nodes:
                opsets = dict(work.graph.opset_imports)
                self._executor = Executor(_model(nodes, weights, result, opsets))
        except CannotRun as error:
            raise Mismatch(f"its bias cannot be computed apart: {error}") from error
        finally:
            Proposal((call.node,), (), nodes).discard()
        if self._executor is None:
            self.names = [self.name]

    def __call__(self, seen: Feeds) -> Array:
        """Return ``[batch or 1, heads or 1, queries, keys]``."""
        if self._executor is None:
            return seen[self.name]
        try:
            return self._executor.run({n: seen[n] for n in self._executor.inputs})[0]
        except CannotRun as error:
            raise Mismatch(f"its bias cannot be computed apart: {error}") from error


def _model(
    nodes: Sequence[onnx_ir.Node],
    weights: Sequence[onnx_ir.Value],
    result: onnx_ir.Value,
    opsets: Mapping[str, int],
) -> onnx.ModelProto:
    made = {v for node in nodes for v in node.outputs}
    read = dict.fromkeys(v for node in nodes for v in node.inputs if v is not None)
    outside = [v for v in read if v not in made]
    free = [v for v in outside if v.const_value is None]
    fixed = dict.fromkeys([*(v for v in outside if v.const_value is not None), *weights])
    constants = [_tensor(v) for v in fixed]
    inputs = [helper.make_tensor_value_info(v.name or "", int(v.dtype or 1), None) for v in free]
    output = helper.make_tensor_value_info(result.name or "", onnx.TensorProto.FLOAT, None)
    protos = [onnx_ir.serde.serialize_node(node) for node in nodes]
    graph = helper.make_graph(protos, "bias", inputs, [output], constants)
    imports = [helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def _tensor(value: onnx_ir.Value) -> onnx.TensorProto:
    assert value.const_value is not None
    proto = onnx_ir.serde.serialize_tensor(value.const_value)
    proto.name = value.name or ""
    return proto


class PairSampler:
    """Turns what was seen of an attention into data to fit on."""

    def __init__(self, work: Workbench, call: AttentionCall, bias: InputBias) -> None:
        """Prepare to compute the part of the mask that is to be fitted."""
        assert call.mask is not None
        self._work, self._call, self._bias = work, call, bias
        self._target = _Target(work, call, bias)
        self._mask = call.mask.name or ""
        self._sides = bias.features.query, bias.features.key
        values = [v.name or "" for v in (call.q, call.k, call.v) if not is_constant(v)]
        features = [f.value.name or "" for side in self._sides for f in side]
        self._names = list(dict.fromkeys([*values, self._mask, *features, *self._target.names]))

    def __call__(self, feeds: Sequence[Feeds]) -> PairData:
        """Observe some samples."""
        parts = [self._data(seen) for seen in observe_all(self._work, self._names, feeds)]
        fields: list[str] = [f.name for f in dataclasses.fields(PairData)]
        try:
            joined = [np.concatenate([getattr(p, name) for p in parts]) for name in fields]
        except ValueError as error:
            raise Mismatch(f"the samples differ in shape: {error}") from error
        return _thinned(PairData(*joined))

    def _data(self, seen: Feeds) -> PairData:
        call = self._call
        q, k, v = (_array(value, seen) for value in (call.q, call.k, call.v))
        k, v = (np.repeat(a, q.shape[1] // a.shape[1], axis=1) for a in (k, v))
        bias = self._target(seen).astype(np.float64)
        worst = float(np.abs(bias).max(initial=0.0))
        if not worst <= -_HIDES:
            raise Mismatch(
                f"it holds values up to {worst:.3g}: what hides keys cannot be told apart"
            )
        batch, queries, keys = q.shape[0], q.shape[2], k.shape[2]
        bias = np.broadcast_to(bias, (batch, bias.shape[1], queries, keys))
        scores = call.factor(q.shape[-1]) * (q @ k.swapaxes(-1, -2))
        scores = scores + _others(seen[self._mask].astype(np.float64), bias, causal=call.causal)
        x, y = (
            feature_array(side, [seen[f.value.name or ""] for f in side], batch)
            for side in self._sides
        )
        return PairData(x, y, bias, scores, v)


def _others(mask: Doubles, bias: Doubles, *, causal: bool) -> Doubles:
    """Return what is added to the scores beside the bias; minus infinity where a pair is hidden."""
    full = np.broadcast_to(mask, np.broadcast_shapes(mask.shape, bias.shape))
    hidden = full <= _HIDES
    if causal:
        hidden = hidden | ~np.tri(*bias.shape[-2:], dtype=np.bool_)
    return np.where(hidden, -np.inf, np.where(hidden, 0.0, full) - bias)


def _array(value: onnx_ir.Value, seen: Feeds) -> Doubles:
    array = value.const_value.numpy() if value.const_value is not None else seen[value.name or ""]
    return array.astype(np.float64)


def _thinned(data: PairData) -> PairData:
    """Take every so many queries where there are too many scores."""
    step = -(-data.scores.size // _SCORES)
    if step == 1:
        return data
    return dataclasses.replace(
        data, x=data.x[:, ::step], bias=data.bias[:, :, ::step], scores=data.scores[:, :, ::step]
    )
