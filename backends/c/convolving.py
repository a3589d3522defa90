"""Kernels for convolutions and products with weights, channels last.

A product of rows with a matrix is a convolution over one row of pixels with a window of one. Integers are multiplied as
dot products along what lies together in memory, which compilers vectorize; sums of floats may not be reordered, so
there several outputs are summed side by side.
"""

import dataclasses

from whet.backends.c.epilogue import Epilogue
from whet.backends.c.windows import Window, loop

__all__ = ["Layer", "depthwise", "dot_products", "side_by_side"]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution."""

    window: Window
    groups: int
    outputs: int
    read: str
    """How ``row[i]`` becomes a factor, ``{0}`` stands for it."""
    type: str
    """The C type of ``x``."""
    weights: str
    """The C type of ``w``."""
    begin: str
    """What the sum of output ``{c}`` begins with."""
    epilogue: Epilogue

    @property
    def depth(self) -> int:
        """Return the input channels of a group."""
        return self.window.channels // self.groups

    @property
    def together(self) -> bool:
        """Tell whether the pixels of a row of the window lie side by side in memory."""
        return self.groups == 1 and self.window.columns.dilation == 1


def dot_products(layer: Layer) -> str:
    """Return the body for integer weights ``w[output][ky][kx][depth]``: up to four outputs at a time."""
    w, depth = layer.window, layer.depth
    each = layer.outputs // layer.groups
    block = next(n for n in (4, 2, 1) if each % n == 0)
    size = w.rows.kernel * w.columns.kernel * depth
    sums = "\n".join(
        f"int32_t a{j} = {layer.begin.format(c=f'c + {j}' if j else 'c')};" for j in range(block)
    )
    rows = "\n".join(
        f"const {layer.weights} *w{j} = k + {j * size};" if j else f"const {layer.weights} *w0 = k;"
        for j in range(block)
    )
    adds = "\n".join(f"a{j} += v * w{j}[i];" for j in range(block))
    ends = "\n".join(
        f"{{\n{layer.epilogue.lines(f'a{j}', c, f'{w.pixel} * {layer.outputs} + {c}')}\n}}"
        for j in range(block)
        for c in [f"c + {j}" if j else "c"]
    )
    channel = f" + g * {depth}" if layer.groups > 1 else ""
    if layer.together:
        first = w.columns.first("kx")
        count = (
            f"{w.columns.count('kx')} * {depth}"
            if not w.columns.bare
            else str(w.columns.kernel * depth)
        )
        taps = f"""
        {w.rows.each("ky")}
        const {layer.type} *row = x + {w.at("ky", first)} * {w.channels};
        const {layer.weights} *k = w + ((c * {w.rows.kernel} + ky) * {w.columns.kernel} + {first}) * {depth};
        {rows}
        for (int i = 0; i < {count}; ++i) {{
        const int v = {layer.read.format("row[i]")};
        {adds}
        }}
        }}"""
    else:
        taps = f"""
        {w.rows.each("ky")}
        {w.columns.each("kx")}
        const {layer.type} *row = x + {w.at("ky", "kx")} * {w.channels}{channel};
        const {layer.weights} *k = w + ((c * {w.rows.kernel} + ky) * {w.columns.kernel} + kx) * {depth};
        {rows}
        for (int i = 0; i < {depth}; ++i) {{
        const int v = {layer.read.format("row[i]")};
        {adds}
        }}
        }}
        }}"""
    return f"""
    {w.opening}
    {_over_groups(layer)}
    for (int c = {_start(layer, each)}; c < {_end(layer, each)}; c += {block}) {{
    {sums}
    {taps}
    {ends}
    }}
    }}
    }}
    }}
    {"}" if layer.groups > 1 else ""}
    """


def side_by_side(layer: Layer) -> str:
    """Return the body for float sums with weights ``w[group][ky][kx][depth][output]``."""
    w, depth = layer.window, layer.depth
    each = layer.outputs // layer.groups
    block = _block(each)
    index = f"{w.pixel} * {layer.outputs} + c + j"
    tap = f"((g * {w.rows.kernel} + ky) * {w.columns.kernel} + kx)"
    if layer.groups == 1:
        tap = f"(ky * {w.columns.kernel} + kx)"
    local = f"c - g * {each}" if layer.groups > 1 else "c"
    channel = f" + g * {depth}" if layer.groups > 1 else ""
    cast = "" if layer.weights == "float" else "(float)"
    return f"""
    {w.opening}
    {_over_groups(layer)}
    for (int c = {_start(layer, each)}; c < {_end(layer, each)}; c += {block}) {{
    float a[{block}];
    for (int j = 0; j < {block}; ++j) {{
    a[j] = {layer.begin.format(c="c + j")};
    }}
    {w.rows.each("ky")}
    {w.columns.each("kx")}
    const {layer.type} *row = x + {w.at("ky", "kx")} * {w.channels}{channel};
    const {layer.weights} *k = w + {tap} * {depth * each} + {local};
    for (int i = 0; i < {depth}; ++i) {{
    const float v = {layer.read.format("row[i]")};
    for (int j = 0; j < {block}; ++j) {{
    a[j] += v * {cast}k[i * {each} + j];
    }}
    }}
    }}
    }}
    for (int j = 0; j < {block}; ++j) {{
    {layer.epilogue.lines("a[j]", "c + j", index)}
    }}
    }}
    }}
    }}
    }}
    {"}" if layer.groups > 1 else ""}
    """


def depthwise(layer: Layer, kind: str) -> str:
    """Return the body for one weight ``w[ky][kx][channel]`` a channel and tap; ``kind`` is the type of the sums."""
    w, channels = layer.window, layer.outputs
    block = _block(channels)
    factor = "int" if kind == "int32_t" else "float"
    cast = "(float)" if factor == "float" and layer.weights != "float" else ""
    return f"""
    {w.opening}
    for (int c = 0; c < {channels}; c += {block}) {{
    {kind} a[{block}];
    for (int j = 0; j < {block}; ++j) {{
    a[j] = {layer.begin.format(c="c + j")};
    }}
    {w.rows.each("ky")}
    {w.columns.each("kx")}
    const {layer.type} *row = x + {w.at("ky", "kx")} * {channels} + c;
    const {layer.weights} *k = w + (ky * {w.columns.kernel} + kx) * {channels} + c;
    for (int j = 0; j < {block}; ++j) {{
    const {factor} v = {layer.read.format("row[j]")};
    a[j] += v * {cast}k[j];
    }}
    }}
    }}
    for (int j = 0; j < {block}; ++j) {{
    {layer.epilogue.lines("a[j]", "c + j", f"{w.pixel} * {channels} + c + j")}
    }}
    }}
    }}
    }}
    }}
    """


def _block(count: int) -> int:
    return next(n for n in range(min(count, 16), 0, -1) if count % n == 0)


def _over_groups(layer: Layer) -> str:
    return loop("g", layer.groups) if layer.groups > 1 else ""


def _start(layer: Layer, each: int) -> str:
    return f"g * {each}" if layer.groups > 1 else "0"


def _end(layer: Layer, each: int) -> str:
    return f"(g + 1) * {each}" if layer.groups > 1 else str(each)
