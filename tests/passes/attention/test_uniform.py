import numpy as np
import pytest
from folding import build

from whet.passes.attention.uniform import uniform

CONSTANTS = {"two": np.float32([2, 2]), "mixed": np.float32([2, 3]), "yes": np.array([True])}
CASES = {
    "constant": ("Identity(two)", 2.0),
    "mixed": ("Identity(mixed)", None),
    "input": ("Identity(x)", None),
    "sum": ("Add(two, two)", 4.0),
    "difference": ("Sub(two, two)", 0.0),
    "half-known": ("Add(two, x)", None),
    "negative": ("Neg(two)", -2.0),
    "not": ("Not(yes)", False),
    "and-unknown": ("And(yes, c)", None),
    "or-unknown": ("Or(yes, c)", True),
    "cast": ("Cast<to=9>(two)", True),
    "cast-rounds": ("Cast<to=6>(two)", None),
    "equal": ("Equal(two, two)", True),
    "less": ("Less(two, two)", False),
    "where": ("Where(yes, two, x)", 2.0),
    "where-unknown": ("Where(c, two, x)", None),
    "unary": ("Exp(two)", None),
}


@pytest.mark.parametrize("case", CASES)
def test_uniform(case: str) -> None:
    text, expected = CASES[case]
    used = {name: array for name, array in CONSTANTS.items() if name in text}
    model = build(
        f"(float[2] x, bool[2] c) => (int64[1] y) {{ t = {text} y = Shape(t) }}", used, 23
    )
    seen: list = []
    found = uniform(model.graph[0].outputs[0], seen)
    assert found == expected
    assert type(found) is type(expected)
