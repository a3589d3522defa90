"""placeholder"""

import dataclasses
from typing import Literal

from whet.analysis.prices import Prices
from whet.passes.attention.call import AttentionSizes


@dataclasses.dataclass(frozen=True)
class AttentionWork:
    sizes: AttentionSizes
    causal: bool = False
    mask: Literal["", "float", "bool"] = ""
    softcap: float = 0.0
    rank: int = 0


def fastest(prices: Prices, work: AttentionWork) -> tuple[str, float]:
    return "x", 1.0


def mask_time(prices: Prices, work: AttentionWork) -> float:
    return 0.0
