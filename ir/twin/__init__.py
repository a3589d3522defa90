"""The differentiable twin: a model of the IR as a torch.fx.GraphModule, and trained values on their way back."""

from whet.errors import UsageError

try:
    import torch as _torch  # noqa: F401  # only to fail here, with advice
except ImportError as error:
    raise UsageError("the differentiable twin needs torch: pip install whet[torch]") from error

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
