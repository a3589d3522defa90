import numpy as np
import onnx_ir
import pytest
from residual import SIZE, tokens, transformer

from whet.analysis.residual_streams import find_residual_streams
from whet.errors import Mismatch
from whet.ir.execute import Executor
from whet.passes.proposal import Builder, FreshNames
from whet.passes.residual_turn import Bases, check_stream, turned


def orthogonal(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((SIZE, SIZE)))[0]


def open_ended(norm: str) -> onnx_ir.Model:
    """Hand out the last normalized values in place of the head, and normalize the embeddings first."""
    model = transformer(2, norm=norm)
    head = model.graph.outputs[0].producer()
    last = head.inputs[0]
    model.graph.remove(head, safe=False)
    head.replace_input_with(0, None)
    model.graph.outputs[0] = last
    del model.graph.initializers["h"]
    (gather,) = [node for node in model.graph if node.op_type == "Gather"]
    first = gather.outputs[0]
    scale = onnx_ir.Value(
        name="s", const_value=onnx_ir.tensor(np.linspace(0.5, 2, SIZE, dtype=np.float32), name="s")
    )
    scale.shape, scale.type = onnx_ir.Shape([SIZE]), onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    model.graph.register_initializer(scale)
    made = onnx_ir.Node("", "RMSNormalization", [first, scale], num_outputs=1, name="front")
    made.outputs[0].name, made.outputs[0].shape, made.outputs[0].type = (
        "fronted",
        first.shape,
        first.type,
    )
    model.graph.insert_after(gather, made)
    for node, place in list(first.uses()):
        if node is not made:
            node.replace_input_with(place, made.outputs[0])
    return model


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_open_ends_are_multiplied_in_and_back(norm: str) -> None:
    before, model = open_ended(norm), open_ended(norm)
    assert all(s.obstacles for s in find_residual_streams(model.graph))
    (stream,) = find_residual_streams(model.graph, open_ends=True)
    assert [v.name for v in stream.entries] == ["fronted"]
    assert [v.name for v in stream.exits] == ["last"]
    check_stream(stream, 23, untie=False)
    build = Builder(FreshNames(model), stream.norms[0].node)
    turned(stream, Bases((orthogonal(1),)), build, model.graph).commit("test")
    (old,), (new,) = (Executor(onnx_ir.to_proto(m)).run(tokens(4, 0)) for m in (before, model))
    np.testing.assert_allclose(new, old, atol=1e-4)
    assert model.graph.outputs[0].name == "last"


def test_post_norm_stays_an_obstacle() -> None:
    streams = find_residual_streams(transformer(2, post=True).graph, open_ends=True)
    assert streams
    for stream in streams:
        with pytest.raises(Mismatch, match="the network is post-norm"):
            check_stream(stream, 23, untie=True)


def test_bases_with_fewer_columns_scale_the_normalization() -> None:
    model = transformer(1)
    (stream,) = find_residual_streams(model.graph)
    build = Builder(FreshNames(model), stream.norms[0].node)
    turned(stream, Bases((orthogonal(1)[:, :4],)), build, model.graph).commit("test")
    norms = [node for node in model.graph if node.op_type == "RMSNormalization"]
    for node in norms:
        np.testing.assert_allclose(node.inputs[1].const_value.numpy(), np.full(4, 2.0))
        assert node.attributes["epsilon"].as_float() == pytest.approx(4e-5)
