"""Sequences of passes that belong together."""

from whet.passes.canonical.deduplicate_initializers import DeduplicateInitializers
from whet.passes.canonical.eliminate_casts import EliminateCasts
from whet.passes.canonical.eliminate_common_subexpressions import EliminateCommonSubexpressions
from whet.passes.canonical.eliminate_concats import EliminateConcats
from whet.passes.canonical.eliminate_dead_code import EliminateDeadCode
from whet.passes.canonical.eliminate_dropout import EliminateDropout
from whet.passes.canonical.eliminate_expands import EliminateExpands
from whet.passes.canonical.eliminate_identity import EliminateIdentity
from whet.passes.canonical.eliminate_neutral_arithmetic import EliminateNeutralArithmetic
from whet.passes.canonical.eliminate_noop_movement import EliminateNoopMovement
from whet.passes.canonical.eliminate_reshapes import EliminateReshapes
from whet.passes.canonical.eliminate_slices import EliminateSlices
from whet.passes.canonical.eliminate_transposes import EliminateTransposes
from whet.passes.canonical.fold_constants import FoldConstants
from whet.passes.canonical.fold_double_transpose import FoldDoubleTranspose
from whet.passes.canonical.fold_shape_arithmetic import FoldShapeArithmetic
from whet.passes.canonical.merge_repeated import MergeRepeated
from whet.passes.canonical.merge_reshapes import MergeReshapes
from whet.passes.canonical.merge_slices import MergeSlices
from whet.passes.canonical.merge_squeezes import MergeSqueezes
from whet.passes.pipeline import Fixpoint

__all__ = ["canonical"]


def canonical() -> Fixpoint:
    """Return the exact clean-up: after it, one meaning has one spelling."""
    return Fixpoint(
        (
            # Fewer nodes for all that follows.
            EliminateDeadCode(),
            FoldConstants(),
            DeduplicateInitializers(),
            # Shapes: what this finds out helps the proofs of all that follows.
            FoldShapeArithmetic(),
            EliminateIdentity(),
            EliminateDropout(),
            EliminateCommonSubexpressions(),
            # Operators that do nothing, or what the one before them did.
            EliminateCasts(),
            EliminateNoopMovement(),
            EliminateNeutralArithmetic(),
            EliminateTransposes(),
            FoldDoubleTranspose(),
            EliminateSlices(),
            MergeSlices(),
            MergeSqueezes(),
            MergeReshapes(),
            EliminateReshapes(),
            EliminateConcats(),
            EliminateExpands(),
            MergeRepeated(),
        )
    )
