import onnx_ir
import pytest

from whet.backends.emitters import Emitters


def nothing(_low: object, _node: onnx_ir.Node) -> None:
    """Emit nothing."""


def test_an_operator_has_one_emitter() -> None:
    emitters: Emitters[object] = Emitters("c")
    assert emitters.emits("Relu", note="float32")(nothing) is nothing
    with pytest.raises(AssertionError, match="Relu"):
        emitters.emits("Relu")(nothing)


def test_a_refusal_names_the_first_nodes_and_counts_the_rest() -> None:
    refused = Emitters[object]("c").refusal({f"Relu 'n{k}'": "no emitter" for k in range(8)})
    assert "target 'c' cannot emit 8 nodes: Relu 'n0': no emitter; " in str(refused)
    assert "n5" in str(refused)
    assert "n6" not in str(refused)
    assert "and 2 more (docs/target_c.md" in str(refused)
