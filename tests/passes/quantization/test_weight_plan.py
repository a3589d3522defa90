import pytest

from whet.passes.quantization.block_forms import DECODED, INTEGERS, PACKED, PACKED_INT8, Form
from whet.passes.quantization.weight_plan import Offer, choose

ALL = {
    "float32": 1.0,
    "decoded": 1.0,
    "packed 32 level 0": 1.0,
    "packed 32 level 4": 1.0,
    "packed 128 level 0": 1.0,
    "packed 128 level 4": 1.0,
    "integers": 1.0,
}


def product(**times: float) -> Offer:
    return Offer(False, {**ALL, **{k.replace("_", " "): v for k, v in times.items()}}, (32, 128))


def lookup(plain: float, packed: float) -> Offer:
    times = {"float32": plain, "packed 32 level 0": packed, "packed 128 level 0": packed}
    return Offer(True, times, (32, 128))


@pytest.mark.parametrize(
    ("times", "size", "form"),
    [
        ({}, 32, DECODED),
        ({"integers": 0.9}, 32, DECODED),
        ({"integers": 0.5}, 32, INTEGERS),
        ({"packed_32_level_0": 0.5}, 32, PACKED),
        ({"packed_32_level_4": 0.5}, 32, PACKED_INT8),
        ({"packed_32_level_0": 0.5, "packed_32_level_4": 0.45}, 32, PACKED),
        ({"packed_32_level_4": 0.5, "packed_128_level_4": 0.45}, 32, PACKED_INT8),
        ({"packed_32_level_4": 0.5, "packed_128_level_4": 0.3}, 128, PACKED_INT8),
        ({"packed_32_level_4": 0.4, "integers": 0.2}, 32, INTEGERS),
        ({"packed_32_level_0": 90.0, "packed_32_level_4": 80.0}, 32, DECODED),
    ],
)
def test_the_fastest_is_taken_where_it_is_clearly_faster(
    times: dict[str, float], size: int, form: Form
) -> None:
    plan = choose([product(**times)], [32, 128], "speed")
    assert (plan.size, plan.forms) == (size, (form,))


def test_activations_stay_in_float_where_that_is_wanted() -> None:
    offer = product(integers=0.1, packed_32_level_4=0.1)
    assert choose([offer], [32], "speed", exact=True).forms == (DECODED,)


def test_size_takes_the_largest_blocks_and_never_time() -> None:
    plan = choose([product(packed_32_level_4=0.1, packed_128_level_4=9.0)], [32, 128], "size")
    assert (plan.size, plan.forms) == (128, (DECODED,))
    assert choose([product(packed_128_level_0=0.99)], [32, 128], "size").forms == (PACKED,)


def test_a_table_stays_packed_where_that_is_nothing_next_to_the_products() -> None:
    offers = [lookup(0.01, 0.05)]
    assert choose(offers, [32], "size", slack=10.0).forms == (PACKED,)
    assert choose(offers, [32], "size", slack=1.0).forms == (DECODED,)
    assert choose(offers, [32], "speed", slack=10.0).forms == (DECODED,)


def test_readers_of_one_weight_are_packed_together_or_not_at_all() -> None:
    cheap = product(packed_32_level_0=0.1, packed_128_level_0=0.1)
    assert choose([lookup(0.01, 0.05), cheap], [32], "speed").forms == (PACKED, PACKED)
    assert choose([lookup(0.01, 5.0), cheap], [32], "speed").forms == (DECODED, DECODED)


def test_without_measurements_weights_are_decoded() -> None:
    plan = choose([Offer(False, {}, (32,)), Offer(True, {}, (32,))], [32], "speed")
    assert plan.forms == (DECODED, DECODED)
