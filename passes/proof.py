"""Prove a rewrite: execute what it replaces and what it puts there on the same data, and compare.

Only the cut is executed: the old nodes, the new nodes, and as much upstream context as it takes until every value at
the boundary can be drawn at random (a float tensor of known shape), is a constant, or is an input of the model. The
cut is run at every binding of the symbolic dimensions.
"""

import dataclasses
import enum
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir

from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun, Executor
from whet.ir.float64 import Float64Executor
from whet.ir.residency import release
from whet.ir.values import Array, constant
from whet.passes.base import Fidelity
from whet.passes.cut import Cut, name_of
from whet.passes.proposal import Proposal

__all__ = ["Prover", "Verdict", "VerdictKind", "compare", "relative_error", "save_reproducer"]


class VerdictKind(enum.Enum):
    """Say how a proof ended."""

    PROVEN = "proven"
    REFUTED = "refuted"
    OPEN = "open"
    """The cut could not be executed; nothing is known."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What executing both sides showed."""

    kind: VerdictKind
    reason: str = ""
    error: float = 0.0
    oracle: str = ""
    cut: onnx.ModelProto | None = None
    feeds: dict[str, Array] = dataclasses.field(default_factory=dict[str, Array])


def compare(old: Array, new: Array) -> float:
    """Return max |new - old| / rms(old); infinite when shape, type, NaNs or infinities differ.

    Zeros of either sign are equal; other data than numbers are equal or not.
    """
    if old.shape != new.shape or old.dtype != new.dtype:
        return float("inf")
    if old.dtype.kind not in "fVc":
        return 0.0 if np.array_equal(old, new) else float("inf")
    if old.tobytes() == new.tobytes():
        return 0.0
    number = np.complex128 if old.dtype.kind == "c" else np.float64
    before, after = old.astype(number), new.astype(number)
    finite = np.isfinite(before)
    if not np.array_equal(finite, np.isfinite(after)):
        return float("inf")
    if not np.array_equal(before[~finite], after[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    before, after = before[finite], after[finite]
    worst = float(np.max(np.abs(after - before)))
    if worst == 0.0:
        return 0.0
    scale = float(np.sqrt(np.mean(np.abs(before) ** 2)))
    return worst / scale if scale > 0 else float("inf")


def relative_error(old: Array, new: Array) -> float:
    """Return ||new - old|| / ||old||; infinite when shape or type differ or ``new`` is not finite where ``old`` is."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return float("inf")
    if old.dtype.kind not in "fVc":
        return 0.0 if np.array_equal(old, new) else float("inf")
    before, after = old.astype(np.float64), new.astype(np.float64)
    finite = np.isfinite(before)
    if not np.isfinite(after[finite]).all():
        return float("inf")
    distance = float(np.linalg.norm(after[finite] - before[finite]))
    length = float(np.linalg.norm(before[finite]))
    return distance / length if length > 0 else (0.0 if distance == 0 else float("inf"))


class Prover:
    """Execute proposals on their cut-out subgraphs."""

    def __init__(
        self,
        model: onnx_ir.Model,
        bindings: Bindings,
        seed: int = 0,
        proven: dict[Hashable, Verdict] | None = None,
    ) -> None:
        """Draw data from ``bindings``; the same seed gives the same data.

        ``proven`` remembers proofs by structure: the same operators on the same constants and the same shapes need
        no second execution.
        """
        self._proven: dict[Hashable, Verdict] = {} if proven is None else proven
        self._model = model
        self._bindings = bindings
        self._seed = seed

    def check(
        self,
        proposal: Proposal,
        fidelity: Fidelity,
        tolerance: float,
        samples: Mapping[str, Array] | None = None,
    ) -> Verdict:
        """Execute both sides and compare; grow the cut upstream while it cannot be executed.

        A lossy rewrite is judged by :func:`relative_error`, on ``samples`` if they name every value that would be
        drawn at random.
        """
        if samples and fidelity is Fidelity.LOSSY:
            verdict = self._try(Cut(proposal, self._bindings, samples), fidelity, tolerance)
            if verdict.kind is not VerdictKind.OPEN:
                return verdict
        return self._try(Cut(proposal, self._bindings), fidelity, tolerance)

    def _try(self, cut: Cut, fidelity: Fidelity, tolerance: float) -> Verdict:
        reason = ""
        for _ in range(4):
            try:
                cut.close()
                if fidelity is Fidelity.LOSSY:
                    return self._approximate(cut, tolerance)
                return self._look_up(cut, fidelity, tolerance)
            except CannotRun as error:
                reason = reason or str(error)
            try:
                if not cut.grow():
                    break
            except CannotRun:
                break
        return Verdict(VerdictKind.OPEN, reason)

    def _look_up(self, cut: Cut, fidelity: Fidelity, tolerance: float) -> Verdict:
        structure = cut.key()
        if structure is None:
            try:
                return self._execute(cut, fidelity, tolerance)
            finally:
                release(cut.fed)
        opsets = tuple(sorted(self._model.graph.opset_imports.items()))
        key = (structure, opsets, fidelity, tolerance, self._seed)
        verdict = self._proven.get(key)
        if verdict is None:
            verdict = self._execute(cut, fidelity, tolerance)
            if verdict.kind is VerdictKind.PROVEN:
                self._proven[key] = verdict
        return verdict

    def _execute(self, cut: Cut, fidelity: Fidelity, tolerance: float) -> Verdict:
        """Compare both sides on the best oracle that can run them."""
        reason = "no oracle"
        for start in self._runners(cut, wide=fidelity is not Fidelity.EXACT):
            try:
                runner = start()
                verdict = self._compare(cut, runner, tolerance)
            except CannotRun as error:
                reason = str(error)
                continue
            return verdict if runner.loadable else self._loadable(cut, verdict)
        raise CannotRun(reason)

    def _loadable(self, cut: Cut, verdict: Verdict) -> Verdict:
        """Give a refutation by our own kernels a reproducer that ONNX Runtime loads."""
        if verdict.kind is not VerdictKind.REFUTED:
            return verdict
        proto = cut.proto(dict(self._model.graph.opset_imports), self._model.ir_version, wide=False)
        types = {name_of(v): v.dtype.numpy() for v in [*cut.drawn, *cut.fed] if v.dtype is not None}
        feeds = {name: array.astype(types[name]) for name, array in verdict.feeds.items()}
        return dataclasses.replace(verdict, cut=proto, feeds=feeds)

    def _compare(self, cut: Cut, runner: "_Runner", tolerance: float) -> Verdict:
        """Run both sides at every binding; stop at the first difference that is too large."""
        worst = 0.0
        for index in range(max(2, len(self._bindings.choices))):
            choice = index % len(self._bindings.choices)
            feeds = self._feeds(cut, choice, index, wide=runner.wide)
            try:
                old, new = runner.run(feeds)
                if not _mostly(np.isfinite, old):
                    feeds = self._feeds(cut, choice, index, wide=runner.wide, positive=True)
                    old, new = runner.run(feeds)
            except CannotRun as failure:
                if not self._old_side_runs(cut, runner, feeds):
                    raise
                reason = f"the replacement does not run, what it replaces does: {failure}"
                return self._refuted(runner, choice, feeds, np.inf, reason)
            if not _mostly(_is_number, old):
                raise CannotRun("on random data the result is not a number")
            error = max((compare(o, n) for o, n in zip(old, new, strict=True)), default=0.0)
            worst = max(worst, error)
            if error > tolerance:
                reason = f"outputs differ by {error:.3g}, allowed {tolerance:.3g}"
                return self._refuted(runner, choice, feeds, error, reason)
        return Verdict(VerdictKind.PROVEN, "", worst, runner.oracle)

    def _approximate(self, cut: Cut, tolerance: float) -> Verdict:
        """Measure the error of a rewrite that is meant to have one."""
        real = bool(cut.samples)
        if real and not all(name_of(v) in cut.samples for v in cut.drawn):
            raise CannotRun("there is real data for some of the operands only")
        opsets = dict(self._model.graph.opset_imports)
        runner = _Runner(
            cut.proto(opsets, self._model.ir_version, wide=False), cut, Executor, wide=False
        )
        count = 1 if real else max(2, len(self._bindings.choices))
        worst = 0.0
        for index in range(count):
            feeds = self._feeds(cut, index % len(self._bindings.choices), index, wide=False)
            old, new = runner.run(feeds)
            error = max((relative_error(o, n) for o, n in zip(old, new, strict=True)), default=0.0)
            worst = max(worst, error)
            if not error <= tolerance:
                reason = f"its output changes by {error:.3g} of its norm, allowed {tolerance:.3g}"
                return self._refuted(
                    runner, index % len(self._bindings.choices), feeds, error, reason
                )
        return Verdict(VerdictKind.PROVEN, "", worst, "calibration" if real else runner.oracle)

    def _refuted(
        self, runner: "_Runner", choice: int, feeds: dict[str, Array], error: float, reason: str
    ) -> Verdict:
        place = f"{reason}, at {dict(self._bindings.choices[choice])}"
        return Verdict(VerdictKind.REFUTED, place, error, runner.oracle, runner.proto, feeds)

    def _old_side_runs(self, cut: Cut, runner: "_Runner", feeds: dict[str, Array]) -> bool:
        """Tell whether what is replaced runs where both sides together failed."""
        if not runner.loadable:
            return False
        opsets = dict(self._model.graph.opset_imports)
        proto = cut.proto(opsets, self._model.ir_version, wide=runner.wide, new_side=False)
        try:
            Executor(proto).run(feeds)
        except CannotRun:
            return False
        return True

    def _runners(self, cut: Cut, *, wide: bool) -> Iterable[Callable[[], "_Runner"]]:
        """Yield makers: float64 in ONNX Runtime, float64 with our kernels, and the types as they are.

        Attention is computed by our kernel first: ONNX Runtime's own float64 form of it gives NaN instead of zeros to
        queries that see no key.
        """
        opsets = dict(self._model.graph.opset_imports)
        version = self._model.ir_version
        if wide:
            ours_first = cut.mentions("Attention")
            for kind in (Float64Executor, Executor) if ours_first else (Executor, Float64Executor):
                yield partial(self._wide, cut, kind)
        yield lambda: _Runner(cut.proto(opsets, version, wide=False), cut, Executor, wide=False)

    def _wide(
        self, cut: Cut, kind: Callable[[onnx.ModelProto], Executor | Float64Executor]
    ) -> "_Runner":
        opsets = dict(self._model.graph.opset_imports)
        return _Runner(cut.proto(opsets, self._model.ir_version, wide=True), cut, kind, wide=True)

    def _feeds(
        self, cut: Cut, choice: int, draw: int, *, wide: bool, positive: bool = False
    ) -> dict[str, Array]:
        rng = np.random.default_rng((self._seed, draw))
        feeds: dict[str, Array] = {}
        for value in cut.drawn:
            tensor = cut.samples.get(name_of(value))
            if tensor is None:
                tensor = self._bindings.draw(
                    value, self._bindings.choices[choice], rng, positive=positive
                )
            if tensor is None:
                raise CannotRun(f"the shape of '{value.name}' is not known")
            feeds[name_of(value)] = tensor
        for value in cut.fed:
            array = constant(value)
            assert array is not None
            feeds[name_of(value)] = array
        if wide:
            feeds = {k: v.astype(np.float64) if _is_float(v) else v for k, v in feeds.items()}
        return feeds


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _is_number(array: Array) -> Array:
    return ~np.isnan(array)


def _mostly(holds: Callable[[Array], Array], outputs: Sequence[Array]) -> bool:
    """Tell whether at least half of some float output holds: comparing NaN with NaN would prove nothing."""
    floats = [o for o in outputs if o.dtype.kind == "f" and o.size]
    return not floats or any(holds(o).mean() >= 0.5 for o in floats)


class _Runner:
    """Execute a cut."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        cut: Cut,
        kind: Callable[[onnx.ModelProto], Executor | Float64Executor],
        *,
        wide: bool,
    ) -> None:
        self.proto = proto
        self.wide = wide
        self.oracle = "float64" if wide else "as is"
        self.loadable = kind is Executor
        self._names = [f"{side}_{k}" for side in ("old", "new") for k in range(cut.pairs)]
        self._executor = kind(proto)

    def run(self, feeds: dict[str, Array]) -> tuple[list[Array], list[Array]]:
        found = self._executor.run(feeds, self._names)
        half = len(found) // 2
        return found[:half], found[half:]


def save_reproducer(verdict: Verdict, folder: Path, name: str) -> Path:
    """Write ``NAME.onnx`` (outputs ``old_k`` and ``new_k`` should agree) and ``NAME.npz`` (its inputs)."""
    folder.mkdir(parents=True, exist_ok=True)
    assert verdict.cut is not None
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    model, data = folder / f"{safe}.onnx", folder / f"{safe}.npz"
    model.write_bytes(verdict.cut.SerializeToString())
    np.savez(data, allow_pickle=False, **verdict.feeds)
    return model
