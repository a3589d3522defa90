"""From a model and a recipe to the rewrite that breaks it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from whet.backends.base import RuntimeOptions, find_target
from whet.backends.probe import find_bindings
from whet.backends.worker import Worker
from whet.errors import InvalidModel
from whet.ir.execute import CannotRun
from whet.passes.recipes import read_recipe
from whet.preparation import prepare
from whet.tools.culprit import Culprit, Hunt, Outcome

__all__ = ["hunt"]


def hunt(
    source: str,
    *,
    recipe: str,
    target: str,
    tolerance: float,
    folder: Path,
    sizes: Mapping[str, int],
    seed: int,
    prove: bool,
    trust: bool,
    scratch: Path,
    progress: Callable[[str], None],
) -> tuple[Outcome, Culprit | None]:
    """Run the whole recipe; if the outputs move by more than ``tolerance``, find the rewrite that does it.

    The reproducer goes to ``folder``, which is not touched otherwise.
    """
    pipeline = read_recipe(recipe, allow_noop=True).pipeline(find_target(target))
    progress("capture")
    prepared = prepare(source, folder=scratch, trust=trust)
    try:
        with Worker(prepared.source, RuntimeOptions()) as worker:
            bindings = find_bindings(prepared.model, worker, prepared.examples, sizes)
            if not bindings.choices:
                raise InvalidModel(f"the source does not run: {bindings.note}")
            job = Hunt(
                prepared.model,
                pipeline,
                bindings,
                worker,
                prove=prove,
                seed=seed,
                progress=progress,
            )
            outcome = job.outcome()
            if outcome.error <= tolerance:
                return outcome, None
            return outcome, job.find(outcome.commits, tolerance, folder)
    except CannotRun as error:
        raise InvalidModel(f"the source does not run: {error}") from error
