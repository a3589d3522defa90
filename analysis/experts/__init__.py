"""Mixtures of experts on the graph: who routes, what is chosen, which weights belong to whom."""

from whet.analysis.experts.experts import Experts, Stack
from whet.analysis.experts.finding import Found, find_experts

__all__ = ["Experts", "Found", "Stack", "find_experts"]
