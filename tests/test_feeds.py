"""What people have at hand becomes arrays by input."""

import collections

import numpy as np
import pytest
from folding import build

from whet.compiler import compile
from whet.errors import UsageError
from whet.feeds import read_array, read_feeds

A, B = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
NAMES = ["a", "b"]


@pytest.fixture(scope="module")
def artifact():
    model = build("(float[N,3] a, float[N,3] b) => (float[N,3] y) { y = Sub(a, b) }", {})
    return compile(model, recipe="exact", measure=False)


def calls(torch):
    a, b = torch.from_numpy(A).requires_grad_(), torch.nn.Parameter(torch.from_numpy(B))
    yield (A, B), {}
    yield ([A, B],), {}
    yield ((A, B),), {}
    yield ({"a": A, "b": B},), {}
    yield (collections.UserDict(a=A, b=B),), {}
    yield (), {"a": A, "b": B}
    yield (A,), {"b": B}
    yield ({"a": A},), {"b": B}
    yield (a, b), {}
    yield ({"a": a, "b": b},), {}
    yield (), {"b": b, "a": a}
    yield (a[:, :], b.T.contiguous().T), {}


def test_all_ways_to_run(artifact) -> None:
    torch = pytest.importorskip("torch")
    for given, named in calls(torch):
        (y,) = artifact.run(*given, **named)
        assert np.array_equal(y, A - B)


@pytest.mark.parametrize(
    ("given", "named", "said"),
    [
        ((A, A, A), {}, "3 arrays given, the model has inputs"),
        ((A, B), {"b": B}, "inputs .'b'. are given twice"),
        ((A,), {}, "missing .'b'."),
        ((), {"a": A, "b": B, "c": B}, "unknown .'c'."),
        ((A, B.astype(np.float64)), {}, "dtype float64 of 'b' does not match float32"),
    ],
)
def test_what_does_not_fit_is_named(artifact, given, named, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        artifact.run(*given, **named)


def test_halves_of_torch_keep_their_bits() -> None:
    torch = pytest.importorskip("torch")
    values = torch.linspace(-3, 3, 12).reshape(3, 4)
    for kind in (torch.float16, torch.bfloat16):
        found = read_array(values.to(kind).T)
        assert found.dtype.name == str(kind).removeprefix("torch.")
        assert np.array_equal(found.astype(np.float32), values.to(kind).T.float().numpy())


def test_numbers_and_lists_become_arrays() -> None:
    assert read_feeds((), {"a": [[1.0, 2.0]]}, NAMES)["a"].shape == (1, 2)
    assert read_feeds((3,), {}, NAMES)["a"].shape == ()
