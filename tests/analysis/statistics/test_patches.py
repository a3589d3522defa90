import numpy as np
import onnx_ir
import pytest
from folding import build
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.analysis.statistics import PatchGram
from whet.analysis.statistics import patches as module
from whet.ir.execute import Executor


def convolved(array: np.ndarray, weights: np.ndarray, spelled: str) -> np.ndarray:
    sizes = ",".join(map(str, array.shape))
    free = ",".join("abcdefg"[: array.ndim])
    text = f"(float[{sizes}] x) => (float[{free}] y) {{ y = Conv<{spelled}>(x, w) }}"
    return Executor(onnx_ir.to_proto(build(text, {"w": weights}))).run({"x": array})[0]


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, PatchGram, str]:
    rank, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2]))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    strides = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    dilations = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    array = rng.standard_normal((3, 4, *(draw(st.integers(5, 6)) for _ in range(rank))))
    weights = rng.standard_normal((4, 4 // group, *kernel))
    auto = "NOTSET" if max(dilations) > 1 else draw(
        st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
    )  # fmt: skip
    pads = tuple(draw(st.integers(0, 2)) for _ in range(2 * rank)) if auto == "NOTSET" else ()
    lists = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations}
    spelled = [f"{k}=[{','.join(map(str, v))}]" for k, v in lists.items() if v]
    text = ",".join([*spelled, f"group={group}", f'auto_pad="{auto}"'])
    options = PatchGram(kernel, strides, pads, dilations, group, auto)
    return array.astype(np.float32), weights.astype(np.float32), options, text


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_patches_times_weights_is_the_convolution(
    case: tuple[np.ndarray, np.ndarray, PatchGram, str],
) -> None:
    array, weights, options, text = case
    wanted = np.moveaxis(convolved(array, weights, text), 1, -1)
    size = len(weights) // options.group
    parts = [
        rows @ weights[k * size : (k + 1) * size].reshape(size, -1).T
        for k, rows in enumerate(module.patches(array, options))
    ]
    np.testing.assert_allclose(
        np.concatenate(parts, 1), wanted.reshape(-1, len(weights)), atol=1e-4
    )


@pytest.mark.parametrize("exact", [True, False])
def test_one_matrix_a_group_whatever_the_batches(
    exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", 4000)
    array = np.random.default_rng(0).standard_normal((7, 4, 6, 6)).astype(np.float32)
    options = PatchGram((3, 3), pads=(1, 1, 1, 1), group=2, exact=exact)
    rows = [r.astype(np.float64) for r in module.patches(array, options)]
    for cuts in ((), (1, 3)):
        found = options.start()
        for part in np.split(array, cuts):
            found.add(part)
        for matrix, r in zip(found.result(), rows, strict=True):
            assert matrix.rows == 7 * 36
            np.testing.assert_allclose(
                matrix.matrix, r.T @ r / len(r), rtol=1e-9 if exact else 1e-3, atol=1e-6
            )


def test_thinned_places() -> None:
    array = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)
    (every,) = module.patches(array, PatchGram((3, 3), pads=(1, 1, 1, 1)))
    (some,) = module.patches(array, PatchGram((3, 3), pads=(1, 1, 1, 1), per_sample=8))
    assert np.array_equal(some, every.reshape(2, 36, 27)[:, ::5].reshape(-1, 27))


def test_the_statistic_of_a_node() -> None:
    text = """(float[N,4,9,9] x) => (float[N,6,h,w] y) {
        y = Conv<pads=[1,1,0,0], strides=[2,2], dilations=[1,2], group=2>(x, w) }"""
    model = build(text, {"w": np.zeros((6, 2, 3, 3), np.float32)})
    wanted = PatchGram((3, 3), (2, 2), (1, 1, 0, 0), (1, 2), 2, per_sample=9)
    assert PatchGram.of(model.graph[0], per_sample=9) == wanted
