"""The differentiable twin: a model as a torch.fx.GraphModule, and trained values back."""

import importlib.util

from whet.errors import UsageError

if importlib.util.find_spec("torch") is None:
    raise UsageError("the differentiable twin needs torch: pip install whet[torch]")

from whet.ir.twin.convert import Origin, to_fx
from whet.ir.twin.element_types import from_numpy, to_numpy
from whet.ir.twin.observe import run_observed, value_nodes
from whet.ir.twin.registry import supported
from whet.ir.twin.training import parameter_paths, write_back

__all__ = [
    "Origin",
    "from_numpy",
    "parameter_paths",
    "run_observed",
    "supported",
    "to_fx",
    "to_numpy",
    "value_nodes",
    "write_back",
]
