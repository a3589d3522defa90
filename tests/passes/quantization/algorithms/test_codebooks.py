import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.passes.quantization.algorithms.approximation import Layer
from whet.passes.quantization.algorithms.codebooks import (
    choose_rows,
    even,
    half_tables,
    lean,
    lean_rows,
    refit,
    squeeze,
)
from whet.passes.quantization.algorithms.gptq import gptq
from whet.passes.quantization.algorithms.rounding import round_to_nearest, row_errors


def layer(seed: int = 0, outputs: int = 12, inputs: int = 40, *, rows: int = 200) -> Layer:
    """Return heavy-tailed weights with inputs of different sizes that move together."""
    rng = np.random.default_rng(seed)
    mix = np.diag(rng.lognormal(0, 1, inputs)) + 0.3 * rng.standard_normal((inputs, inputs))
    x = rng.standard_normal((rows, inputs)) @ mix
    weights = (rng.standard_t(4, (outputs, inputs)) * 0.05).astype(np.float32)
    return Layer(weights, x.T @ x / rows)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), bits=st.integers(2, 4), few=st.booleans(), seen=st.booleans())
def test_nothing_is_worse_than_rounding_to_the_nearest(
    seed: int, bits: int, few: bool, seen: bool
) -> None:
    given_ = layer(seed, rows=9 if few else 200)
    given_ = given_ if seen else dataclasses.replace(given_, gram=None)
    plain = min(
        given_.error(round_to_nearest(given_, bits, symmetric=symmetric, clip=clip))
        for symmetric in (True, False)
        for clip in ("extremes", "mse")
    )
    found = [even(given_, bits), squeeze(given_, bits)]
    if seen:
        found += [lean(given_, bits), refit(given_, lean(given_, bits))]
    for book in found:
        assert book.table.shape == (12, 2**bits)
        assert given_.error(book) <= plain * (1 + 1e-6)


@pytest.mark.parametrize("bits", [2, 3])
def test_the_published_order(bits: int) -> None:
    given_ = layer(1, 32, 96, rows=600)
    by = {
        "rtn": given_.error(round_to_nearest(given_, bits)),
        "gptq": given_.error(gptq(given_, bits)),
        "squeeze": given_.error(squeeze(given_, bits)),
        "lean": given_.error(lean(given_, bits)),
        "refit": given_.error(refit(given_, lean(given_, bits))),
    }
    assert by["refit"] <= by["lean"] < by["gptq"] < by["rtn"]
    assert by["lean"] < by["squeeze"] < by["rtn"]


def test_fisher_information_decides_where_it_is_there() -> None:
    rng = np.random.default_rng(4)
    fisher = rng.gamma(0.3, 1, (12, 40))
    plain = dataclasses.replace(layer(2), gram=None)
    found = squeeze(dataclasses.replace(plain, fisher=fisher), 3)

    def cost(values: np.ndarray) -> float:
        return float((fisher * (values - plain.weights) ** 2).sum())

    assert cost(found.values()) < cost(squeeze(plain, 3).values())


def test_a_fisher_information_that_misleads_is_not_followed_into_a_worse_layer() -> None:
    given_ = layer(5)
    useless = np.full((12, 40), 1e-12)
    useless[:, 7] = 1.0
    found = squeeze(dataclasses.replace(given_, fisher=useless), 3)
    assert given_.error(found) <= given_.error(even(given_, 3))


def test_every_row_comes_from_where_it_is_best() -> None:
    given_ = layer(6)
    first, second = even(given_, 3), squeeze(given_, 3)
    choice = choose_rows(given_, {"rtn": first, "squeeze": second})
    errors = [row_errors(given_.weights, b.values(), given_.gram) for b in (first, second)]
    found = row_errors(given_.weights, choice.codebook.values(), given_.gram)
    assert np.allclose(found, np.minimum(*errors))
    assert sum(choice.rows.values()) == 12


def test_refit_leaves_the_indices() -> None:
    given_ = layer(7)
    book = squeeze(given_, 2)
    better = refit(given_, book)
    assert np.array_equal(better.codes, book.codes)
    assert given_.error(better) < given_.error(book)
    assert refit(dataclasses.replace(given_, gram=None), book) is book
    shared = dataclasses.replace(book, table=book.table[:1])
    assert refit(given_, shared) is shared


def test_lean_says_where_rows_come_from() -> None:
    choice = lean_rows(layer(8), 3)
    assert set(choice.rows) == {"rtn", "p=1", "p=2", "p=4"}
    assert sum(choice.rows.values()) == 12
    with pytest.raises(ValueError, match="Gram matrix"):
        lean(dataclasses.replace(layer(8), gram=None), 3)


def test_inputs_that_were_never_seen_are_no_obstacle() -> None:
    given_ = layer(9)
    assert given_.gram is not None
    gram = given_.gram.copy()
    gram[3], gram[:, 3] = 0, 0
    book = lean(dataclasses.replace(given_, gram=gram), 3)
    assert np.isfinite(book.values()).all()
    assert np.isfinite(lean(dataclasses.replace(given_, gram=gram * 0), 3).values()).all()


def test_one_bit() -> None:
    given_ = layer(10)
    assert given_.error(lean(given_, 1)) <= given_.error(even(given_, 1)) < 1.0


def test_tables_in_half_precision() -> None:
    given_ = layer(11)
    book = lean(given_, 3)
    half = half_tables(book)
    assert half.nbytes == book.nbytes - 12 * 8 * 2
    assert given_.error(half) == pytest.approx(given_.error(book), rel=1e-2)
    for scale in (1e-5, 1e6):
        beyond = dataclasses.replace(book, table=book.table * np.float32(scale))
        assert half_tables(beyond) is beyond
