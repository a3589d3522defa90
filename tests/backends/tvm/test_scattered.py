"""Zeros that lie anywhere: the kernel at sizes that nothing divides, what follows it, and when it is chosen."""

import math
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from tvm_models import draw, parsed, same

from whet.backends.facts import observe
from whet.backends.tvm.api import tvm
from whet.backends.tvm.emission import emit
from whet.backends.tvm.epilogue import Ending
from whet.backends.tvm.kernels.scattered import Cut, cut_numbers, gather_numbers, scattered
from whet.backends.tvm.machine import Machine, find_machine
from whet.backends.tvm.operators.dense import choose
from whet.backends.tvm.processor import Processor

WIDE = Machine("skylake-avx512", threads=2, lanes=16, registers=32)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return find_machine(Processor("", "", "", 2))


def thinned(inputs: int, outputs: int, zeros: float, seed: int = 0) -> np.ndarray:
    """Return a matrix with that share of zeros, anywhere."""
    keep = np.random.default_rng(seed + 9).random((inputs, outputs)) >= zeros
    return draw(inputs, outputs, seed=seed) * keep


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize(("rows", "inputs", "outputs", "zeros", "vectors", "ways", "threads"), [
    (1, 5, 3, 0.5, 1, 4, 2),
    (33, 16, 64, 0.9, 2, 2, 3),
    (70, 37, 100, 0.7, 2, 1, 2),
    (128, 48, 17, 0.97, 1, 2, 2),
    (97, 20, 40, 1.0, 3, 2, 2),
])  # fmt: skip
def test_sizes_that_nothing_divides(
    machine: Machine, lanes: int, rows: int, inputs: int, outputs: int, zeros: float,
    vectors: int, ways: int, threads: int,
) -> None:  # fmt: skip
    matrix = thinned(inputs, outputs, zeros)
    matrix[:, 1] = 0
    cut = Cut(vectors, ways, lanes)
    numbers = gather_numbers(matrix, cut)
    shapes = ((rows, inputs), (rows, outputs))
    made = scattered(shapes, cut, numbers.values.size, Ending(), threads)
    module = tvm.IRModule({"main": made.with_attr("global_symbol", "main")})
    built = tvm.compile(module, target=machine.target())
    x, got = draw(rows, inputs, seed=2), tvm.runtime.tensor(np.full(shapes[1], 7, np.float32))
    given = (x, numbers.values, numbers.places, numbers.starts)
    built["main"](*map(tvm.runtime.tensor, given), got)
    np.testing.assert_allclose(got.numpy(), x @ matrix, rtol=1e-4, atol=1e-5)


def test_each_number_is_stored_once() -> None:
    matrix = thinned(30, 21, 0.8)
    numbers = gather_numbers(matrix, Cut(2, 2, 8))
    back = np.zeros((30, 24), np.float32)
    for output in range(24):
        steps = slice(2 * numbers.starts[output], 2 * numbers.starts[output + 1])
        np.add.at(back[:, output], numbers.places[steps] // 16, numbers.values[steps])
    np.testing.assert_array_equal(back[:, :21], matrix)
    assert not back[:, 21:].any()
    assert numbers.values.size < np.count_nonzero(matrix) + 22


@pytest.mark.parametrize("outputs", [160, 171])
def test_bias_activation_and_residual(tmp_path: Path, outputs: int) -> None:
    text = f"""(float[67,96] x, float[67,{outputs}] r) => (float[67,{outputs}] y) {{
        h = Gemm(x, w, c)
        g = Gelu(h)
        y = Sub(r, g)
    }}"""
    model = parsed(text, {"w": thinned(96, outputs, 0.95), "c": draw(outputs, seed=1)})
    assert "scattered" in kernels(model, {"x": draw(67, 96), "r": draw(67, outputs)})
    same(model, tmp_path, {"x": draw(67, 96), "r": draw(67, outputs)})


@pytest.mark.parametrize(("wide", "kernel"), [(1, "scattered"), (16, "sparse")])
def test_convolutions_of_one_pixel(tmp_path: Path, wide: int, kernel: str) -> None:
    text = """(float[2,64,9,11] x, float[2,256,9,11] r) => (float[2,256,9,11] y) {
        h = Conv(x, w, b)
        a = Relu(h)
        y = Add(a, r)
    }"""
    keep = np.random.default_rng(3).random((256 // wide, 64)) >= (0.96 if wide == 1 else 0.8)
    weight = (draw(256, 64) * np.repeat(keep, wide, axis=0)).reshape(256, 64, 1, 1)
    model = parsed(text, {"w": weight, "b": draw(256, seed=1)})
    feeds = {"x": draw(2, 64, 9, 11), "r": draw(2, 256, 9, 11, seed=4)}
    assert kernel in kernels(model, feeds)
    same(model, tmp_path, feeds)


def kernels(model: onnx_ir.Model, feeds: dict[str, np.ndarray]) -> set[str]:
    """Return the names of a module's functions."""
    module = emit(observe(model, feeds, 0), WIDE).module
    return {v.name_hint for v in module.get_global_vars()}


@pytest.mark.parametrize(("rows", "zeros", "chosen"), [
    (128, 0.95, True), (128, 0.9, True), (128, 0.3, False), (128, 0.55, False), (2, 0.95, False), (1, 0.95, False),
])  # fmt: skip
def test_it_is_chosen_where_it_pays(rows: int, zeros: float, chosen: bool) -> None:
    assert isinstance(choose(thinned(256, 512, zeros), rows, WIDE), Cut) == chosen


@pytest.mark.parametrize(("zeros", "kind"), [(0.9, Cut), (0.6, type(None))])
def test_few_rows_wait_for_what_is_stored(zeros: float, kind: type) -> None:
    """A block for nearly every input stores as much as the dense kernel, and takes as long to arrive."""
    assert isinstance(choose(thinned(768, 3072, zeros), 1, WIDE), kind)


def test_rows_that_do_not_stay_near_are_left_alone() -> None:
    cost, _ = cut_numbers(np.zeros((1 << 17, 1), np.float32), 64, WIDE)
    assert cost == math.inf
