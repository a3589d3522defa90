"""The benchmarks' own machinery: the large model, the watch over processes, the list."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import whet
from whet.backends.base import RuntimeOptions
from whet.backends.measure import compare_speed
from whet.backends.worker import Turns, Worker
from whet.report import Report
from whet.tools.bench import __main__ as bench
from whet.tools.bench.compile_time import profile
from whet.tools.bench.large_model import LAYERS, write_large_model
from whet.tools.bench.process_tree import watch
from whet.tools.bench.residual_network import residual_network

LINUX = pytest.mark.skipif(not Path("/proc").exists(), reason="needs Linux's /proc")


def test_the_large_model_has_its_size_and_compiles_to_one_gemm_a_layer(tmp_path: Path) -> None:
    path = write_large_model(tmp_path, 0.02)
    onnx.checker.check_model(path)
    size = sum(file.stat().st_size for file in tmp_path.iterdir() if file.is_file())
    assert size == pytest.approx(0.02e9, rel=0.1)
    artifact = whet.compile(path, recipe="exact", measure=False, output=tmp_path / "out")
    assert isinstance(artifact.report, Report)
    changed = {step.name: step.coverage.changed for step in artifact.report.steps}
    assert changed["deduplicate-initializers"] == 1
    assert changed["fold-batch-norm"] == LAYERS // 6
    assert artifact.report.after.ops == 2 * LAYERS


def test_the_large_model_is_the_same_in_every_run(tmp_path: Path) -> None:
    files: list[bytes] = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = write_large_model(tmp_path / name, 0.002)
        files.append(path.read_bytes() + path.with_name("large.onnx.data").read_bytes())
    assert files[0] == files[1]


@LINUX
def test_watch_counts_shared_pages_once_and_children_too() -> None:
    inner = "b = bytearray(60_000_000)\nimport time; time.sleep(0.8)"
    outer = (
        "import subprocess, sys, time\nb = bytearray(60_000_000)\n"
        f"subprocess.run([sys.executable, '-c', {inner!r}], check=True)\nprint('done')"
    )
    usage = watch([sys.executable, "-c", outer])
    assert (usage.code, usage.output) == (0, "done\n")
    assert 60e6 < usage.own < 110e6
    assert 60e6 < usage.largest < 110e6
    assert 120e6 < usage.tree < 180e6
    assert len(usage.children) == 1


@LINUX
def test_watch_returns_the_exit_code_and_what_was_said() -> None:
    usage = watch([sys.executable, "-c", "import sys; sys.exit('no')"])
    assert (usage.code, usage.errors) == (1, "no\n")


def test_workers_that_take_turns_hold_one_model_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(residual_network(1).SerializeToString())
    turns = Turns()
    feeds = {"image": np.ones((2, 3, 32, 32), np.float32)}
    with (
        Worker(path, RuntimeOptions(1), turns=turns) as first,
        Worker(path, RuntimeOptions(1), turns=turns) as second,
    ):
        loaded = first.peak_bytes()
        assert loaded > 0, "a resting worker still knows its peak"
        (one,), (two,) = first.run(feeds), second.run(feeds)
        np.testing.assert_array_equal(one, two)
        times = compare_speed(
            [first, second], [feeds, feeds], rounds=2, block_seconds=0.01, together=False
        )
        assert [timing.runs for timing in times] == [2, 2]
        turns.end()
        assert first.peak_bytes() >= loaded


def test_an_unknown_benchmark_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench.main(["speed"])
    assert stopped.value.code == 2
    assert "unknown benchmark 'speed'; known: canonicalize" in capsys.readouterr().err


def test_the_memory_benchmark_says_why_it_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from whet.tools.bench import memory

    file = tmp_path / "numbers.json"
    assert memory.main(["--gigabytes", "1e9", "--json", str(file)]) == 0
    assert "memory: skipped:" in capsys.readouterr().out
    assert "needed" in json.loads(file.read_text())["skipped"]


def test_every_part_of_a_compile_is_timed() -> None:
    found = profile("small", lambda: (residual_network(1), {}))
    assert found.nodes == 31
    assert not found.skipped
    assert all(seconds > 0 for seconds in found.parts.values()), found.parts
    assert sum(found.passes.values()) < found.seconds


def test_a_compile_that_needs_what_is_not_installed_is_skipped() -> None:
    def source() -> tuple[object, dict[str, object]]:
        raise ImportError("no such library")

    assert profile("none", source).skipped == "no such library"
