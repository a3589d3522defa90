"""Remove structure from real networks: bytes, multiplications, metric and, where wanted, milliseconds.

``python -m whet.tools.bench.structure --only resnet20 --folder out`` compiles each model with each recipe, and
judges it; models that are in the folder already are not made again. ``--time`` times them, and lets passes know what
takes how long.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from whet.backends.base import RuntimeOptions
from whet.backends.operator_times import operator_times
from whet.compiler import compile
from whet.errors import NothingChanged
from whet.tools.bench.arguments import argument_parser
from whet.tools.bench.quantization.contest import contest
from whet.tools.bench.structure.subjects import SUBJECTS, Subject

__all__ = ["file_bytes", "made", "main"]

Recipe = Mapping[str, Mapping[str, object]]
_SHARES = (("ratio", 0.5), ("ratio", 0.65), ("ratio", 0.8), ("energy", 0.95))
_FACTORED: Mapping[str, Recipe] = {
    f"factors, {how} {share}": {"factor-linear": {how: share, "prefer": "size"}}
    for how, share in _SHARES
}
_KERNELS: Mapping[str, Recipe] = {
    f"{form}, {how} {share}": {"factor-convolution": {"form": form, how: share, "prefer": "size"}}
    for form in ("pointwise", "separable", "auto")
    for how, share in _SHARES
}


def _blocks(step: str, kinds: Sequence[str], counts: Sequence[int]) -> Mapping[str, Recipe]:
    """Return recipes that drop or share some blocks, however much that changes."""
    word = step.split("-")[0]
    return {
        f"{word} {count} {kind}": {step: {"kinds": [kind], "count": count, "limit": 10.0}}
        for kind in kinds
        for count in counts
    }


_DROPPED = _blocks("drop-blocks", ("attention", "mlp", "block"), (1, 2))
_SHARED = _blocks("share-blocks", ("attention", "mlp"), (1, 2))
_TUNED: Mapping[str, object] = {"what": "all", "loss": "features", "minutes": 5.0, "steps": 4000}
"""No labels, five minutes, which suffice for fewer steps."""


def _fewer(count: int, **pruned: object) -> Recipe:
    """Return a recipe that drops blocks of convolutions, prunes channels, and tunes what is left."""
    dropped: Recipe = {"drop-blocks": {"kinds": ["convolution"], "count": count, "limit": 10.0}}
    after: Recipe = {"prune-structure": {"score": "taylor", "limit": 10.0, **pruned}}
    tuned: Recipe = {"recover": {**_TUNED, "augment": "shift", "optimizer": "muon"}}
    return {**(dropped if count else {}), **(after if pruned else {}), **tuned}


def _smaller(ratio: float) -> Recipe:
    """Return a recipe that prunes heads and hidden units."""
    return {"prune-structure": {"score": "taylor", "ratio": ratio, "limit": 10.0}}


_GENTLY: Recipe = {"recover": {**_TUNED, "rate": 2e-4}}
"""What a transformer bears."""


_RECIPES: Mapping[str, Mapping[str, Recipe]] = {
    "resnet20": {
        "tuned, 3 blocks fewer": _fewer(3),
        **{
            f"tuned, 1 block and {share}% of the time fewer": _fewer(
                1, cost="milliseconds", ratio=share / 100, multiple=16
            )
            for share in (8, 12)
        },
        "tuned, 30% of the multiplications fewer": _fewer(0, cost="macs", ratio=0.3),
        **_KERNELS,
        **_blocks("drop-blocks", ("convolution",), (1, 2)),
        **_blocks("share-blocks", ("convolution",), (1, 2)),
    },
    "minilm": {
        **{f"{share}% fewer": _smaller(share / 100) for share in (25, 35, 50)},
        **{
            f"tuned, {share}% fewer": {**_smaller(share / 100), **_GENTLY} for share in (25, 35, 50)
        },
        **_FACTORED,
        **_DROPPED,
        **_SHARED,
    },
    "stories": {**_FACTORED, **_DROPPED, **_SHARED},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per model and recipe; what needs data that are not there is skipped with the reason."""
    parser = argument_parser(__doc__)
    parser.add_argument("--only", choices=list(SUBJECTS))
    parser.add_argument("--recipes", default="", help="only recipes whose name begins so")
    parser.add_argument("--folder", type=Path, help="keep compiled models here")
    parser.add_argument("--time", action="store_true", help="measure milliseconds")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in SUBJECTS if options.only is None else (options.only,):
            for line in _lines(name, options, options.folder or Path(scratch)):
                print(line, flush=True)
                lines.append(line)
    if options.json is not None:
        options.json.write_text(json.dumps(lines, indent=1) + "\n")
    return 0


def _lines(name: str, options: argparse.Namespace, folder: Path) -> Iterator[str]:
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    try:
        subject = SUBJECTS[name](options.assets, place, options.threads)
    except (FileNotFoundError, ImportError) as error:
        yield f"{name}: skipped: {error}"
        return
    models = {"exact": made("exact", {}, subject, place, options.threads)}
    for recipe, passes in _RECIPES[name].items():
        if not recipe.startswith(options.recipes):
            continue
        try:
            models[recipe] = made(
                recipe, passes, subject, place, options.threads, measure=options.time
            )
        except NothingChanged as reason:
            yield f"{name} {recipe:28} {reason}"
    times = contest(models, subject.feeds, options.threads) if options.time else {}
    whole = _multiplications(models["exact"], subject, options.threads)
    for recipe, path in models.items():
        line = f"{name} {recipe:28} {file_bytes(path):,} bytes, {file_bytes(path) / file_bytes(models['exact']):.3f}x"
        line += (
            f", {_multiplications(path, subject, options.threads) / whole:.3f}x the multiplications"
        )
        if options.time:
            share = times[recipe].median / times["exact"].median
            line += f", {times[recipe]!s}, {share:.3f}x the time"
        yield f"{line}, {subject.measure} {_judged(path, subject):.4f}"


def _multiplications(path: Path, subject: Subject, threads: int) -> float:
    """Return how many multiplications one run takes by the graph; optimized, channels are padded to whole vectors."""
    found = operator_times(path, RuntimeOptions(threads, "none"), subject.feeds, runs=1)
    return sum(operator.flops for operator in found) / 2


def _judged(path: Path, subject: Subject) -> float:
    """Return the metric, which is kept beside the model."""
    kept = path.with_name("metric.txt")
    if not kept.exists():
        kept.write_text(str(subject.metric(path)))
    return float(kept.read_text())


def made(
    name: str,
    passes: Recipe,
    subject: Subject,
    place: Path,
    threads: int,
    *,
    measure: bool = False,
) -> Path:
    """Compile behind the exact passes; raises NothingChanged."""
    folder = place / name.replace(" ", "-").replace(",", "")
    if folder.exists():
        return folder / "model.onnx"
    recipe = place / f"{folder.name}.toml"
    entries = [f'[[pass]]\nname = "{step}"\n{_options(given)}' for step, given in passes.items()]
    recipe.write_text("\n".join(['base = "exact"\n', *entries]))
    compile(
        subject.source,
        calibration=subject.calibration,
        recipe=recipe,
        sizes=dict(subject.sizes),
        threads=threads,
        measure=measure,
        output=folder,
    )
    return folder / "model.onnx"


def _options(given: Mapping[str, object]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items())


def file_bytes(path: Path) -> int:
    """Return the bytes of a model and of what lies beside it."""
    beside = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
