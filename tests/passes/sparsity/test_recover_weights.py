import numpy as np
import onnx_ir
from sparsifying import bench_of, network, samples, targets_of

from whet.ir.execute import Executor
from whet.passes.sparsity.recover_weights import recover
from whet.passes.sparsity.targets import with_weights


def outputs(model: onnx_ir.Model) -> np.ndarray:
    return Executor(onnx_ir.to_proto(model)).run(samples(1, seed=5)[0])[0]


def test_updates_are_judged_on_data_held_out_and_lower_the_error_of_the_whole() -> None:
    model = network()
    work = bench_of(model)
    targets = targets_of(work)
    rng = np.random.default_rng(0)
    masks = {t.name: rng.random(t.matrix.shape) < 0.6 for t in targets}
    start = {t.name: np.where(masks[t.name], t.matrix, np.float32(0)) for t in targets}
    pruned = with_weights(model, targets, start)
    plain = outputs(pruned)
    found = recover(model, pruned, targets, start, masks, work.context)
    assert set(found) == {"u", "v"}
    for target in targets:
        result = found[target.name]
        assert result.kept
        assert result.after < result.before
        assert not result.matrix[~masks[target.name]].any()
    assert found["u"].bias is not None
    assert found["v"].bias is None
    wanted = outputs(model)
    assert np.linalg.norm(outputs(pruned) - wanted) < 0.8 * np.linalg.norm(plain - wanted)


def test_what_is_best_already_stays() -> None:
    model = network()
    work = bench_of(model)
    targets = targets_of(work)
    masks = {t.name: np.ones(t.matrix.shape, np.bool) for t in targets}
    start = {t.name: t.matrix for t in targets}
    found = recover(model, with_weights(model, targets, start), targets, start, masks, work.context)
    for target in targets:
        assert np.allclose(found[target.name].matrix, target.matrix, atol=1e-3)
        assert found[target.name].before < 1e-9
