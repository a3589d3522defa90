import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from whet.analysis import kernel_prices
from whet.analysis.kernel_prices import KernelPrices, cache_folder
from whet.analysis.prices import KernelModel
from whet.backends.base import RuntimeOptions
from whet.backends.race import race
from whet.backends.worker import Child
from whet.passes.kernels import kernel

OPTIONS = RuntimeOptions(threads=1)


def model(op: str) -> KernelModel:
    return kernel({"x": np.ones((2, 3), np.float32)}, lambda build, x: build.op(op, x[0]), 18)


MODELS = {"float32": model("Relu"), "other": model("Neg"), "missing": model("NoSuchOperator")}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    asked: list[list[str]] = []

    def fake(
        _child: Child, models: Mapping[str, object], *_: object, rounds: int
    ) -> dict[str, float]:
        assert rounds == 5
        asked.append(sorted(models))
        return {name: -1.0 if name == "missing" else float(len(name)) for name in models}

    monkeypatch.setattr(kernel_prices, "race", fake)
    return asked


def test_a_race_times_what_runs() -> None:
    made = {name: make() for name, make in MODELS.items()}
    with Child() as child:
        found = race(child, made, OPTIONS, rounds=2, block_seconds=0.001)
        again = race(child, made, OPTIONS, rounds=2, block_seconds=0.001)
    assert found["float32"] > 0
    assert again["other"] > 0
    assert found["missing"] == -1


def test_prices_are_measured_once(tmp_path: Path, measured: list[list[str]]) -> None:
    path = tmp_path / "deep" / "prices.json"
    first = KernelPrices(OPTIONS, "1.0", path)
    assert first.lookup("Relu [2,3]", MODELS) == {"float32": 7.0, "other": 5.0}
    second = KernelPrices(OPTIONS, "1.0", path)
    assert second.lookup("Relu [2,3]", MODELS) == {"float32": 7.0, "other": 5.0}
    assert second.used == {"Relu [2,3]": {"float32": 7.0, "other": 5.0}}
    assert len(measured) == 1
    assert [p.name for p in path.parent.iterdir()] == ["prices.json"]


def test_alternatives_come_from_one_measurement(tmp_path: Path, measured: list[list[str]]) -> None:
    prices = KernelPrices(OPTIONS, "1.0", tmp_path / "p.json")
    prices.lookup("w", {"float32": MODELS["float32"]})
    prices.lookup("w", {"float32": MODELS["float32"], "other": MODELS["other"]})
    assert measured == [["float32"], ["float32", "other"]]


@pytest.mark.parametrize(
    ("options", "version"),
    [(RuntimeOptions(2), "1.0"), (OPTIONS, "2.0"), (RuntimeOptions(1, "none"), "1.0")],
)
def test_other_conditions_are_measured_anew(
    options: RuntimeOptions, version: str, tmp_path: Path, measured: list[list[str]]
) -> None:
    path = tmp_path / "p.json"
    KernelPrices(OPTIONS, "1.0", path).lookup("w", MODELS)
    KernelPrices(options, version, path).lookup("w", MODELS)
    assert len(measured) == 2
    assert len(json.loads(path.read_text())["entries"]) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"schema": 9}',
        '{"schema": 1, "entries": 3}',
        '{"schema": 1, "entries": {"a": 4}}',
    ],
)
def test_a_damaged_cache_is_rebuilt(text: str, tmp_path: Path, measured: list[list[str]]) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    prices = KernelPrices(OPTIONS, "1.0", path)
    assert prices.lookup("w", MODELS)["other"] == 5.0
    assert KernelPrices(OPTIONS, "1.0", path).lookup("w", MODELS)["other"] == 5.0
    assert len(measured) == 1


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, measured: list[list[str]]
) -> None:
    (tmp_path / "file").write_text("")
    prices = KernelPrices(OPTIONS, "1.0", tmp_path / "file" / "p.json")
    assert prices.lookup("w", MODELS)["other"] == 5.0
    assert measured


def test_the_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("WHET_CACHE", raising=False)
    assert cache_folder() == tmp_path / "whet"
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
