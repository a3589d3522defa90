"""ONNX's backend node tests through a target: what passes, what is declined, what is wrong.

``python -m whet.tools.sweep.nodes [--target tvm] [--jobs 2] [--json FILE] [NAME …]`` runs those whose operators the
target has, each in a child process that is replaced if it dies; 1 if any result is wrong.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from whet.backends.base import RuntimeOptions, find_target
from whet.errors import UnsupportedTarget, WhetError
from whet.ir.array import Array
from whet.ir.execute import CannotRun
from whet.ir.prepare import normalize
from whet.tools.sweep.children import gather, quiet, serve

__all__ = ["Outcome", "cases", "check_case", "main"]

_HALF = 2.0**-9
"""One unit in the last place of a float16, which rounding in between may move."""
_NEWEST = 26
"""The newest opset that ONNX Runtime, which tells sizes, reads."""


@dataclasses.dataclass
class Outcome:
    """What became of one test: passed if there is neither a reason nor a difference."""

    name: str
    operators: list[str]
    declined: str = ""
    wrong: str = ""


def cases(operators: Sequence[str]) -> Iterator[Any]:
    """Yield the tests of tensors whose operators are all among those given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, while onnx generates the cases
        found = load_model_tests(kind="node")
    for case in found:
        assert case.model is not None
        assert case.data_sets is not None
        nodes = case.model.graph.node
        if all(n.op_type in operators and n.domain in {"", "ai.onnx"} for n in nodes):
            kinds = np.ndarray | np.generic | onnx.TensorProto
            if all(isinstance(a, kinds) for data in case.data_sets[0] for a in data):
                yield case


def check_case(case: Any, target: str) -> Outcome:
    """Lower and run one test. Inputs that must be constant become so, outputs that are not handed out go."""
    inputs, expected = case.data_sets[0]
    names = [v.name for v in case.model.graph.input]
    feeds = {n: _array(a) for n, a in zip(names, inputs, strict=False)}
    outcome = Outcome(case.name, sorted({n.op_type for n in case.model.graph.node}))
    for kept, outputs in ((len(names), None), (1, None), (len(names), 1)):
        model = _declared(case.model, feeds, kept)
        del model.graph.output[outputs or len(model.graph.output) :]
        try:
            found = _run(model, feeds, target)
        except (UnsupportedTarget, CannotRun, WhetError) as error:
            outcome.declined = str(error)
            continue
        except Exception as error:
            return dataclasses.replace(outcome, wrong=f"{type(error).__name__}: {error}"[:300])
        outcome.declined = ""
        outcome.wrong = _difference(case, found, [_array(a) for a in expected])
        break
    return outcome


def _run(model: onnx.ModelProto, feeds: Mapping[str, Array], name: str) -> list[Array]:
    target, settled = find_target(name).settle(normalize(onnx_ir.from_proto(model)), feeds, {}, 0)
    with tempfile.TemporaryDirectory() as folder:
        target.lower(settled, Path(folder))
        return target.open(Path(folder) / "model.onnx", RuntimeOptions(threads=1)).run(feeds)


def _difference(case: Any, found: Sequence[Array], expected: Sequence[Array]) -> str:
    got: Any
    want: Any
    for got, want in zip(found, expected, strict=False):
        if got.dtype != want.dtype:
            return f"{got.dtype} instead of {want.dtype}"
        try:
            rtol = max(case.rtol, _HALF) if want.dtype == np.float16 else case.rtol
            np.testing.assert_allclose(got, want, rtol=rtol, atol=max(case.atol, 1e-6))
        except AssertionError as error:
            return " ".join(str(error).split())[:300]
    return ""


def _declared(model: onnx.ModelProto, feeds: Mapping[str, Array], kept: int) -> onnx.ModelProto:
    """Return a copy in which all inputs but the first few are constants."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in list(copy.graph.input)[kept:]:
        copy.graph.input.remove(value)
        copy.graph.initializer.append(numpy_helper.from_array(feeds[value.name], value.name))
    for imported in copy.opset_import:
        imported.version = min(imported.version, _NEWEST)
    return copy


def _array(value: Any) -> Array:
    return (
        numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    )


def _operators(target: str) -> tuple[str, ...]:
    if target.startswith("c"):
        from whet.backends.c.registry import registered as written

        return tuple(written())
    from whet.backends.tvm.registry import registered

    return tuple(registered())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m whet.tools.sweep.nodes", description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--target", default="tvm")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    known = {case.name: case for case in cases(_operators(options.target))}
    if options.serve:

        def work(name: str) -> dict[str, Any]:
            with quiet():
                return dataclasses.asdict(check_case(known[name], options.target))

        serve(options.names, work)
        return 0
    names = [n for n in known if not options.names or any(part in n for part in options.names)]
    answers = gather("whet.tools.sweep.nodes", names, ["--target", options.target], options.jobs)
    rows = [
        Outcome(name, [], wrong="the process died") if data is None else Outcome(**data)
        for name, data in answers
    ]
    _show(rows)
    if options.json is not None:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    return int(any(row.wrong for row in rows))


def _show(rows: Sequence[Outcome]) -> None:
    for row in rows:
        if row.wrong:
            print(f"wrong: {row.name}: {row.wrong}")
    wrong, declined = sum(bool(r.wrong) for r in rows), sum(bool(r.declined) for r in rows)
    print(f"{len(rows) - wrong - declined} pass, {declined} declined, {wrong} wrong")


if __name__ == "__main__":
    sys.exit(main())
