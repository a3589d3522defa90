"""The sweep over attention biases, and the members of the zoo that have one."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from whet.errors import UsageError
from whet.tools.sweep.bias import Row, added_rank, main, markdown
from whet.tools.sweep.bias_recipes import RECIPES, write_recipe

torch = pytest.importorskip("torch")

from whet.tools.sweep.zoo import at_length, biased  # noqa: E402
from whet.tools.sweep.zoo.check import TOLERANCE, check  # noqa: E402
from whet.tools.sweep.zoo.lengthened import BIASED  # noqa: E402

OWN = ["point-cloud", "pde", "phase", "alibi-encoder", "pairformer"]


@pytest.mark.parametrize("name", OWN)
def test_biased_networks_export(name: str) -> None:
    row = check(name)
    assert not row.failure
    assert row.error <= TOLERANCE


def test_both_spellings_of_a_distance_are_the_same_function() -> None:
    given = torch.randn(2, 7, 3), torch.randn(2, 7, 6)
    torch.manual_seed(0)
    first = biased.point_cloud(7, 2, 2, expanded=False).module.eval()
    second = biased.point_cloud(7, 2, 2, expanded=True).module.eval()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(first(*given), second(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OWN)
def test_a_length_can_be_asked_for(name: str) -> None:
    sample = at_length(name, 40).build()
    assert set(sample.dimensions().values()) == {40}
    (output,) = sample.run()
    assert output.shape[:2] == (1, 40)
    assert bool(output.isfinite().all())


@pytest.mark.parametrize(("name", "length"), [("mpt", 40), ("t5-encoder", 40), ("swinv2", 16)])
def test_families_of_transformers_take_a_length(name: str, length: int) -> None:
    pytest.importorskip("transformers")
    outputs = at_length(name, length).build().run()
    assert outputs[0].shape[:2] == (1, length)
    assert all(bool(output.isfinite().all()) for output in outputs)


def test_a_smooth_table_has_a_low_rank() -> None:
    pytest.importorskip("transformers")
    ranks: list[int] = []
    for name in ("swin", "swin-smooth"):
        tables = dict(at_length(name, 36).build().module.named_parameters())
        table = next(t for n, t in tables.items() if n.endswith("relative_position_bias_table"))
        values = torch.linalg.svdvals(table[:, 0].reshape(11, 11)) ** 2
        ranks.append(int((values.cumsum(0) / values.sum() < 0.99).sum()) + 1)
    assert ranks[1] <= 5 < ranks[0]


def test_a_name_without_a_length_is_refused() -> None:
    with pytest.raises(UsageError, match="'vgg' has no given length; those that have: bloom"):
        at_length("vgg", 100)
    assert set(OWN) < set(BIASED)


def test_a_recipe_without_its_pass_is_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipes = {
        "known": ("fold-constants", {"limit": 7}),
        "unknown": ("no-such-pass", {}),
        "option": ("fold-constants", {"no-such-option": 1}),
    }
    monkeypatch.setattr("whet.tools.sweep.bias_recipes.RECIPES", {"exact": None, **recipes})
    assert write_recipe("exact", tmp_path) == "exact"
    assert write_recipe("unknown", tmp_path) is None
    assert write_recipe("option", tmp_path) is None
    path = write_recipe("known", tmp_path)
    assert isinstance(path, Path)
    assert path.read_text().splitlines()[2:] == ["[[pass]]", 'name = "fold-constants"', "limit = 7"]
    assert RECIPES["exact"] is None


@pytest.mark.parametrize("kind", ["Attention", "MultiHeadAttention"])
def test_the_rank_is_what_queries_are_wider_by(kind: str, tmp_path: Path) -> None:
    lead = [1, 2, 6] if kind == "Attention" else [1, 6]
    heads = 1 if kind == "Attention" else 2
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [*lead, heads * size])
        for name, size in (("q", 11), ("k", 11), ("v", 8))
    ]
    options = {} if kind == "Attention" else {"num_heads": 2, "domain": "com.microsoft"}
    node = helper.make_node(kind, ["q", "k", "v"], ["y"], **options)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "attention", infos, [output])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    assert added_rank(path) == 3


def test_a_row_is_good_when_it_says_what_happened() -> None:
    made = Row("net", 64, "exact", {"factor-bias": 2}, rank=3)
    declined = Row("net", 64, "exact", {"factor-bias": 0}, reasons=["factor-bias: a | b"])
    silent = Row("net", 64, "exact", {"factor-bias": 0})
    assert [made.good, declined.good, silent.good] == [True, True, False]
    table = markdown([made, declined]).splitlines()
    assert len(table) == 4
    assert "factor-bias x2 | 3 |" in table[2]
    assert table[3].endswith("| factor-bias: a \\| b |")
    assert len({np.sum([c == "|" for c in line.replace("\\|", "")]) for line in table}) == 1


def test_the_command_says_what_became_of_the_bias(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, table = tmp_path / "rows.json", tmp_path / "table.md"
    flags = ["--recipes", "exact", "--no-measure", "--threads", "1"]
    files = ["--json", str(rows), "--markdown", str(table)]
    assert main(["alibi-encoder", "--lengths", "8", *flags, *files]) == 0
    (row,) = json.loads(rows.read_text())
    assert not row["failure"]
    assert row["error"] <= 1e-5
    assert "alibi-encoder | 8 | exact" in table.read_text()
    assert "alibi-encoder" in capsys.readouterr().out
