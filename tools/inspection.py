"""What is in a model, and what stands in the way of runtimes and passes."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir

from whet.analysis.base import Analyses
from whet.backends.base import targets
from whet.errors import WhetError
from whet.ir.capture import capture
from whet.ir.prepare import normalize
from whet.ir.sites import Site, find_sites
from whet.ir.values import dimensions, initializers
from whet.ir.verify import verify
from whet.passes.registry import all_passes
from whet.passes.workbench import Context, Workbench

__all__ = ["Inspection", "Port", "Prospect", "inspect_model", "read_for_inspection"]

_QUOTED = re.compile(r"'[^']*'")
"""Names in a reason, which would keep equal reasons apart."""


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or an output of the model."""

    name: str
    type: str
    shape: tuple[int | str | None, ...] | None
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Prospect:
    """What one pass finds in the model as it is."""

    name: str
    fidelity: str
    matched: int
    eligible: int
    blocked: Mapping[str, int]
    """Reason -> number of places."""


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What is in a model."""

    origin: str
    opsets: Mapping[str, int]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: Mapping[str, int]
    """Operator -> count, nodes of subgraphs included, the most frequent first."""
    subgraphs: int
    nodes: int
    custom: Mapping[str, int]
    parameters: Mapping[str, tuple[int, int]]
    """Element type -> (elements, bytes)."""
    sites: tuple[Site, ...]
    """The largest first."""
    refusals: Mapping[str, Sequence[str]]
    """Target -> why it does not take the model."""
    prospects: tuple[Prospect, ...]

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        data = dataclasses.asdict(self)
        for site in data["sites"]:
            site["kind"] = site["kind"].value
        return {"schema": 1, **data}


def read_for_inspection(source: str, *, trust: bool = False) -> tuple[onnx_ir.Model, str]:
    """Return a model in the form that passes see, and where it came from; an artifact is read too."""
    path = Path(source)
    if path.is_dir() and (path / "whet.json").is_file():
        from whet.artifact import load

        source = str(path / str(load(path).manifest["model"]))
    captured = capture(source, trust=trust)
    model = normalize(captured.model)
    verify(model)
    return model, captured.origin


def inspect_model(model: onnx_ir.Model, origin: str) -> Inspection:
    """Count, list, and try every pass without letting it change anything."""
    operators = Counter(_operator(node) for node in model.graph.all_nodes())
    sites = sorted(find_sites(model), key=lambda site: -site.bytes)
    return Inspection(
        origin=origin,
        opsets={domain or "ai.onnx": v for domain, v in model.graph.opset_imports.items()},
        inputs=tuple(_port(v) for v in model.graph.inputs),
        outputs=tuple(_port(v) for v in model.graph.outputs),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        subgraphs=sum(1 for _ in model.graph.subgraphs()),
        nodes=operators.total(),
        custom={k: n for k, n in sorted(operators.items()) if "." in k},
        parameters=_parameters(model),
        sites=tuple(sites),
        refusals={
            name: target.refuses(model)
            for name, target in targets().items()
            if not target.missing()
        },
        prospects=_prospects(model),
    )


def _operator(node: onnx_ir.Node) -> str:
    standard = node.domain in {"", "ai.onnx"}
    return node.op_type if standard else f"{node.domain}.{node.op_type}"


def _port(value: onnx_ir.Value) -> Port:
    kind = "unknown" if value.dtype is None else value.dtype.name.lower()
    if isinstance(value.type, onnx_ir.SequenceType):
        kind = f"sequence of {kind}"
    return Port(value.name or "", kind, dimensions(value), value.const_value is not None)


def _parameters(model: onnx_ir.Model) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for value in initializers(model):
        tensor = value.const_value
        if tensor is None:
            continue
        count, size = found.get(tensor.dtype.name.lower(), (0, 0))
        found[tensor.dtype.name.lower()] = (count + int(tensor.size), size + tensor.nbytes)
    return dict(sorted(found.items(), key=lambda item: -item[1][1]))


def _prospects(model: onnx_ir.Model) -> tuple[Prospect, ...]:
    found: list[Prospect] = []
    copy = model.clone()
    for name, cls in all_passes().items():
        step = cls()
        context = Context(prove=False, limit=0)
        work = Workbench(copy, step, context, Analyses(copy, context))
        try:
            step.apply(work)
        except WhetError as error:
            work.coverage.declined["model"] = str(error)
        coverage = work.coverage
        if coverage.changed:
            copy = model.clone()
        told = [*coverage.declined.values(), *coverage.near_misses.values()]
        reasons = Counter(_QUOTED.sub("'…'", reason) for reason in told)
        if coverage.matched or reasons:
            blocked = dict(reasons.most_common())
            found.append(
                Prospect(name, cls.fidelity.value, coverage.matched, coverage.eligible, blocked)
            )
    return tuple(found)
