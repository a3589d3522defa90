import pytest
from rewriting import model_of

from whet.passes.purity import is_deterministic


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Relu(x)", True),
        ("y = RandomNormalLike(x)", False),
        ("y = Bernoulli(x)", False),
        ("y = Dropout(x)", True),
        ("y = Dropout(x, r, off)", True),
        ("y = Dropout(x, r, on)", False),
        ("y = Dropout(x, r, t)", False),
        ("y = my.Relu(x)", False),
        (
            "y = If (t) <then_branch = a () => (float[N] u) { u = Relu(x) }, "
            "else_branch = b () => (float[N] v) { v = Neg(x) }>",
            False,
        ),
    ],
)
def test_what_is_deterministic(body: str, expected: bool) -> None:
    model = model_of(
        f"(float[N] x, bool t) => (float[N] y) <float r = {{0.5}}, bool on = {{1}}, bool off = {{0}}> {{ {body} }}",
        domains=', "my" : 1',
    )
    assert is_deterministic(next(iter(model.graph))) is expected


def test_batch_normalization_in_training_form_is_not() -> None:
    for mode, expected in ((0, True), (1, False)):
        model = model_of(
            f"""(float[N, 2] x, float[2] s) => (float[N, 2] y) {{
                y{", m, v" if mode else ""} = BatchNormalization<training_mode = {mode}>(x, s, s, s, s) }}"""
        )
        assert is_deterministic(next(iter(model.graph))) is expected
