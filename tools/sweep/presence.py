"""Count the attentions, norms, activations and rotations that a torch module executes.

This is the truth that fusion is held against: it comes from one eager run, not from any exporter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from whet.tools.sweep.zoo.architecture import Sample

__all__ = ["present"]

_ATTENTIONS = {"scaled_dot_product_attention", "multi_head_attention_forward"}
_NORMS = {"layer_norm", "rms_norm"}
_ACTIVATIONS = {"gelu", "silu"}
_PRODUCTS = {"matmul", "rmatmul", "bmm", "einsum", "baddbmm"}
_MOVES = {
    *("clone", "contiguous", "dropout", "expand", "flatten", "float", "getitem", "half", "movedim"),
    *("nan_to_num", "permute", "reshape", "squeeze", "swapaxes", "to", "transpose", "type"),
    *("type_as", "unsqueeze", "view"),
}
"""After these, probabilities are still probabilities."""
_CHANGES = {
    *("add", "radd", "iadd", "sub", "isub", "mul", "rmul", "imul", "div", "truediv", "itruediv"),
    *("clamp", "masked_fill", "max", "maximum", "tanh", "where"),
}
"""After these too, scores are still scores."""
_ROTATIONS = {"rotate_half", "rot"}
"""Functions of transformers and timm that turn half of a tensor, called once for each rotated tensor."""


def present(sample: Sample) -> dict[str, int]:
    """Run the example once; return how many of each kind were executed.

    An attention is a scaled_dot_product_attention, or a product, a softmax over it and a product with values. A norm
    or activation is a call of torch's function, or the run of a module that is named after one (``LlamaRMSNorm``,
    ``NewGELUActivation``) and spells it out.
    """
    counter = _Counter()
    with _watched_modules(sample.module, counter), _watched_rotations(counter), counter:
        sample.run()
    return counter.counts


class _Counter(TorchFunctionMode):
    """Counts calls of torch's functions as they are made."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = {"attention": 0, "norm": 0, "activation": 0, "rotary": 0}
        self._scores: dict[int, torch.Tensor] = {}
        """Products and what became of them, by identity; kept alive, so that no identity is used twice."""
        self._probabilities: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make one call and count it."""
        found = func(*args, **(kwargs or {}))
        name = str(getattr(func, "__name__", "")).strip("_")
        self.counts["attention"] += name in _ATTENTIONS
        self.counts["norm"] += name in _NORMS
        self.counts["activation"] += name in _ACTIVATIONS
        if isinstance(found, torch.Tensor):
            self._follow(name, args, found)
        return found

    def _follow(self, name: str, args: tuple[Any, ...], found: torch.Tensor) -> None:
        """Follow scores from a product to a softmax, and probabilities from there to the product with values."""
        used = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
        scores = any(self._scores.get(id(t)) is t for t in used)
        probabilities = any(self._probabilities.get(id(t)) is t for t in used)
        if name == "softmax" and scores and found.dim() >= 3:
            self._probabilities[id(found)] = found
        elif name in _PRODUCTS:
            self.counts["attention"] += probabilities
            self._scores[id(found)] = found
        elif scores and name in _MOVES | _CHANGES:
            self._scores[id(found)] = found
        elif probabilities and name in _MOVES:
            self._probabilities[id(found)] = found


@contextmanager
def _watched_modules(module: nn.Module, counter: _Counter) -> Generator[None]:
    """Count modules that spell a norm or an activation out: they run without one call of torch's own function."""
    before: dict[tuple[int, str], int] = {}
    handles: list[Any] = []
    for inner in module.modules():
        kind = "" if list(inner.children()) else _kind(type(inner).__name__)
        if not kind:
            continue

        def enter(module: nn.Module, _args: object, kind: str = kind) -> None:
            before[id(module), kind] = counter.counts[kind]

        def leave(module: nn.Module, _args: object, _out: object, kind: str = kind) -> None:
            counter.counts[kind] += counter.counts[kind] == before[id(module), kind]

        handles += [inner.register_forward_pre_hook(enter), inner.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _kind(name: str) -> str:
    if "LayerNorm" in name or "RMSNorm" in name or "RmsNorm" in name:
        return "norm"
    lower = name.lower()
    if "glu" not in lower and any(word in lower for word in ("gelu", "silu", "swish")):
        return "activation" if "hard" not in lower else ""
    return ""


@contextmanager
def _watched_rotations(counter: _Counter) -> Generator[None]:
    previous: Callable[..., Any] | None = sys.getprofile()

    def watch(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_name in _ROTATIONS:
            counter.counts["rotary"] += 1

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(previous)
