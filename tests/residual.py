"""A small transformer as text: pre-norm or post-norm blocks of one attention and one MLP."""

import numpy as np
import onnx_ir
from folding import BINDINGS, build

from whet.passes.base import Coverage, Pass
from whet.passes.workbench import Context, Workbench

SIZE = 16


def transformer(
    count: int = 3,
    *,
    post: bool = False,
    strength: dict[str, float] | None = None,
    norm: str = "rms",
    seed: int = 0,
) -> onnx_ir.Model:
    """Build a language model; ``strength`` of ``a1`` scales what the attention of block 1 writes, ``f1`` its MLP."""
    rng = np.random.default_rng(seed)
    strength = strength or {}
    constants: dict[str, np.ndarray] = {
        "e": rng.standard_normal((30, SIZE)),
        "h": rng.standard_normal((SIZE, 30)),
    }
    lines, x = ["x = Gather(e, ids)"], "x"
    for k in range(count):
        scales = {name: strength.get(f"{name}{k}", 0.3) for name in "af"}
        shapes = {
            "q": (SIZE, SIZE),
            "k": (SIZE, SIZE),
            "v": (SIZE, SIZE),
            "o": (SIZE, SIZE),
            "u": (SIZE, 32),
            "d": (32, SIZE),
        }
        for name, shape in shapes.items():
            size = {"o": scales["a"], "d": scales["f"]}.get(name, 1.0)
            constants[f"{name}{k}"] = rng.standard_normal(shape) * size / np.sqrt(shape[0])
        constants |= {f"{g}{k}": rng.uniform(0.5, 1.5, SIZE) for g in ("g", "i")}
        constants |= {f"{b}{k}": rng.standard_normal(SIZE) * 0.1 for b in ("b", "j")}
        attention = (
            f"q_{k} = MatMul({{0}}, q{k}) k_{k} = MatMul({{0}}, k{k}) "
            f"t_{k} = Transpose<perm=[0,2,1]>(k_{k}) s_{k} = MatMul(q_{k}, t_{k}) "
            f"m_{k} = Softmax(s_{k}) v_{k} = MatMul({{0}}, v{k}) c_{k} = MatMul(m_{k}, v_{k}) "
            f"a_{k} = MatMul(c_{k}, o{k})"
        )
        mlp = f"u_{k} = MatMul({{0}}, u{k}) r_{k} = Relu(u_{k}) f_{k} = MatMul(r_{k}, d{k})"
        if post:
            lines += [
                attention.format(x),
                f"p_{k} = Add({x}, a_{k})",
                _norm(norm, f"n_{k}", f"p_{k}", f"g{k}", f"b{k}"),
            ]
            lines += [
                mlp.format(f"n_{k}"),
                f"z_{k} = Add(n_{k}, f_{k})",
                _norm(norm, f"y_{k}", f"z_{k}", f"i{k}", f"j{k}"),
            ]
            x = f"y_{k}"
        else:
            lines += [
                _norm(norm, f"n_{k}", x, f"g{k}", f"b{k}"),
                attention.format(f"n_{k}"),
                f"p_{k} = Add({x}, a_{k})",
            ]
            lines += [
                _norm(norm, f"w_{k}", f"p_{k}", f"i{k}", f"j{k}"),
                mlp.format(f"w_{k}"),
                f"z_{k} = Add(p_{k}, f_{k})",
            ]
            x = f"z_{k}"
    if not post:
        constants |= {"gl": rng.uniform(0.5, 1.5, SIZE), "bl": rng.standard_normal(SIZE) * 0.1}
        lines.append(_norm(norm, "last", x, "gl", "bl"))
        x = "last"
    lines.append(f"y = MatMul({x}, h)")
    text = "(int64[N,M] ids) => (float[N,M,30] y) { " + " ".join(lines) + " }"
    used = {
        k: v.astype(np.float32)
        for k, v in constants.items()
        if f" {k}," in text or f" {k})" in text or f"({k}," in text
    }
    return build(text, used, opset=23)


def _norm(kind: str, output: str, data: str, scale: str, bias: str) -> str:
    if kind == "rms":
        return f"{output} = RMSNormalization<epsilon=0.00001>({data}, {scale})"
    return f"{output} = LayerNormalization<epsilon=0.00001>({data}, {scale}, {bias})"


def tokens(count: int, seed: int) -> dict[str, np.ndarray]:
    return {"ids": np.random.default_rng(seed).integers(0, 30, (count, 7))}


def apply(model: onnx_ir.Model, step: Pass, *, data: bool = True) -> Coverage:
    """Run a pass with data to fit on and data to judge by."""
    kept = (
        {"calibration": (tokens(16, 1), tokens(16, 2)), "held_out": (tokens(8, 3),)} if data else {}
    )
    work = Workbench(model, step, Context(BINDINGS, **kept))
    step.apply(work)
    return work.coverage
