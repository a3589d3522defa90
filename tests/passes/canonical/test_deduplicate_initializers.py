from rewriting import declines, run_pass

from whet.passes.canonical.deduplicate_initializers import DeduplicateInitializers


def test_equal_weights_are_stored_once() -> None:
    model, coverage = run_pass(
        """(float[N, 2] x) => (float[N, 2] y) <float[2] a = {1, 2}, float[2] b = {1, 2}, float[2] c = {1, 3}> {
            u = Add(x, a) v = Mul(u, b) y = Sub(v, c) }""",
        DeduplicateInitializers(),
    )
    assert list(model.graph.initializers) == ["a", "c"]
    assert coverage.changed == 1


def test_long_weights_are_compared_by_digest() -> None:
    row = ", ".join(str(k) for k in range(40))
    model, _ = run_pass(
        f"""(float[N, 40] x) => (float[N, 40] y) <float[40] a = {{{row}}}, float[40] b = {{{row}}}> {{
            u = Add(x, a) y = Add(u, b) }}""",
        DeduplicateInitializers(),
    )
    assert list(model.graph.initializers) == ["a"]


def test_a_capture_follows() -> None:
    model, _ = run_pass(
        """(bool c, float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {1, 2}> {
            u = Add(x, a)
            y = If (c) <
                then_branch = t () => (float[2] p) { p = Add(u, b) },
                else_branch = e () => (float[2] q) { q = Neg(u) }>
        }""",
        DeduplicateInitializers(),
    )
    assert list(model.graph.initializers) == ["a"]


def test_types_shapes_and_signs_of_zero_count() -> None:
    declines(
        """(float[2] x) => (float[1, 2] y) <float[2] a = {0, 1}, float[1, 2] b = {0, 1},
            float[2] c = {-0.0, 1}, int32[2] d = {0, 1}> {
            u = Add(x, a) v = Add(u, b) w = Cast<to = 1>(d) s = Add(v, w) y = Add(s, c) }""",
        DeduplicateInitializers(),
    )


def test_weights_that_a_caller_may_override_stay() -> None:
    declines(
        """(float[2] x, float[2] a) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {1, 2}> {
            u = Add(x, a) y = Add(u, b) }""",
        DeduplicateInitializers(),
    )


def test_weights_that_are_outputs_stay() -> None:
    declines(
        """(float[2] x) => (float[2] y, float[2] a) <float[2] a = {1, 2}, float[2] b = {1, 2}> {
            u = Add(x, a) y = Add(u, b) }""",
        DeduplicateInitializers(),
    )
