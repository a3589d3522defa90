import dataclasses
import sys
import types
from typing import Literal

import pytest

from whet.errors import BrokenPass, UsageError
from whet.passes import registry
from whet.passes.base import Pass, pass_name
from whet.passes.canonical.eliminate_identity import EliminateIdentity
from whet.passes.registry import all_passes, make_pass, parse_passes
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class Tune(Pass):
    """Have an option of every kind."""

    count: int = 1
    rate: float = 0.5
    fast: bool = False
    mode: Literal["one", "two"] = "one"
    names: tuple[str, ...] = ()
    label: str = ""

    def apply(self, work: Workbench) -> None:
        work.changed_by_hand(0, "none")


@pytest.fixture
def _tune(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "all_passes", lambda: {"fold-scale": Tune, "tune": Tune})


def test_every_pass_is_found_by_its_derived_name() -> None:
    found = all_passes()
    assert found["eliminate-identity"] is EliminateIdentity
    assert {"fold-batch-norm", "fold-pad", "fold-scale", "fold-shift", "fuse-gemm"} <= set(found)
    assert list(found) == sorted(found)
    assert all(cls().name == name for name, cls in found.items())


def test_every_pass_has_a_summary_and_is_equal_to_its_like() -> None:
    for cls in all_passes().values():
        assert cls().summary.endswith("."), cls
        assert cls() == cls()
        assert hash(cls()) == hash(cls())


@pytest.mark.parametrize(
    ("cls", "name"),
    [("FoldBatchNorm", "fold-batch-norm"), ("FuseGemm", "fuse-gemm"), ("UseINT8", "use-int-8")],
)
def test_names(cls: str, name: str) -> None:
    assert pass_name(type(cls, (), {})) == name


def test_unknown_pass_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown pass 'fold-batchnorm'; did you mean 'fold-batch"):
        make_pass("fold-batchnorm")
    with pytest.raises(UsageError, match=r"unknown pass 'zzz'; there are .*whet passes"):
        make_pass("zzz")


@pytest.mark.usefixtures("_tune")
def test_options_are_converted() -> None:
    options = {"count": "3", "rate": "1e-3", "fast": "yes", "mode": "two", "names": "a+b"}
    assert make_pass("tune", options) == Tune(3, 1e-3, fast=True, mode="two", names=("a", "b"))
    assert make_pass("tune", {"names": ["a"], "fast": False, "count": 2}) == Tune(2, names=("a",))


@pytest.mark.usefixtures("_tune")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cuont": 1}, "unknown option 'cuont' of pass 'tune'; did you mean 'count'"),
        ({"count": "many"}, "option 'count' of pass 'tune' is 'many', expected an integer"),
        ({"count": "1.5"}, "is '1.5', expected an integer"),
        ({"rate": "high"}, "is 'high', expected a number"),
        ({"fast": "maybe"}, "is 'maybe', expected true or false"),
        ({"mode": "three"}, "is 'three', expected one of one, two"),
        ({"names": 3}, "is 3, expected a list"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_pass("tune", options)


@pytest.mark.usefixtures("_tune")
def test_names_are_joined_when_a_pass_is_printed() -> None:
    step = Tune(names=("a", "b"), skip=("/layer.1/*",))
    assert str(step) == "tune{names=a+b,skip=/layer.1/*}"
    assert parse_passes(str(step)) == (step,)
    assert step.skips("/layer.1/conv")
    assert not step.skips("/layer.2/conv")


def test_a_name_with_brackets_is_skipped_as_it_is() -> None:
    assert Tune(skip=("conv[0]",)).skips("conv[0]")


@pytest.mark.usefixtures("_tune")
def test_a_pass_may_work_on_some_nodes_only() -> None:
    step = Tune(only=("/layer.1/*",))
    assert parse_passes(str(step)) == (step,)
    assert step.chooses("/layer.1/conv")
    assert not step.chooses("/layer.2/conv")
    assert Tune().chooses("/layer.2/conv")


def test_an_option_of_a_pass_without_options() -> None:
    with pytest.raises(UsageError, match=r"unknown option 'x' of pass 'fold-pad'; known: skip"):
        make_pass("fold-pad", {"x": 1})


@pytest.mark.usefixtures("_tune")
def test_recipes_are_read_and_printed() -> None:
    text = "tune{count=3,mode=two}, fold_scale"
    passes = parse_passes(text)
    assert passes == (Tune(3, mode="two"), Tune())
    assert str(passes[0]) == "tune{count=3,mode=two}"
    assert parse_passes(str(passes[0])) == passes[:1]
    assert passes[0].options()["rate"] == 0.5


@pytest.mark.usefixtures("_tune")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no pass"),
        ("tune{count=3", "cannot read the recipe at"),
        ("tune; tune", "cannot read the recipe at"),
        ("tune{count}", "option 'count' has no value"),
    ],
)
def test_unreadable_recipes(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_passes(text)


def test_two_passes_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {name: types.ModuleType(f"whet.passes.{name}") for name in ("left", "right")}
    for name, module in modules.items():
        twin = type("Tune", (Tune,), {"__module__": f"whet.passes.{name}", "__doc__": "Twin."})
        module.__dict__["Tune"] = twin
        monkeypatch.setitem(sys.modules, f"whet.passes.{name}", module)
    found = [types.SimpleNamespace(name=f"whet.passes.{name}") for name in modules]
    monkeypatch.setattr(registry.pkgutil, "walk_packages", lambda *_: found)
    with pytest.raises(BrokenPass, match="two passes are called 'tune'"):
        all_passes.__wrapped__()
