"""Passes from outside: by place, from an installed package, and what is refused."""

import importlib.metadata
from pathlib import Path

import onnx_ir
import pytest
from folding import build

from whet.compiler import compile
from whet.errors import BrokenPass, UsageError
from whet.passes import registry
from whet.passes.extensions import import_pass, installed_passes, source_digest
from whet.passes.registry import all_passes, make_pass, parse_passes

GOOD = """
import dataclasses
from typing import ClassVar
from whet.extend import Builder, Fidelity, Match, Mismatch, Rewrite, op, var

@dataclasses.dataclass(frozen=True)
class EliminateDoubleNegation(Rewrite):
    '''Replace Neg(Neg(x)) by x.'''

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op("Neg", op("Neg", var("x"))),)
    most: int = 100

    def replace(self, found, build):
        if self.most < 1:
            raise Mismatch("no more")
        return found["x"]
"""
MODEL = "(float[N,4] x) => (float[N,4] y) { a = Neg(x) b = Neg(a) y = Relu(b) }"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Write the pass into a module of a name of its own, in the working folder."""
    monkeypatch.chdir(tmp_path)
    name = "own_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    (tmp_path / f"{name}.py").write_text(GOOD)
    return name


def test_a_pass_runs_by_its_place(module: str) -> None:
    place = f"{module}:EliminateDoubleNegation"
    artifact = compile(build(MODEL, {}), recipe=f"{place}{{most=3}},fold-constants", measure=False,
                       allow_noop=True)  # fmt: skip
    step = artifact.report.steps[0]
    assert (step.name, step.coverage.changed) == ("eliminate-double-negation", 1)
    assert step.spelling == f"{place}{{most=3}}"


def test_what_is_spelled_is_read_again(module: str) -> None:
    (step,) = parse_passes(f"{module}:EliminateDoubleNegation{{most=0,skip=a+b}}")
    assert parse_passes(str(step)) == (step,)
    assert step.most == 0


def test_a_recipe_file_may_name_it(module: str) -> None:
    Path("recipe.toml").write_text(f'[[pass]]\nname = "{module}:EliminateDoubleNegation"\n')
    artifact = compile(build(MODEL, {}), recipe="recipe.toml", measure=False)
    assert [n.op_type for n in onnx_ir.load(artifact.folder / "model.onnx").graph] == ["Relu"]


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("", "missing_module:X", "cannot import 'missing_module'"),
        ("X = 3\n", "{}:X", "is 3, expected a subclass"),
        ("", "{}:Nothing", "has no 'Nothing'"),
        (GOOD.replace("def replace", "def put"), "{}:EliminateDoubleNegation", "it lacks replace"),
        ("from __future__ import annotations\n" + GOOD, "{}:EliminateDoubleNegation", "as text"),
        (GOOD.replace("most: int = 100", "most: int = dataclasses.field(kw_only=True)"),
         "{}:EliminateDoubleNegation", "has no default"),
        (GOOD.replace("EliminateDoubleNegation", "EliminateIdentity"), "{}:EliminateIdentity",
         "is called 'eliminate-identity'"),
    ],
)  # fmt: skip
def test_what_is_no_pass_is_refused(module: str, text: str, place: str, said: str) -> None:
    Path(f"{module}.py").write_text(text)
    with pytest.raises(UsageError, match=said):
        make_pass(place.format(module))


def test_installed_packages_offer_passes(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offered(name: str) -> None:
        entry = importlib.metadata.EntryPoint(
            name, f"{module}:EliminateDoubleNegation", "whet.passes"
        )
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])

    offered("eliminate-double-negation")
    assert list(installed_passes()) == ["eliminate-double-negation"]
    fresh = all_passes.__wrapped__()
    assert "eliminate-double-negation" in fresh
    assert len(fresh) == len(all_passes()) + 1
    offered("another-name")
    with pytest.raises(UsageError, match="its name is 'eliminate-double-negation'"):
        installed_passes()


def test_two_passes_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"fold-constants": all_passes()["fold-constants"]}
    monkeypatch.setattr(registry, "installed_passes", lambda: taken)
    with pytest.raises(BrokenPass, match="two passes are called 'fold-constants'"):
        all_passes.__wrapped__()


def test_another_code_has_another_digest(module: str) -> None:
    cls = import_pass(f"{module}:EliminateDoubleNegation")
    before = source_digest(cls())
    Path(f"{module}.py").write_text(GOOD + "\n# changed\n")
    assert before != source_digest(cls())
    assert source_digest(make_pass("fold-constants")) == ""
