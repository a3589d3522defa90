import numpy as np
import pytest
from folding import BINDINGS, build

from whet.passes.quantization.weight_readers import matched_weights
from whet.passes.sparsity import independence, recover_weights
from whet.passes.sparsity.independence import independent
from whet.passes.sparsity.recover_weights import Recovered, recover
from whet.passes.sparsity.sparsify_weights import SparsifyWeights
from whet.passes.sparsity.targets import Target, with_weights
from whet.passes.workbench import Context, Workbench

TEXT = """(float[N,8] x) => (float[N,8] y, float[N,8] z)
{ a = Gemm(x, q, b) c = MatMul(x, k) h = Mul(a, c) y = MatMul(h, v) z = MatMul(x, o) }"""


def bench() -> tuple[Workbench, list[Target]]:
    rng = np.random.default_rng(0)
    shapes = {**dict.fromkeys("qkvo", (8, 8)), "b": (8,)}
    model = build(TEXT, {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()})
    mix = rng.standard_normal((8, 8))
    data = [{"x": (rng.standard_normal((32, 8)) @ mix).astype(np.float32)} for _ in range(4)]
    work = Workbench(model, SparsifyWeights(minimum=1), Context(BINDINGS, data[:3], data[3:]))
    targets = [Target(w, np.ascontiguousarray(w.matrix())) for w in matched_weights(work)]
    return work, targets


def test_what_reads_the_same_goes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product behind others waits for them; one beside it need not."""
    _, targets = bench()
    assert [[t.name for t in run] for run in independent(targets)] == [["q", "k"], ["v", "o"]]
    assert list(independent([])) == []
    monkeypatch.setattr(independence, "_MOST_BYTES", 1)
    assert [len(run) for run in independent(targets)] == [1, 1, 1, 1]


def test_the_fit_is_that_of_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, Recovered]] = []
    for most in (1 << 29, 1):
        monkeypatch.setattr(independence, "_MOST_BYTES", most)
        work, targets = bench()
        rng = np.random.default_rng(1)
        masks = {t.name: rng.random(t.matrix.shape) < 0.6 for t in targets}
        start = {t.name: np.where(masks[t.name], t.matrix, np.float32(0)) for t in targets}
        pruned = with_weights(work.model, targets, start)
        found.append(recover(work.model, pruned, targets, start, masks, work.context))
    assert set(found[0]) == set("qkvo")
    for name, together in found[0].items():
        np.testing.assert_array_equal(together.matrix, found[1][name].matrix)
        assert (together.before, together.after) == (found[1][name].before, found[1][name].after)
    assert found[0]["q"].kept
    assert found[0]["v"].kept


def test_both_models_run_once_for_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    plain = recover_weights.observe_together

    def counting(*given):
        asked.append(given[1])
        return plain(*given)

    monkeypatch.setattr(recover_weights, "observe_together", counting)
    work, targets = bench()
    masks = {t.name: np.ones(t.matrix.shape, np.bool) for t in targets}
    start = {t.name: t.matrix for t in targets}
    recover(
        work.model, with_weights(work.model, targets, start), targets, start, masks, work.context
    )
    assert asked == [["x"], ["x"], ["h", "x"], ["h", "x"]]
