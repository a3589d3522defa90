"""Every schedule that a kernel may get computes what the usual one does."""

from collections.abc import Iterator

import numpy as np
import pytest
from tvm_models import parsed

from whet.backends.facts import observe
from whet.backends.tvm.api import tvm
from whet.backends.tvm.building import fuse
from whet.backends.tvm.emission import emit
from whet.backends.tvm.epilogue import Ending
from whet.backends.tvm.kernels.convolution import Axis, Window
from whet.backends.tvm.machine import Machine, find_machine
from whet.backends.tvm.processor import Processor
from whet.backends.tvm.schedules import Schedule, Schedules, read, spell
from whet.backends.tvm.works.dense import Dense
from whet.backends.tvm.works.depthwise import Depthwise
from whet.backends.tvm.works.windowed import Windowed
from whet.backends.tvm.works.work import Packing, Work, tiles

LINE = Axis(9, 5, 3, 2, 1, 1)
PLAIN = Axis(6, 6, 3, 1, 1, 1)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return find_machine(Processor("", "", "", 2))


def computed(work: Work, schedule: Schedule, machine: Machine) -> np.ndarray:
    function = work.function(schedule).with_attr("global_symbol", "main")
    built = tvm.compile(tvm.IRModule({"main": function}), target=machine.target())
    operands = work.packed(work.operands(np.random.default_rng(0)), schedule)
    shape, dtype = work.result
    result = tvm.runtime.tensor(np.full(shape, 7, dtype))
    built["main"](*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in operands), result)
    return result.numpy()


def variants(work: Work, step: int = 1) -> Iterator[Schedule]:
    """Yield each member of each group, and the last ones of all groups together."""
    together = dict(work.usual())
    for group in work.groups():
        for part in group[::step]:
            yield {**work.usual(), **part}
        together |= group[-1]
    yield together


def check(work: Work, machine: Machine, step: int = 1) -> None:
    want = computed(work, work.usual(), machine)
    names = work.usual().keys()
    for schedule in variants(work, step):
        assert schedule.keys() == names
        assert read(spell(schedule)) == schedule
        got = computed(work, schedule, machine)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=spell(schedule))


def test_products(machine: Machine) -> None:
    check(Dense((13, 300), 50, Ending(), machine), machine, 2)
    check(Dense((1, 7), 5, Ending(), machine), machine, 3)


@pytest.mark.parametrize("groups", [1, 2])
def test_windows(machine: Machine, groups: int) -> None:
    check(Windowed(Window(1, LINE, PLAIN, 6, 40, groups), Ending(), machine), machine, 3)


def test_filters_for_each_channel(machine: Machine) -> None:
    check(Depthwise(Window(1, PLAIN, LINE, 19, 19, 19), Ending(), machine), machine)


def test_the_usual_product_is_right(machine: Machine) -> None:
    work = Dense((13, 300), 50, Ending(), machine)
    x, w = work.operands(np.random.default_rng(0))
    found = computed(work, work.usual(), machine)
    np.testing.assert_allclose(found, x @ w, rtol=1e-4, atol=1e-4)


def test_chains(machine: Machine) -> None:
    text = """(float[40,64] x, float[64] c) => (float[64,40] y, float[40,1] s) {
        a = Mul(x, c)
        b = Sigmoid(a)
        y = Transpose <perm = [1, 0]> (b)
        s = ReduceSum <keepdims = 1> (x, k)
    }"""
    facts = observe(parsed(text, {"k": np.array([1], np.int64)}), {}, 0)
    schedules = Schedules()
    fuse(emit(facts, machine, schedules).module, machine, schedules)
    assert len(schedules.works) >= 2
    assert all(work.key.startswith("chain ") for work in schedules.works.values())
    for work in schedules.works.values():
        check(work, machine)


def test_equal_work_has_one_key(machine: Machine) -> None:
    text = """(float[4,8] x) => (float[4,8] y) {
        a = MatMul(x, v)
        b = MatMul(a, w)
        y = MatMul(b, u)
    }"""
    draw = np.random.default_rng(0)
    weights = {name: draw.standard_normal((8, 8)).astype(np.float32) for name in "uvw"}
    schedules = Schedules()
    emit(observe(parsed(text, weights), {}, 0), machine, schedules)
    assert schedules.calls == {"dense 4x8x8": 3}


def test_tiles_fit_into_registers() -> None:
    for lanes, registers in ((4, 16), (8, 16), (16, 32)):
        machine = Machine(lanes=lanes, registers=registers)
        found = tiles(100, 300, machine)
        assert all(rows * vectors + vectors <= registers for rows, vectors in found)
        assert len(found) == len(set(found))
        work = Windowed(Window(1, PLAIN, PLAIN, 8, 300), Ending(), machine)
        for part in work.groups()[0]:
            sums = part["wide"] * part["high"] * part["vectors"]
            assert sums + part["vectors"] <= registers
        assert isinstance(work, Packing)
