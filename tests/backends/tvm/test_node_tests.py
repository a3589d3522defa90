"""ONNX's backend node tests through TVM: some for each operator; ``python -m whet.tools.sweep.nodes`` runs them all."""

import warnings
from typing import Any

import tvm_models  # skips where TVM is missing

from whet.backends.tvm.registry import registered
from whet.tools.sweep.nodes import cases, check_case

assert tvm_models
_EACH = 2
"""Tests for each operator."""


def chosen() -> list[Any]:
    """Return the first few tests of each operator that are about it alone."""
    found: dict[str, list[Any]] = {}
    for case in cases(tuple(registered())):
        kinds = {n.op_type for n in case.model.graph.node}
        if len(kinds) == 1:
            found.setdefault(kinds.pop(), []).append(case)
    return [case for group in found.values() for case in group[:_EACH]]


def test_nothing_is_wrong_and_all_operators_are_there() -> None:
    picked = chosen()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = [check_case(case, "tvm") for case in picked]
    assert {o.name: o.wrong for o in outcomes if o.wrong} == {}
    passed = [o for o in outcomes if not o.declined]
    assert len(passed) >= 0.85 * len(outcomes), [o.name for o in outcomes if o.declined]
    assert all("target 'tvm'" in o.declined for o in outcomes if o.declined)
