"""Whole networks: clean for every compiler, right on every machine, no more memory than they need."""

import json
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from c_artifacts import (
    CORTEX,
    build,
    execute,
    library,
    lower,
    needs_gcc,
    run,
    run_on_aarch64,
    run_on_cortex,
)

import whet
from whet.analysis.activations import open_at
from whet.ir.files import load_model

torch = pytest.importorskip("torch")

from small_networks import KeywordSpotter, TinyTransformer, settled  # noqa: E402 (needs torch)

pytestmark = needs_gcc

ASSETS = Path(__file__).resolve().parents[4] / "shared" / "assets"
NETWORKS = ("keywords", "transformer", "transformer_int8", "transformer_dynamic", "resnet20")


def keywords(out: Path) -> None:
    x = np.random.default_rng(0).standard_normal((48, 1, 49, 10)).astype(np.float32)
    module = settled(KeywordSpotter(), torch.from_numpy(x))
    compiled(module, torch.from_numpy(x[:1]), out, calibration={"x": x})


def transformer(out: Path, recipe: str = "exact", *, data: bool = False) -> None:
    ids = np.random.default_rng(0).integers(0, 100, (48, 16))
    calibration = {"ids": ids} if data else None
    compiled(
        TinyTransformer().eval(),
        torch.from_numpy(ids[:1]),
        out,
        recipe=recipe,
        calibration=calibration,
    )


def resnet20(out: Path) -> None:
    source = ASSETS / "resnet_cifar10" / "resnet20.onnx"
    images = ASSETS / "cifar10" / "train_10k.npz"
    if not source.is_file() or not images.is_file():
        pytest.skip(f"real weights are not here: {ASSETS}")
    with np.load(images) as data:
        pixels = data["x"][:128].astype(np.float32) / 255
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    x = np.ascontiguousarray(((pixels - mean) / deviation).transpose(0, 3, 1, 2))
    whet.compile(
        str(source),
        calibration={"x": x},
        target="c",
        sizes={"batch": 1},
        output=out,
        measure=False,
        page=False,
    )


def compiled(
    module: "torch.nn.Module", example: "torch.Tensor", out: Path, **options: object
) -> None:
    whet.compile(module, (example,), target="c", output=out, measure=False, page=False, **options)


MAKERS = {
    "keywords": keywords,
    "transformer": transformer,
    "transformer_int8": lambda out: transformer(out, "auto", data=True),
    "transformer_dynamic": lambda out: transformer(out, "auto"),
    "resnet20": resnet20,
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("networks") / request.param
    MAKERS[request.param](out)
    return out


def test_it_is_right_here_and_the_sanitizers_have_nothing_to_say(network: Path) -> None:
    flags = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    assert "ok" in execute(build(network, *flags))


def test_its_own_makefile_builds_and_checks_it(network: Path) -> None:
    assert "ok" in execute("make", "-C", network, "check", "CFLAGS=-O3 -Werror")


@pytest.mark.parametrize("processor", CORTEX)
def test_it_is_right_on_a_cortex_m(network: Path, processor: str) -> None:
    assert "ok" in run_on_cortex(network, processor)


def test_it_is_right_on_aarch64(network: Path) -> None:
    assert "ok" in run_on_aarch64(network)


def test_the_arena_is_within_a_tenth_of_what_cannot_be_avoided(network: Path) -> None:
    found = json.loads((network / "model.json").read_text())["footprint"]
    assert found["bound"] <= found["arena"] <= 1.1 * found["bound"]


def test_the_header_states_what_it_takes(network: Path) -> None:
    text = (network / "model.h").read_text()
    found = json.loads((network / "model.json").read_text())["footprint"]
    assert f"Flash: {found['constants']:,} bytes of constants and {found['code']:,} of code" in text
    assert f"RAM: {found['arena']:,} bytes of static arena" in text
    assert f"_ARENA_BYTES {found['arena']}" in text
    libm = json.loads((network / "model.json").read_text())["libm"]
    assert ("Needs of libm: " + ", ".join(libm) if libm else "Needs no libm") in text


@pytest.mark.parametrize("name", ["keywords", "resnet20"])
def test_integers_are_those_of_the_reference_within_one_step(name: str, tmp_path: Path) -> None:
    """Every quantized tensor of the network, on random inputs, against ONNX Runtime's integer kernels."""
    torch.manual_seed(0)
    MAKERS[name](tmp_path / "artifact")
    model = load_model(tmp_path / "artifact" / "model.onnx")
    steps = [v for node in model.graph if node.op_type == "QuantizeLinear" for v in node.outputs]
    model.graph.outputs.clear()
    model.graph.outputs.extend(steps)
    shape = [int(d) for d in model.graph.inputs[0].shape or ()]
    given = model.graph.inputs[0].name or ""
    feeds = {given: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    wanted = open_at(model, [v.name or "" for v in steps], 1).run(feeds)
    lower(onnx_ir.from_proto(onnx_ir.to_proto(model)), tmp_path / "open", feeds)
    loaded = library([tmp_path / "open"], tmp_path / "open.so", "-O2")
    got = run(loaded, tmp_path / "open", feeds)
    gaps = [np.abs(a.astype(int) - b.astype(int)) for a, b in zip(got, wanted, strict=True)]
    assert len(gaps) >= 9
    assert max(int(g.max()) for g in gaps) <= 1
    assert (
        np.mean(np.concatenate([g.reshape(-1) for g in gaps]) == 0) >= 0.999
    )  # all of them, when it was written
