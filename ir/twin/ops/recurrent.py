"""Recurrent layers: RNN, GRU and LSTM, in every direction, with sequence lengths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from whet.errors import UnsupportedModel
from whet.ir.twin.registry import op

Activation = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]

_PLAIN: dict[str, Activation] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softsign": F.softsign,
    "softplus": F.softplus,
}

_WITH_PARAMETERS: dict[str, tuple[Callable[[Tensor, float, float], Tensor], float, float]] = {
    "affine": (lambda x, alpha, beta: alpha * x + beta, 1.0, 0.0),
    "leakyrelu": (lambda x, alpha, beta: F.leaky_relu(x, alpha), 0.01, 0.0),
    "thresholdedrelu": (lambda x, alpha, beta: torch.where(x >= alpha, x, 0.0), 1.0, 0.0),
    "scaledtanh": (lambda x, alpha, beta: alpha * torch.tanh(beta * x), 1.0, 1.0),
    "hardsigmoid": (lambda x, alpha, beta: torch.clamp(alpha * x + beta, 0, 1), 0.2, 0.5),
    "elu": (lambda x, alpha, beta: F.elu(x, alpha), 1.0, 0.0),
}


@dataclass(frozen=True, slots=True)
class _Layer:
    """What the three kinds have in common."""

    direction: str
    layout: int
    lengths: Tensor | None
    activations: list[list[Activation]]

    @property
    def reversals(self) -> list[bool]:
        """Say for each direction whether it runs backwards."""
        both = [False, True]
        return {"forward": [False], "reverse": [True], "bidirectional": both}[self.direction]


def _layer(
    defaults: Sequence[str],
    direction: str,
    layout: int,
    lengths: Tensor | None,
    names: Sequence[str] | None,
    alpha: Sequence[float] | None,
    beta: Sequence[float] | None,
    clip: float | None,
) -> _Layer:
    count = 2 if direction == "bidirectional" else 1
    alphas, betas = list(alpha or []), list(beta or [])
    functions = [
        _clipped(_activation(name, alphas, betas), clip) for name in names or [*defaults] * count
    ]
    each = len(defaults)
    split = [functions[each * number : each * (number + 1)] for number in range(count)]
    return _Layer(direction, layout, lengths, split)


def _activation(name: str, alphas: list[float], betas: list[float]) -> Activation:
    lower = name.lower()
    if lower in _PLAIN:
        return _PLAIN[lower]
    if lower not in _WITH_PARAMETERS:
        raise UnsupportedModel(f"no recurrent activation is called {name!r}")
    function, alpha, beta = _WITH_PARAMETERS[lower]
    first = alphas.pop(0) if alphas else alpha
    takes_beta = lower in {"affine", "scaledtanh", "hardsigmoid"}
    second = betas.pop(0) if takes_beta and betas else beta
    return lambda x: function(x, first, second)


def _clipped(function: Activation, clip: float | None) -> Activation:
    if clip is None:
        return function
    return lambda x: function(torch.clamp(x, -clip, clip))


def _flipped(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverse time, within each sample's own length."""
    if lengths is None:
        return torch.flip(x, [0])
    time = torch.arange(x.shape[0]).unsqueeze(1)
    length = lengths.unsqueeze(0)
    source = torch.where(time < length, length - 1 - time, time)
    return x[source, torch.arange(x.shape[1]).unsqueeze(0)]


def _scan(x: Tensor, state: tuple[Tensor, ...], step: Step, lengths: Tensor | None) -> list[Tensor]:
    """Run over time; return the hidden states stacked, then the final states."""
    steps: list[Tensor] = []
    for time in range(x.shape[0]):
        new = step(x[time], state)
        if lengths is None:
            state = new
            steps.append(state[0])
            continue
        live = (lengths > time).unsqueeze(1)
        state = tuple(torch.where(live, now, old) for now, old in zip(new, state, strict=True))
        steps.append(torch.where(live, new[0], torch.zeros_like(new[0])))
    return [torch.stack(steps), *state]


