import pytest
from rewriting import declines, op_types, run_pass

from whet.passes.canonical.eliminate_requantization import EliminateRequantization

TEXT = """(float[N, 3] x) => ({kind}[N, 3] y)
<float s = {{0.1}}, float t = {{{other}}}, {kind} z = {{{zero}}}, {kind} w = {{{last}}}> {{
    q = QuantizeLinear (x, s, z)
    d = DequantizeLinear (q, s, z)
    y = QuantizeLinear (d, t, w)
}}"""


def text(kind="uint8", other=0.1, zero=7, last=7) -> str:
    return TEXT.format(kind=kind, other=other, zero=zero, last=last)


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16"])
def test_the_same_grid_is_not_entered_twice(kind: str) -> None:
    model, _ = run_pass(text(kind), EliminateRequantization())
    assert op_types(model)[0] == "QuantizeLinear"
    assert op_types(model).count("QuantizeLinear") == 1


def test_a_missing_zero_point_is_zero() -> None:
    plain = """(float[N, 3] x) => (uint8[N, 3] y) <float s = {0.1}, uint8 z = {0}> {
        q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s) y = QuantizeLinear (d, s, z) }"""
    model, _ = run_pass(plain, EliminateRequantization())
    assert op_types(model).count("QuantizeLinear") == 1


def test_scales_of_channels() -> None:
    for axis, left in ((1, 1), (0, 2)):
        channels = f"""(float[3, 3] x) => (int8[3, 3] y) <float[3] s = {{0.1, 0.2, 0.3}}> {{
            q = QuantizeLinear <axis = 1, output_dtype = 3> (x, s)
            d = DequantizeLinear <axis = 1> (q, s)
            y = QuantizeLinear <axis = {axis}, output_dtype = 3> (d, s) }}"""
        if left == 2:
            declines(channels, EliminateRequantization(), "axis")
            continue
        model, _ = run_pass(channels, EliminateRequantization())
        assert op_types(model).count("QuantizeLinear") == left


@pytest.mark.parametrize("change", [{"other": 0.2}, {"last": 8}])
def test_another_grid_stays(change: dict) -> None:
    declines(text(**change), EliminateRequantization(), "another grid")


def test_floats_of_eight_bits_stay() -> None:
    declines(
        """(float[N, 3] x) => (float8e4m3fn[N, 3] y) <float s = {0.1}> {
        q = QuantizeLinear <output_dtype = 17> (x, s) d = DequantizeLinear (q, s)
        y = QuantizeLinear <output_dtype = 17> (d, s) }""",
        EliminateRequantization(),
        "integers are",
    )
