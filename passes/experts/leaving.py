"""Say that a pass over weights leaves those of experts alone."""

from whet.analysis.experts import find_experts
from whet.passes.workbench import Workbench

__all__ = ["leave_experts"]


def leave_experts(work: Workbench) -> None:
    """Decline every mixture of experts: its weights are stacked, and chosen while the model runs."""
    found = find_experts(work.graph)
    if not found.experts and not found.unread:
        return
    places = set(work.nodes("TopK", "MoE", "QMoE"))
    for experts in found.experts:
        if experts.node in places:
            work.coverage.matched += 1
            work.decline(
                experts.node,
                f"the weights of {experts.count} experts, {experts.bytes:,} bytes in {len(experts.stacks)} stacks, "
                "are left alone: drop-experts, merge-experts and prune-experts work on them",
            )
    for node, reason in found.unread.items():
        if node in places:
            work.near_miss(node, f"perhaps experts: {reason}")