def _run(
    layer: _Layer,
    x: Tensor,
    initial: Sequence[Tensor | None],
    hidden: int,
    projected: Callable[[int, Tensor], Tensor],
    step: Callable[[int], Step],
) -> tuple[Tensor, ...]:
    """Run every direction; return Y and the final states in the wanted layout."""
    x = x.transpose(0, 1) if layer.layout else x
    results: list[list[Tensor]] = []
    for number, backwards in enumerate(layer.reversals):
        inputs = projected(number, _flipped(x, layer.lengths) if backwards else x)
        zeros = torch.zeros(x.shape[1], hidden, dtype=x.dtype)
        state = tuple(
            zeros if value is None else value.select(1 if layer.layout else 0, number)
            for value in initial
        )
        result = _scan(inputs, state, step(number), layer.lengths)
        result[0] = _flipped(result[0], layer.lengths) if backwards else result[0]
        results.append(result)
    y, *finals = (torch.stack(parts) for parts in zip(*results, strict=True))
    if layer.layout:
        return y.permute(2, 1, 0, 3), *(final.transpose(0, 1) for final in finals)
    return y.transpose(0, 1), *finals


def _biases(bias: Tensor | None, number: int, like: Tensor) -> tuple[Tensor, Tensor]:
    if bias is None:
        zero = torch.zeros(like.shape[1], dtype=like.dtype)
        return zero, zero
    first, second = bias[number].chunk(2)
    return first, second


@op("RNN", since=7)
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    direction: str,
    hidden_size: int | None = None,
    layout: int = 0,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
) -> tuple[Tensor, ...]:
    """Compute ``H = f(X W^T + H R^T + Wb + Rb)``."""
    layer = _layer(
        ["Tanh"],
        direction,
        layout,
        sequence_lens,
        activations,
        activation_alpha,
        activation_beta,
        clip,
    )

    def projected(number: int, inputs: Tensor) -> Tensor:
        return inputs @ w[number].t() + sum(_biases(b, number, w))

    def step(number: int) -> Step:
        (f,) = layer.activations[number]
        return lambda now, state: (f(now + state[0] @ r[number].t()),)

    return _run(layer, x, [initial_h], r.shape[-1], projected, step)


@op("GRU", since=7)
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    direction: str,
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
) -> tuple[Tensor, ...]:
    """Compute gates z and r, a candidate h, and ``H = (1 - z) h + z H``."""
    layer = _layer(
        ["Sigmoid", "Tanh"],
        direction,
        layout,
        sequence_lens,
        activations,
        activation_alpha,
        activation_beta,
        clip,
    )

    def projected(number: int, inputs: Tensor) -> Tensor:
        return inputs @ w[number].t() + _biases(b, number, w)[0]

    def step(number: int) -> Step:
        f, g = layer.activations[number]
        rz, rr, rh = r[number].chunk(3)
        bz, br, bh = _biases(b, number, w)[1].chunk(3)

        def advance(now: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (h,) = state
            xz, xr, xh = now.chunk(3, dim=-1)
            update = f(xz + h @ rz.t() + bz)
            reset = f(xr + h @ rr.t() + br)
            past = reset * (h @ rh.t() + bh) if linear_before_reset else (reset * h) @ rh.t() + bh
            return ((1 - update) * g(xh + past) + update * h,)

        return advance

    return _run(layer, x, [initial_h], r.shape[-1], projected, step)


@op("LSTM", since=7)
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    direction: str,
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
) -> tuple[Tensor, ...]:
    """Compute gates i, o, f and a candidate c, ``C = f C + i c`` and ``H = o h(C)``."""
    layer = _layer(
        ["Sigmoid", "Tanh", "Tanh"],
        direction,
        layout,
        sequence_lens,
        activations,
        activation_alpha,
        activation_beta,
        clip,
    )

    def projected(number: int, inputs: Tensor) -> Tensor:
        return inputs @ w[number].t() + sum(_biases(b, number, w))

    def step(number: int) -> Step:
        f, g, h = layer.activations[number]
        zero = torch.zeros(3 * r.shape[-1], dtype=r.dtype)
        pi, po, pf = (zero if p is None else p[number]).chunk(3)

        def advance(now: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden, cell = state
            xi, xo, xf, xc = (now + hidden @ r[number].t()).chunk(4, dim=-1)
            enter = f(xi + pi * cell)
            forget = 1 - enter if input_forget else f(xf + pf * cell)
            cell = forget * cell + enter * g(xc)
            return f(xo + po * cell) * h(cell), cell

        return advance

    return _run(layer, x, [initial_h, initial_c], r.shape[-1], projected, step)
