from collections.abc import Mapping

from fake_prices import FakePrices

from whet.analysis.prices import KernelModel
from whet.passes.quantization.placement_race import Placed, fastest, flips

LINKS = [(k, k + 1) for k in range(5)]


def placed(*numbers: int) -> Placed:
    return frozenset(numbers)


def race(costs: Mapping[Placed, float], *candidates: Placed) -> Placed:
    """Run a race among placements of six steps in a row; those without a cost take 9 ms."""
    names = {f"{sum(1 << k for k in p):x}": ms for p, ms in costs.items()}
    prices = FakePrices(lambda _work, name: names.get(name, 9.0))
    border = lambda p: flips(p, LINKS, placed(0, 5), 8)  # noqa: E731
    return fastest(prices, "model", lambda _: lambda: (b"", {}), candidates, border)[0]


def test_the_fastest_candidate_wins_and_the_first_of_equals() -> None:
    all_, none = placed(*range(6)), placed()
    assert race({all_: 3.0, none: 5.0}, none, all_) == all_
    assert race({all_: 3.0, none: 3.01}, none, all_) == none


def test_pieces_at_the_border_move_alone_and_together() -> None:
    all_ = placed(*range(6))
    costs = {all_: 5.0, all_ - {0}: 4.5, all_ - {5}: 4.5, all_ - {0, 5}: 4.0}
    assert race(costs, all_) == all_ - {0, 5}
    costs[all_ - {0, 5}] = 8.0
    assert race(costs, all_) in (all_ - {0}, all_ - {5})


def test_an_island_moves_as_a_whole() -> None:
    some = placed(0, 1, 4, 5)
    assert race({some: 5.0, placed(*range(6)): 3.0}, some) == placed(*range(6))
    assert flips(some, LINKS, placed(), 3)[0] == placed(2, 3)


def test_where_nothing_runs_the_first_candidate_stays() -> None:
    prices = FakePrices(lambda _work, _name: -1.0)
    found = fastest(prices, "m", lambda _: lambda: (b"", {}), [placed(1), placed()], lambda _: [])
    assert found == (placed(1), {})


def test_under_a_millisecond_the_best_few_meet_again() -> None:
    all_, some = placed(*range(6)), placed(0, 1)
    asked: dict[str, int] = {}

    class Noisy(FakePrices):
        """Favour one placement in short races and the other in the long one."""

        def lookup(
            self, work: str, formats: Mapping[str, KernelModel], rounds: int = 5
        ) -> Mapping[str, float]:
            asked[work] = rounds
            best = "3" if rounds == 5 else "3f"
            return {name: 0.20 if name == best else 0.205 for name in formats}

    found, times = fastest(
        Noisy(lambda _work, _name: 1.0),
        "model",
        lambda _: lambda: (b"", {}),
        [some, all_],
        lambda _: [],
    )
    assert found == all_
    assert times[all_] < times[some]
    assert sorted(asked.values()) == [5, 25]
