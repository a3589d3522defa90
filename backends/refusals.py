"""What no target that writes its own code can take, as far as the operators of a model tell."""

from collections import Counter

import onnx_ir

__all__ = ["refusals"]

_ADVICE = {
    "If": "only one branch can be kept: export the model without it",
    "Loop": "export the model with the loop unrolled",
    "Scan": "export the model with the loop unrolled",
    "LSTM": "export the cell spelled out, one step at a time",
    "GRU": "export the cell spelled out, one step at a time",
    "RNN": "export the cell spelled out, one step at a time",
    "NonZero": "its result has no fixed size",
    "NonMaxSuppression": "its result has no fixed size; leave it to the caller",
    "Unique": "its result has no fixed size",
    "Compress": "its result has no fixed size",
}


def refusals(model: onnx_ir.Model) -> list[str]:
    """Name what no pass turns into what can be emitted: bodies, foreign domains, sizes that depend on data."""
    found: Counter[tuple[str, str]] = Counter()
    for node in model.graph:
        foreign = (
            node.domain not in {"", "ai.onnx"}
            and (node.domain, node.op_type, "") not in model.functions
        )
        if foreign or node.op_type in _ADVICE:
            found[node.domain, node.op_type] += 1
    return [_refusal(domain, kind, count) for (domain, kind), count in found.items()]


def _refusal(domain: str, kind: str, count: int) -> str:
    name = f"{domain}.{kind}" if domain else kind
    advice = _ADVICE.get(
        kind, "no standard operator; compile from a model before such operators were chosen"
    )
    return f"{name} ({count} node{'s'[: count > 1]}): {advice}"
