import argparse

import pytest

from whet.tools.bench.sparsity import GOALS, Row, contenders, missed


def row(what: str, method: str, top1: float, divergence: float = 0.0) -> Row:
    return Row(what, method, top1, divergence, 1000, 0.5, "", 1.0)


def options(*only: str) -> argparse.Namespace:
    return argparse.Namespace(only=list(only), gradients=64)


def test_goals_and_the_order_of_methods() -> None:
    dense = Row("dense", "", 0.91, 0.0, 2000, 0.0, "", 0.0)
    good = [
        row("0.5", "magnitude", 0.86, 0.26),
        row("0.5", "Gram OBS", 0.909, 0.008),
        row("0.5", "Fisher OBS, second-order budget", 0.908, 0.004),
    ]
    assert missed([dense, *good]) == []
    low = [row("2:4", "magnitude", 0.5, 0.9), row("2:4", "Gram OBS", 0.89, 0.1)]
    assert missed([dense, *low]) == [f"2:4: the best loses 0.0200, {GOALS['2:4']} are allowed"]
    turned = [row("0.8", "magnitude", 0.86, 0.3), row("0.8", "Gram OBS", 0.85, 0.4)]
    assert missed([dense, *turned]) == ["0.8: Gram OBS diverges by 0.4000, magnitude by 0.3000"]


@pytest.mark.parametrize(
    ("what", "pattern", "share"),
    [("0.7", "unstructured", 0.7), ("2:4", "2:4", 0.5), ("4x1", "4x1", 0.5)],
)
def test_every_contender_gets_the_share(what: str, pattern: str, share: float) -> None:
    found = dict(contenders(what, options()))
    assert {step.pattern for step in found.values()} == {pattern}
    assert {step.sparsity for step in found.values()} == {share}
    assert ("Gram OBS, second-order budget" in found) == (pattern != "2:4")
    assert list(dict(contenders(what, options("magnitude")))) == ["magnitude"]
