from residual import tokens, transformer

from whet.passes.structure.blocks import find_drops, measure_closeness, model_without


def test_every_way_to_leave_out_a_branch() -> None:
    pre = [(d.kind, d.old.name, d.new.name) for d in find_drops(transformer(2).graph)]
    assert pre == [
        ("attention", "p_0", "x"), ("mlp", "z_0", "p_0"), ("attention", "p_1", "z_0"), ("mlp", "z_1", "p_1"),
        ("block", "z_0", "x"), ("block", "z_1", "z_0"),
    ]  # fmt: skip
    post = [(d.kind, d.old.name, d.new.name) for d in find_drops(transformer(2, post=True).graph)]
    assert ("attention", "p_1", "y_0") in post
    assert ("attention", "n_1", "y_0") in post
    assert ("block", "y_1", "y_0") in post
    assert ("attention", "n_0", "x") not in post


def test_weak_branches_are_close() -> None:
    model = transformer(2, strength={"a1": 0.01, "f0": 2.0})
    drops = find_drops(model.graph)[:4]
    cosines = [c.cosine for c in measure_closeness(model, drops, [tokens(4, 0)])]
    assert max(range(4), key=cosines.__getitem__) == 2
    assert min(range(4), key=cosines.__getitem__) == 1


def test_a_copy_without_a_branch() -> None:
    model = transformer(2)
    copy = model_without(model, "p_0", "x")
    assert len(copy.graph.initializers) == len(model.graph.initializers) - 5  # g, q, k, v, o
    assert len(model.graph) > len(copy.graph)
