"""The graph of a result as data."""

import numpy as np
import pytest
from folding import build

from whet.drawing import graph_record


def test_nodes_name_their_maker_and_edges_point_onwards() -> None:
    model = build(
        "(float[N,2] x) => (float[N,2] y) { a = Relu (x) b = Relu (a) y = Add (a, b) }",
        {"w": np.ones(2, np.float32)},
    )
    model.graph[1].name = "second"
    model.graph[1].metadata_props["whet.from"] = "fold:one,two"
    found = graph_record(model)
    assert found is not None
    assert [node[0] for node in found["nodes"]] == ["Relu", "Relu", "Add"]
    assert found["nodes"][1] == ["Relu", "second", "fold", "one,two"]
    assert found["edges"] == [[0, 1], [0, 2], [1, 2]]


def test_a_graph_that_nobody_could_read_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whet.drawing._LIMIT", 2)
    text = "(float[N,2] x) => (float[N,2] y) { a = Relu (x) b = Relu (a) y = Relu (b) }"
    assert graph_record(build(text, {})) is None
