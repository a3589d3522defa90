"""Recipes: which passes run, in which order."""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.errors import UsageError
from whet.passes.base import Fidelity, Pass
from whet.passes.pipeline import Fixpoint, Pipeline
from whet.passes.registry import all_passes, make_pass, nearest, parse_passes

if TYPE_CHECKING:
    from whet.backends.base import Target

__all__ = ["Recipe", "canonical", "exact", "legalization", "read_recipe"]

_FIRST = (
    "eliminate-dead-code",
    "fold-constants",
    "deduplicate-initializers",
    # The shapes that this one finds out make the proofs of all that follow short.
    "fold-shape-arithmetic",
    "eliminate-identity",
    "eliminate-dropout",
    "eliminate-common-subexpressions",
    # What an integer product can add by itself is not left to the operator behind it.
    "choose-integer-product",
)
_ALSO_LAST = ("eliminate-dead-code",)
_LIFTS = ("expand-", "lift-")
_LAST = (
    "fold-constants",
    "fold-shape-arithmetic",
    "deduplicate-initializers",
    "eliminate-common-subexpressions",
    "eliminate-dead-code",
)
"""What tidies up behind the choice of operators without undoing it."""
_WHOLE = ("run-batch-in-parts",)
"""What moves all nodes to where no other pass looks."""
_LOSSY = (
    "factor-bias-table",
    "quantize-static",
    "merge-quantized-products",
    "quantize-linear-static",
    "quantize-dynamic",
)
_OPTIONS: dict[str, dict[str, object]] = {"quantize-static": {"products": "convolutions"}}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Stages to run before the target's own legalization."""

    name: str
    stages: tuple[Pass | Fixpoint, ...]
    asked_for: frozenset[str] = frozenset()

    def pipeline(self, target: "Target") -> Pipeline:
        """Return the whole pipeline for a target."""
        return Pipeline((*self.stages, *target.legalize()), self.asked_for)

    def __str__(self) -> str:
        """Return the recipe's name, or the passes it lists."""
        return self.name


def legalization(folder: str) -> tuple[Pass | Fixpoint, ...]:
    """Return the passes below ``passes/FOLDER``, which choose a runtime's own operators, and what tidies up."""
    found = _found(folder)
    choices = [step for step in found if step.name not in _WHOLE]
    tidy = Fixpoint(tuple(make_pass(name) for name in _LAST))
    return (*choices, tidy, *(step for step in found if step.name in _WHOLE))


def canonical() -> Fixpoint:
    """Return the clean-up after which one meaning has one spelling: all exact passes below ``passes/canonical``."""
    found = [step for step in _found("canonical") if step.fidelity is Fidelity.EXACT]
    return Fixpoint((*found, *(step for step in found if step.name in _ALSO_LAST)))


def exact() -> Fixpoint:
    """Return every canonical and folding pass, to be repeated until nothing changes.

    They are found by looking: all passes below ``passes/canonical``, ``passes/fusion`` and ``passes/attention`` that
    are not lossy.
    """
    clean = canonical().passes
    rest = [step for step in _found("canonical", "fusion", "attention") if step not in clean]
    # What is still spelled out is recognized before its parts are folded into weights.
    rest.sort(key=lambda s: (not s.name.startswith(_LIFTS), s.fidelity is not Fidelity.EXACT))
    return Fixpoint((*clean, *rest, *(step for step in clean if step.name in _ALSO_LAST)))


def _found(*folders: str) -> list[Pass]:
    """Return the passes of the folders that are not lossy: those of ``_FIRST`` in that order, the rest by name."""
    places = tuple(f"whet.passes.{folder}." for folder in folders)
    steps = [cls() for cls in all_passes().values() if cls.__module__.startswith(places)]
    kept = [step for step in steps if step.fidelity is not Fidelity.LOSSY]
    rank = {name: k for k, name in enumerate(_FIRST)}
    return sorted(kept, key=lambda step: (rank.get(step.name, len(rank)), step.name))


def auto(skip: tuple[str, ...] = ()) -> tuple[Pass | Fixpoint, ...]:
    """Return the exact passes, then the best lossy default: int8 where it was measured to pay.

    Lossy passes leave the nodes alone that ``skip`` names.
    """
    lossy = (make_pass(name, {"skip": skip, **_OPTIONS.get(name, {})}) for name in _LOSSY)
    return (canonical(), exact(), *lossy, exact())


def read_recipe(recipe: str | Path, *, allow_noop: bool = False) -> Recipe:
    """Read ``exact``, ``auto``, ``auto{skip=node+node}``, a TOML file, or ``"pass,pass{option=1}"``.

    Passes that are named must change something, unless ``allow_noop`` (also a key of the file) says otherwise.

    Raises:
        UsageError: an unknown recipe, pass, option or key, with the nearest valid name.
    """
    text = str(recipe)
    if text == "exact":
        return Recipe("exact", (canonical(), exact()))
    if text == "auto":
        return Recipe("auto", auto())
    if (given := re.fullmatch(r"\s*auto\s*\{\s*skip\s*=([^{}]*)\}\s*", text)) is not None:
        skip = tuple(name for name in given.group(1).strip().split("+") if name)
        return Recipe(text.strip(), auto(skip))
    if re.match(r"\s*(auto|exact)\s*\{", text):
        raise UsageError(
            f"the recipe '{text}' is not known: auto takes skip=NODE+NODE, exact takes nothing"
        )
    if text.endswith(".toml"):
        return _from_file(Path(text), allow_noop)
    passes = parse_passes(text)
    return Recipe(text, passes, frozenset() if allow_noop else _names(passes))


def _names(passes: tuple[Pass, ...]) -> frozenset[str]:
    return frozenset(step.name for step in passes)


def _from_file(path: Path, allow_noop: bool) -> Recipe:
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read the recipe '{path}': {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the recipe '{path}' is not TOML: {error}") from error
    known: dict[str, object] = {"allow_noop": bool, "base": str, "pass": list}
    for key in data:
        if key not in known:
            raise UsageError(f"unknown key '{key}' in '{path}'{nearest(key, known)}")
    base = str(data.get("base", "none"))
    if base not in {"none", "exact", "auto"}:
        raise UsageError(f"base is '{base}' in '{path}', expected none, exact or auto")
    start: tuple[Pass | Fixpoint, ...] = {
        "none": (),
        "exact": (canonical(), exact()),
        "auto": auto(),
    }[base]
    passes = tuple(_from_entry(entry, path) for entry in data.get("pass", []))
    if not start and not passes:
        raise UsageError(f"the recipe '{path}' names no pass")
    relaxed = allow_noop or bool(data.get("allow_noop", False))
    return Recipe(path.name, (*start, *passes), frozenset() if relaxed else _names(passes))


def _from_entry(entry: object, path: Path) -> Pass:
    if isinstance(entry, str):
        return make_pass(entry)
    if not isinstance(entry, dict) or "name" not in entry:
        raise UsageError(f"a pass in '{path}' has no name: {entry}")
    options = {str(k): v for k, v in entry.items() if k != "name"}
    return make_pass(str(entry["name"]), options)
