from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from folding import build
from mixing import context, market, network

from whet.backends.onnxruntime import OnnxRuntime
from whet.passes.registry import parse_passes
from whet.solve.grafting import Grafter
from whet.solve.offers import KEEP, make_market


def test_every_site_may_be_kept_or_take_an_offer() -> None:
    found = market()
    assert [g.name for g in found.groups] == ["MatMul_0", "MatMul_2", "MatMul_4"]
    for group in found.groups:
        assert group.offers[0].label == KEEP
        assert len(group.offers) == 3
    sizes = [offer.bytes for offer in found.groups[0].offers]
    assert max(sizes[1:]) < sizes[0]
    assert len(found.pieces) == 6


def lowered(model: onnx_ir.Model, folder: Path) -> int:
    folder.mkdir()
    return sum((folder / name).stat().st_size for name in OnnxRuntime().lower(model, folder))


def test_bytes_are_what_the_file_gains(tmp_path: Path) -> None:
    found = market()
    plain = lowered(network(), tmp_path / "plain")
    for choices in ((1, 1, 1), (2, 2, 2), (0, 2, 1)):
        model = Grafter(network()).replace([c.piece for c in found.chosen(choices)])
        real = lowered(model, tmp_path / "".join(map(str, choices))) - plain
        predicted = sum(
            group.offers[k].bytes - group.offers[0].bytes
            for group, k in zip(found.groups, choices, strict=True)
        )
        assert predicted == pytest.approx(real, abs=150)


def test_losses_come_from_directions_or_else_from_errors() -> None:
    found = market()
    along = np.arange(12.0).reshape(6, 2)
    problem = found.problem(along)
    assert problem.decisions[0].options[1].loss == pytest.approx(0.5 * np.mean(along[0] ** 2))
    plain = found.problem(None)
    (row,) = found.groups[0].offers[1].damage
    assert plain.decisions[0].options[1].loss == pytest.approx(row.predicted_loss)


def test_sites_that_share_a_weight_are_one_decision() -> None:
    text = "(float[N,32] x) => (float[N,32] y) { a = MatMul (x, w) b = Relu (a) y = MatMul (b, w) }"
    w = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    model = build(text, {"w": w}, opset=21)
    for number, node in enumerate(model.graph):
        node.name = f"{node.op_type}_{number}"
    data = {"x": np.random.default_rng(1).standard_normal((64, 32)).astype(np.float32)}
    import dataclasses

    given = dataclasses.replace(context(), calibration=(data,), held_out=())
    found, idle = make_market(
        model, parse_passes("quantize-codebooks{minimum=64},quantize-static"), given
    )
    (group,) = found.groups
    assert [site.name for site in group.sites] == ["MatMul_0", "MatMul_2"]
    assert len(found.chosen([1])) == 2
    assert not idle or "quantize-static" in next(iter(idle))


def test_what_lies_between_integers_comes_with_them() -> None:
    text = """(float[N,32] x) => (float[N,8] y) {
        a = MatMul (x, w) b = MatMul (x, v) c = Add (a, b) y = MatMul (c, u) }"""
    rng = np.random.default_rng(0)
    weights = {
        k: rng.standard_normal(s).astype(np.float32)
        for k, s in {"w": (32, 16), "v": (32, 16), "u": (16, 8)}.items()
    }
    model = build(text, weights, opset=21)
    for number, node in enumerate(model.graph):
        node.name = f"{node.op_type}_{number}"
    import dataclasses

    data = {"x": rng.standard_normal((64, 32)).astype(np.float32)}
    given = dataclasses.replace(context(), calibration=(data,), held_out=())
    found, _ = make_market(model, parse_passes("quantize-static{prefer=size}"), given)
    assert [c.piece.old for c in found.chosen([1, 1, 1])] == ["a", "b", "c", "y"]
    assert [c.piece.old for c in found.chosen([1, 0, 1])] == ["a", "y"]
