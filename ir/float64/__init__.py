"""Execute small graphs in float64 where ONNX Runtime has float32 kernels only.

Convolutions, average pooling, error functions, rotary embeddings and ONNX Runtime's own fused operators are computed
here, in double precision; every other node runs in a session of its own. This is an oracle for proofs, not a runtime:
slow, exact to about 1e-15, and bounded in the work it accepts.
"""

from whet.ir.float64.executor import Float64Executor
from whet.ir.float64.kernel import WORK_LIMIT
from whet.ir.float64.windows import average_pool, convolve, convolve_transposed

__all__ = ["WORK_LIMIT", "Float64Executor", "average_pool", "convolve", "convolve_transposed"]
