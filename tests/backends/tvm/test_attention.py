"""Attention block by block: factors of a bias, sizes that no tile divides, masks of all kinds."""

from pathlib import Path

import numpy as np
import pytest
from tvm_models import both, draw, parsed, same

from whet.backends.tvm.machine import find_machine
from whet.backends.tvm.processor import Processor


@pytest.mark.parametrize(("queries", "keys", "size", "width", "rank", "options"), [
    (37, 37, 16, 16, 1, ""),
    (50, 131, 24, 20, 8, ""),
    (130, 300, 8, 33, 3, ""),
    (261, 261, 16, 16, 8, ", is_causal = 1"),
    (1, 530, 8, 8, 2, ""),
])  # fmt: skip
def test_factors_of_a_bias(
    tmp_path: Path, queries: int, keys: int, size: int, width: int, rank: int, options: str
) -> None:
    text = f"""(float[2,3,{queries},{size}] q, float[2,3,{keys},{size}] k, float[2,3,{keys},{width}] v,
        float[2,3,{queries},{rank}] left, float[1,3,1,{rank}] right) => (float[2,3,{queries},{width}] y) {{
        p = Mul(q, c)
        r = Expand(right, s)
        a = Concat <axis = -1> (left, p)
        b = Concat <axis = -1> (r, k)
        y = Attention <scale = 1.0{options}> (a, b, v)
    }}"""
    shape = np.array([2, 3, keys, 1], np.int64)
    model = parsed(text, {"c": np.float32([size**-0.5]), "s": shape})
    feeds = {v.name: draw(*v.shape, seed=k) for k, v in enumerate(model.graph.inputs)}
    same(model, tmp_path, {name: feeds[name] for name in ("q", "k", "v", "left", "right")})


def test_the_kernel_reads_factors_where_they_are(tmp_path: Path) -> None:
    text = """(float[1,2,40,16] q, float[1,2,40,16] k, float[1,2,40,16] v) => (float[1,2,40,16] y) {
        a = Concat <axis = -1> (empty, left, q)
        b = Concat <axis = -1> (empty, right, k)
        y = Attention <scale = 0.25> (a, b, v)
    }"""
    weights = {"left": draw(1, 2, 40, 5), "right": draw(1, 2, 40, 5, seed=1)}
    model = parsed(text, weights | {"empty": np.zeros((1, 2, 40, 3), np.float32)})
    same(model, tmp_path, {name: draw(1, 2, 40, 16, seed=k) for k, name in enumerate("qkv")})
    with np.load(tmp_path / "model.npz") as stored:
        assert sorted(stored[name].shape for name in stored.files) == [(1, 2, 40, 5)] * 2
    assert b"concat" not in (tmp_path / "model.so").read_bytes()


@pytest.mark.parametrize(("options", "mask"), [
    ("is_causal = 1", ""),
    ("softcap = 5.0", "bool[1,2,70,301]"),
    ("scale = 0.3, is_causal = 1", "float[1,1,70,301]"),
    ("scale = 0.3", "float[2,1,70,301]"),
])  # fmt: skip
def test_more_keys_than_a_block_and_masks(tmp_path: Path, options: str, mask: str) -> None:
    text = f"""(float[2,2,70,8] q, float[2,1,301,8] k, float[2,1,301,8] v{f", {mask} m" if mask else ""})
        => (float[2,2,70,8] y) {{ y = Attention <{options}> (q, k, v{", m" if mask else ""}) }}"""
    model = parsed(text)
    feeds = {v.name: draw(*v.shape, seed=k) for k, v in enumerate(model.graph.inputs)}
    if mask.startswith("bool"):
        feeds["m"] = feeds["m"] > 0
        feeds["m"][..., -1] = True
        feeds["m"][..., :260] = False
    elif mask:
        feeds["m"][..., 5:290] = -np.inf
    same(model, tmp_path, feeds)


def test_a_query_that_sees_no_key_is_zero(tmp_path: Path) -> None:
    text = """(float[1,1,20,8] q, float[1,1,300,8] k, float[1,1,300,8] v, bool[1,1,20,300] m)
        => (float[1,1,20,8] y) { y = Attention(q, k, v, m) }"""
    model = parsed(text)
    feeds = {v.name: draw(*v.shape, seed=k) for k, v in enumerate(model.graph.inputs)}
    feeds["m"] = np.ones((1, 1, 20, 300), bool)
    feeds["m"][0, 0, 3] = False
    (found,), (expected,) = both(model, tmp_path, feeds)
    assert not found[0, 0, 3].any()
    rest = np.arange(20) != 3
    np.testing.assert_allclose(found[0, 0, rest], expected[0, 0, rest], rtol=2e-4, atol=2e-5)


def test_sums_stay_in_registers() -> None:
    from whet.backends.tvm.api import tirx
    from whet.backends.tvm.kernels.attention import Heads, Piece, Sizes, attention

    machine = find_machine(Processor("sapphirerapids", "x86_64-linux-gnu", "", 2))
    heads = Heads((1, 2, 512, 64), (65536, 32768, 64))
    sizes = Sizes(1, 2, 1, 512, 512, 64, 64, 0.125)
    made = attention(sizes, (Piece(heads, 64),), (Piece(heads, 64),), heads, heads, machine)
    library = tirx.build(made, target=machine.target())
    text = library.inspect_source("asm")
    pushed = [line for line in text.splitlines() if "zmm" in line and "(%rsp)" in line]
    assert text.count("vfmadd") > 50
    assert len(pushed) < 12, pushed
