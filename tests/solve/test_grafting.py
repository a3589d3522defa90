import numpy as np
import onnx_ir
from mixing import context, network, variants

from whet.ir.execute import Executor
from whet.ir.verify import verify
from whet.solve.grafting import Grafter


def run(model: onnx_ir.Model, *names: str) -> list[np.ndarray]:
    return Executor(onnx_ir.to_proto(model)).run(context().held_out[0], names or None)


def test_pieces_of_different_variants_go_into_one_model() -> None:
    four, two = variants()
    mixed = Grafter(network()).replace([*four.pieces["MatMul_0"], *two.pieces["MatMul_4"]])
    verify(mixed)
    x = context().held_out[0]["x"]
    weights = {
        site: run(Grafter(network()).replace(v.pieces[site]))[0]
        for v, site in ((four, "MatMul_0"), (two, "MatMul_4"))
    }
    (found,) = run(mixed)
    (plain,) = run(network())
    errors = {site: np.linalg.norm(y - plain) for site, y in weights.items()}
    assert 0 < errors["MatMul_0"] < errors["MatMul_4"]
    assert np.linalg.norm(found - plain) > 0.9 * errors["MatMul_4"]
    assert len(x) == len(found)


def test_the_original_is_left_alone_and_old_weights_go() -> None:
    model = network()
    before = onnx_ir.to_proto(model).SerializeToString()
    mixed = Grafter(model).replace(variants()[0].pieces["MatMul_2"])
    assert onnx_ir.to_proto(model).SerializeToString() == before
    assert "w2" not in mixed.graph.initializers
    assert {"w1", "w3"} <= set(mixed.graph.initializers)


def test_pieces_beside_the_original_leave_its_outputs_as_they_are() -> None:
    grafter = Grafter(network())
    pieces = [p for v in variants() for part in v.pieces.values() for p in part]
    values = grafter.beside(pieces)
    grafter.model.graph.outputs.extend(values)
    verify(grafter.model)
    found = run(grafter.model)
    np.testing.assert_array_equal(found[0], run(network())[0])
    assert len(found) == 1 + len(pieces)


def test_an_output_of_the_model_keeps_its_name() -> None:
    mixed = Grafter(network()).replace(variants()[1].pieces["MatMul_4"])
    assert [v.name for v in mixed.graph.outputs] == ["y"]
