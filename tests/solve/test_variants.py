import mixing
import numpy as np
import onnx_ir
from mixing import context, make_variant, network, variants

from whet.ir.execute import Executor
from whet.passes.registry import parse_passes
from whet.solve.grafting import Grafter

STATIC = "quantize-static{prefer=size}"


def outputs(model: onnx_ir.Model) -> np.ndarray:
    return Executor(onnx_ir.to_proto(model)).run(context().held_out[0])[0]


def test_every_site_has_a_piece_and_its_damage() -> None:
    four, two = variants()
    assert list(four.pieces) == ["MatMul_0", "MatMul_2", "MatMul_4"]
    assert set(four.damage) == set(four.pieces)
    assert [p.old for part in two.pieces.values() for p in part] == ["a", "c", "y"]


def test_a_piece_goes_back_to_values_of_the_original() -> None:
    (piece,) = variants()[0].pieces["MatMul_2"]
    assert set(piece.reads.values()) == {"b"}
    assert piece.nodes[-1].op_type == "MatMul"


def test_a_site_that_swallows_its_relu_keeps_its_name() -> None:
    variant = make_variant(network(), parse_passes(STATIC)[0], context())
    assert {name: [p.old for p in part] for name, part in variant.pieces.items()} == {
        "MatMul_0": ["b"],
        "MatMul_2": ["d"],
        "MatMul_4": ["y"],
    }
    reads = [set(p.reads.values()) for part in variant.pieces.values() for p in part]
    assert reads == [{"x"}, {"b"}, {"d"}]


def test_all_pieces_of_a_variant_together_are_what_the_pass_makes() -> None:
    from whet.passes.pipeline import Pipeline

    for text in (*mixing.STEPS.split(",quantize-codebooks{bits=2")[:1], STATIC):
        (step,) = parse_passes(text)
        variant = make_variant(network(), step, context())
        pieces = [p for part in variant.pieces.values() for p in part]
        whole, _ = Pipeline((step,)).run(network(), context())
        np.testing.assert_array_equal(outputs(Grafter(network()).replace(pieces)), outputs(whole))


def test_a_pass_that_finds_nothing_says_why() -> None:
    (step,) = parse_passes("quantize-codebooks{minimum=100000}")
    variant = make_variant(network(), step, context())
    assert not variant.pieces
    assert "fewer than 100000" in variant.nothing
