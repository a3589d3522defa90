"""Every layer of a result on one line."""

import numpy as np
from folding import build

from whet.advice import advise
from whet.layers import list_layers
from whet.passes.base import Coverage, Damage
from whet.passes.pipeline import Step

TEXT = "(float[N,4] x) => (float[N,2] y) { a = MatMul (x, w1) y = MatMul (a, w2) }"
W1 = np.eye(4, dtype=np.float32)
W2 = np.ones((4, 2), np.float32)


def model():
    made = build(TEXT, {"w1": W1, "w2": W2})
    for node, name in zip(made.graph, ("first", "second"), strict=True):
        node.name = name
    return made


def step(*damage: Damage, name: str = "quantize", reverted: str = "") -> Step:
    coverage = Coverage(damage=list(damage))
    return Step(name, "lossy", "", coverage, reverted=reverted)


def test_what_was_left_alone_is_listed_with_its_zeros_and_the_reason() -> None:
    lossy = step()
    lossy.coverage.declined = {"second": "too small"}
    first, second = list_layers(model(), [lossy], [], None)
    assert (first.site, first.format, first.bits, first.sparsity) == ("first", "float", 32, 0.75)
    assert (first.error, first.why, first.bytes_after) == (None, "", 64)
    assert (second.sparsity, second.why) == (0.0, "quantize: too small")


def test_what_was_changed_comes_first_by_loss_with_its_place_in_the_list() -> None:
    steps = [
        step(Damage("first", "int8", 0.1, 64, 16), Damage("second", "4 bits", 0.2, 32, 4, rank=3))
    ]
    rows = list_layers(model(), steps, advise(steps, "auto"), None)
    assert [(r.site, r.format, r.bits, r.rank) for r in rows] == [
        ("second", "4 bits", 4, 3),
        ("first", "int8", 8, None),
    ]
    assert [r.revert for r in rows] == [1, 2]
    assert rows[0].avoided is not None
    assert abs(rows[0].avoided - 0.8) < 1e-9
    assert abs((rows[1].sqnr or 0) - 20) < 1e-9


def test_what_was_taken_back_is_as_it_was() -> None:
    rows = list_layers(
        model(), [step(Damage("first", "int8", 0.1, 64, 16), reverted="slower")], [], None
    )
    assert [r.format for r in rows] == ["float", "float"]


def test_weights_that_a_lossy_pass_made_are_no_layers_of_their_own() -> None:
    made = model()
    made.graph[1].metadata_props["whet.from"] = "quantize:third"
    rows = list_layers(made, [step(Damage("third", "rank 2", 0.1, 64, 16))], [], None)
    assert [r.site for r in rows] == ["third", "first"]


def test_a_site_has_the_name_that_the_search_gave_it() -> None:
    made = model()
    made.graph[0].metadata_props["whet.from"] = "apply-plan:relu,conv"
    search = {"decisions": [{"site": "conv"}]}
    (row, *_) = list_layers(made, [step(Damage("relu", "int8", 0.1, 64, 16))], [], search)
    assert row.site == "conv"
