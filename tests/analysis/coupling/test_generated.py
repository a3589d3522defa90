"""Random networks, random removals: always what zeros in their place give."""

import dataclasses
from typing import Any

import onnx_ir
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning import holds, network

SIZES = (4, 6, 8)


@dataclasses.dataclass
class _Net:
    """Nodes as text, shapes of weights, and the values made so far with their channels."""

    lines: list[str] = dataclasses.field(default_factory=list[str])
    shapes: dict[str, tuple[int, ...]] = dataclasses.field(
        default_factory=dict[str, tuple[int, ...]]
    )
    values: list[tuple[str, int]] = dataclasses.field(default_factory=lambda: [("x", 4)])

    def add(self, channels: int, text: str, **weights: tuple[int, ...]) -> None:
        """Append a node; ``{y}`` is its result, ``{w}`` and other names its weights."""
        name = f"a{len(self.lines)}"
        names = {key: f"{key}{len(self.lines)}" for key in weights}
        self.shapes.update({names[key]: shape for key, shape in weights.items()})
        self.lines.append(text.format(y=name, **names))
        self.values.append((name, channels))

    def model(self, seed: int) -> onnx_ir.Model:
        """Return the network with a classifier behind the last value."""
        last, channels = self.values[-1]
        self.add(2, f"y = Conv({last}, {{w}})", w=(2, channels, 1, 1))
        body = "\n".join(self.lines)
        return network(
            f"(float[N,4,5,5] x) => (float[N,2,5,5] y) {{ {body} }}", self.shapes, seed=seed
        )


def _step(net: _Net, draw: Any) -> None:
    """Append one operator on a random value."""
    x, channels = draw(st.sampled_from(net.values[-3:]))
    kind = draw(st.sampled_from(["conv", "conv", "act", "norm", "add", "concat", "group", "gate"]))
    peers = [name for name, size in net.values if size == channels]
    if kind == "conv":
        size = draw(st.sampled_from(SIZES))
        net.add(
            size,
            f"{{y}} = Conv<pads=[1,1,1,1]>({x}, {{w}}, {{b}})",
            w=(size, channels, 3, 3),
            b=(size,),
        )
    elif kind == "act":
        net.add(channels, f"{{y}} = {draw(st.sampled_from(['Relu', 'Sigmoid', 'Gelu']))}({x})")
    elif kind == "norm":
        shape = (channels,)
        text = f"{{y}} = BatchNormalization({x}, {{s}}, {{t}}, {{m}}, {{v}})"
        net.add(channels, text, s=shape, t=shape, m=shape, v=shape)
    elif kind in ("add", "gate"):
        other = draw(st.sampled_from(peers))
        net.add(channels, f"{{y}} = {'Add' if kind == 'add' else 'Mul'}({x}, {other})")
    elif kind == "concat":
        other, more = draw(st.sampled_from(net.values))
        net.add(channels + more, f"{{y}} = Concat<axis=1>({x}, {other})")
    else:
        groups = draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0]))
        shape = (channels, channels // groups, 1, 1)
        net.add(channels, f"{{y}} = Conv<group={groups}>({x}, {{w}})", w=shape)


@st.composite
def networks(draw: Any) -> _Net:
    """Draw three to eight operators."""
    net = _Net()
    for _ in range(draw(st.integers(3, 8))):
        _step(net, draw)
    return net


@settings(max_examples=25, deadline=None)
@given(networks(), st.sampled_from([0.1, 0.3, 0.5, 0.7]), st.integers(0, 99))
def test_removal_equals_zeros(net: _Net, ratio: float, seed: int) -> None:
    """Filters, grouped and depthwise ones, sums, gates, norms and concatenations in any order."""
    holds(net.model(seed), ratio, seed)
