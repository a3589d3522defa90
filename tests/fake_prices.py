"""Invented prices: decisions are tested without a clock."""

from collections.abc import Callable, Mapping

from whet.analysis.prices import KernelModel

__all__ = ["FakePrices"]


class FakePrices:
    """Answer with what ``rule`` says for (work, format); 0 or less means that it does not run."""

    def __init__(self, rule: Callable[[str, str], float]) -> None:
        self._rule = rule
        self.asked: list[str] = []
        self.models: dict[tuple[str, str], KernelModel] = {}

    def lookup(
        self, work: str, formats: Mapping[str, KernelModel], rounds: int = 5
    ) -> Mapping[str, float]:
        self.asked.append(work)
        self.models.update({(work, name): model for name, model in formats.items()})
        times = {name: self._rule(work, name) for name in formats}
        return {name: ms for name, ms in times.items() if ms > 0}
