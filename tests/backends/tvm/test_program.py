"""The C program of an artifact, on this machine: what it computes, what it refuses, and the tables that it reads."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
from cross import execute
from tvm_models import draw, parsed

from whet.backends.base import find_target
from whet.backends.tvm.program import header, makefile

MODEL = """(float[2,3] x, int64[2] "a b") => (float[2,3] y, bool[2] z, float16[2] h, int64 n) {
    y = Exp (x)
    zero = Constant <value_ints = [0, 0]> ()
    z = Greater ("a b", zero)
    h = Cast <to = 10> ("a b")
    n = ReduceMax <keepdims = 0> ("a b")
}"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in ("gcc", "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = tmp_path_factory.mktemp("program")
    spec = importlib.util.find_spec("tvm")
    assert spec is not None
    assert spec.origin is not None
    target, fixed = find_target("tvm").settle(parsed(MODEL.replace('"a b"', "ab")), {}, {}, 0)
    target.lower(fixed, folder)
    execute("make", "-C", folder, "run", f"TVM={Path(spec.origin).parents[1]}", "CC=gcc -Werror")
    return folder


def test_it_runs_what_is_stored_and_other_inputs(built: Path, tmp_path: Path) -> None:
    lines = execute(built / "run", built).splitlines()
    assert [line.split(":")[0] for line in lines] == ["y", "z", "h", "n"]
    x, ab = draw(2, 3, seed=5), np.array([-3, 7])
    np.savez(tmp_path / "in.npz", x=x, ab=ab)
    execute(built / "run", built, tmp_path / "in.npz", tmp_path / "out")
    y, z, h, n = (np.load(tmp_path / f"out{k}.npy") for k in range(4))
    np.testing.assert_allclose(y, np.exp(x), rtol=1e-5)
    np.testing.assert_array_equal(z, [False, True])
    np.testing.assert_array_equal(h, np.array([-3, 7], np.float16))
    assert (n.shape, n.dtype, int(n)) == ((), np.int64, 7)


@pytest.mark.parametrize("wrong", [1.5, np.nan], ids=["off", "nan"])
def test_what_is_wrong_shows_in_its_status(built: Path, tmp_path: Path, wrong: float) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built, copy)
    with np.load(built / "check.npz") as stored:
        arrays = dict(stored)
    arrays["y0"] = arrays["y0"].copy()
    arrays["y0"][0, 1] *= wrong
    np.savez(copy / "check.npz", **arrays)
    execute(copy / "run", copy, status=1)


def test_inputs_that_do_not_fit_are_refused(built: Path, tmp_path: Path) -> None:
    x, ab = draw(2, 3), np.array([1, 2])
    cases = {
        "'ab' is missing": {"x": x},
        "compiled for: x": {"x": x.astype(np.float64), "ab": ab},
        "compiled for: ab": {"x": x, "ab": ab[:1]},
        "row by row": {"x": np.asfortranarray(x), "ab": ab},
    }
    for words, arrays in cases.items():
        np.savez(tmp_path / "in.npz", **arrays)
        assert words in execute(
            built / "run", built, tmp_path / "in.npz", tmp_path / "out", status=2
        )
    np.savez_compressed(tmp_path / "in.npz", x=x, ab=ab)
    said = execute(built / "run", built, tmp_path / "in.npz", tmp_path / "out", status=2)
    assert "without compression" in said
    whole = (built / "check.npz").read_bytes()
    (tmp_path / "in.npz").write_bytes(whole[: len(whole) // 3])
    execute(built / "run", built, tmp_path / "in.npz", tmp_path / "out", status=2)
    assert "cannot be read" in execute(built / "run", built, tmp_path / "no.npz", "y", status=2)


def test_names_are_escaped_and_tables_never_empty() -> None:
    text = header([], [{"name": 'a"\\\né?', "dtype": "float16", "shape": []}], 1e-3)
    assert "INPUTS = 0, OUTPUTS = 1" in text
    assert "inputs[] = {\n    {0},\n}" in text
    assert r'{"a\042\134\012\303\251\077", "<f2", 0, {0}}' in text


def test_the_program_is_built_by_a_compiler_of_c() -> None:
    assert "\nCC = aarch64-linux-gnu-gcc\n" in makefile("aarch64-linux-gnu-gcc")
    assert "\nCC = cc\n" in makefile("g++")
