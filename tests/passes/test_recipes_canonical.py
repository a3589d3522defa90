from rewriting import op_types, run_recipe

from whet.passes.base import Fidelity
from whet.passes.recipes import canonical, exact
from whet.passes.registry import all_passes


def test_every_exact_canonical_pass_takes_part() -> None:
    names = {step.name for step in canonical().passes}
    wanted = {
        name
        for name, cls in all_passes().items()
        if cls.__module__.startswith("whet.passes.canonical.") and cls.fidelity is Fidelity.EXACT
    }
    assert names == wanted


def test_the_folding_passes_follow_the_canonical_ones() -> None:
    clean, whole = canonical().passes, exact().passes
    assert whole[: len(clean)] == clean
    assert whole[-1].name == "eliminate-dead-code"


def test_heads_of_attention_as_exporters_write_them() -> None:
    model, steps = run_recipe(
        """(float[N, M, 8] x) => (float[N, 4, M, 2] y) {
            s0 = Shape(x) i0 = Constant<value_int = 0>() n = Gather(s0, i0)
            s1 = Shape(x) i1 = Constant<value_int = 1>() m = Gather(s1, i1)
            a = Constant<value_ints = [0]>() un = Unsqueeze(n, a) um = Unsqueeze(m, a)
            h = Constant<value_ints = [4]>() d = Constant<value_ints = [2]>()
            t = Concat<axis = 0>(un, um, h, d) r = Reshape(x, t) q = Identity(r)
            p = Transpose<perm = [0, 2, 1, 3]>(q) y = Dropout(p) }""",
        canonical(),
    )
    assert op_types(model) == ["Reshape", "Transpose"]
    assert any(step.coverage.proofs for step in steps)


def test_old_operator_sets() -> None:
    model, _ = run_recipe(
        """(float[1, N, 4] x) => (float[N, 4] y) {
            a = Squeeze<axes = [0]>(x) b = Unsqueeze<axes = [0]>(a) c = Squeeze<axes = [0]>(b)
            d = Slice<starts = [0], ends = [9223372036854775807]>(c)
            e = Pad<pads = [0, 0, 0, 0]>(d) y = Dropout(e) }""",
        canonical(),
        opset=9,
    )
    assert op_types(model) == ["Squeeze"]
