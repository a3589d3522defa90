"""Devices: detected, known, described; what each field decides."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet.backends.device import DEVICES, find_device, host
from whet.errors import BudgetMissed, UnsupportedTarget, UsageError


def network(path: Path, kind: str = "Relu") -> Path:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node(kind, ["h"], ["a"], "middle"),
        helper.make_node("MatMul", ["a", "v"], ["y"], "last"),
    ]
    weights = {"w": rng.standard_normal((8, 96)), "v": rng.standard_normal((96, 4))}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )
    imports = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), path)
    return path


def build(source: Path, out: Path, **options: Any) -> whet.Artifact:
    given = {"recipe": "exact", "sizes": {"batch": 2}, "page": False}
    return whet.compile(str(source), output=out, **{**given, **options})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return network(tmp_path / "net.onnx")


def test_the_host_is_this_machine() -> None:
    assert host().here
    assert find_device("host") == host()
    assert host().ram is None
    assert host().flash is None
    assert find_device("host{threads=2,opset=17}").here
    assert not find_device("host{onnxruntime=1.17}").here
    assert not find_device("host{isa=x86_64 avx2}").here


@pytest.mark.parametrize("name", DEVICES)
def test_known_devices_are_other_machines(name: str) -> None:
    device = find_device(name)
    assert device.name == name
    assert not device.here
    assert device.bare == device.isa[0].endswith("-m")
    assert device.saturates == name.startswith("x86")


def test_options_and_files_change_a_device(tmp_path: Path) -> None:
    small = find_device("cortex-m4{ram=64KiB, flash=1MB}")
    assert (small.ram, small.flash) == (65536, 1_000_000)
    assert small.flags == ("-mcpu=cortex-m4", "-mthumb")
    path = tmp_path / "kiosk.toml"
    path.write_text('base = "raspberry-pi-4"\nthreads = 2\nonnxruntime = "1.17.3"\nflash = "8MB"\n')
    kiosk = find_device(path)
    assert (kiosk.name, kiosk.threads, kiosk.flash) == ("kiosk", 2, 8_000_000)
    assert kiosk.newest_opset == 20
    assert find_device(f"{path}{{opset=19}}").newest_opset == 19
    path.write_text('isa = ["x86_64", "avx2", "avx_vnni"]')
    assert not find_device(path).saturates
    path.write_text('base = "host"')
    assert not find_device(path).here


@pytest.mark.parametrize(
    ("spelled", "words"),
    [
        ("cortex-m5", "unknown device 'cortex-m5'; did you mean 'cortex-m"),
        ("toaster", "unknown device 'toaster'; known: host, cortex-m0plus"),
        ("cortex-m4{ramm=1}", "unknown key 'ramm' of the device 'cortex-m4'; did you mean 'ram'?"),
        ("cortex-m4{ram}", "key 'ram' of device 'cortex-m4' has no value"),
        ("cortex-m4{ram=lots}", "ram of the device 'cortex-m4' is 'lots', expected something like"),
        ("host{threads=-1}", "threads of the device 'host' is '-1', expected a whole number"),
        ("host{opset=3}", "opset of the device 'host' is 3, expected 7 or more"),
        ("host{onnxruntime=new}", "onnxruntime of the device 'host' is 'new', expected a version"),
        ("host{onnxruntime=1.2}", "onnxruntime is 1.2, expected 1.7 or newer"),
        ("host{here=1}", "unknown key 'here'"),
        ("nowhere.toml", "cannot read the device 'nowhere.toml'"),
        ("{", "expected NAME, FILE.toml or NAME"),
    ],
)
def test_mistakes_are_named(spelled: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_device(spelled)
    assert words in str(caught.value)


def test_a_file_says_what_it_is_like(tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text("threads = 2")
    with pytest.raises(UsageError, match="says neither isa nor base"):
        find_device(path)
    path.write_text("isa = []")
    with pytest.raises(UsageError, match=r"isa of the device .* is empty"):
        find_device(path)
    path.write_text("isa = ")
    with pytest.raises(UsageError, match="is not TOML"):
        find_device(path)


def test_nothing_is_timed_for_another_machine(source: Path, tmp_path: Path) -> None:
    made = build(source, tmp_path / "out", device="raspberry-pi-4")
    report = made.report
    assert report is not None
    assert report.before.time is None
    assert report.after.time is None
    assert not report.kernels
    assert any("the device is raspberry-pi-4, and milliseconds of this" in n for n in report.notes)
    assert made.manifest["device"]["name"] == "raspberry-pi-4"
    assert made.manifest["device"]["isa"] == ("aarch64", "asimd")
    assert made.manifest["runtime"]["threads"] == 4
    assert report.provenance is not None
    assert "--device raspberry-pi-4" in report.provenance.command
    with pytest.raises(UsageError, match="this machine is not the device 'raspberry-pi-4'"):
        build(source, tmp_path / "o", device="raspberry-pi-4", budget=whet.Budget(latency="1ms"))


def test_threads_of_the_user_come_first(source: Path, tmp_path: Path) -> None:
    made = build(source, tmp_path / "out", device="raspberry-pi-4", threads=2)
    assert made.manifest["runtime"]["threads"] == 2


def test_files_are_held_against_flash(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetMissed) as caught:
        build(source, tmp_path / "out", budget=whet.Budget(flash="4KB"), measure=False)
    message = str(caught.value)
    size = (tmp_path / "out" / "model.onnx").stat().st_size
    assert f"flash is {size:,} bytes of files, the budget 4,000; the largest constants" in message
    assert "3,072" in message
    assert "1,536" in message
    with pytest.raises(BudgetMissed, match=r"the budget 4,096"):
        build(source, tmp_path / "out", device="raspberry-pi-4{flash=4KiB}")
    with pytest.raises(UsageError, match="a limit on flash needs a target that counts its bytes"):
        build(source, tmp_path / "r", target="reference", budget=whet.Budget(flash="4KB"))


def test_memory_that_nobody_plans_is_said_to_be_unchecked(source: Path, tmp_path: Path) -> None:
    made = build(source, tmp_path / "out", device="raspberry-pi-4{ram=1GB}")
    assert made.report is not None
    assert any("has 1,000,000,000 bytes of RAM" in note for note in made.report.notes)


def test_a_runtime_does_not_run_on_a_microcontroller(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedTarget, match=r"needs an operating system, 'cortex-m4'.*target c"
    ):
        build(source, tmp_path / "out", device="cortex-m4")


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="no arm-none-eabi-gcc")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc is installed")
def test_the_c_target_counts_the_code_of_the_device(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "here", target="c")
    build(source, tmp_path / "there", target="c", device="nrf52840")
    here, there = (
        json.loads((tmp_path / name / "model.json").read_text())["footprint"]
        for name in ("here", "there")
    )
    assert here["code"] != there["code"]
    assert "-mcpu=cortex-m4" in there["compiled"]
    assert "arm-none-eabi" in there["compiled"]
    makefile = (tmp_path / "there" / "Makefile").read_text()
    assert "DEVICE_CC = arm-none-eabi-gcc" in makefile
    assert "DEVICE_FLAGS = -mcpu=cortex-m4 -mthumb" in makefile
    report = json.loads((tmp_path / "there" / "report.json").read_text())
    assert (report["limits"]["ram"], report["limits"]["flash"]) == (262144, 1048576)
    with pytest.raises(BudgetMissed, match=r"RAM is 768 bytes of arena, the budget 512"):
        build(source, tmp_path / "tiny", target="c", device="nrf52840{ram=512}")


def test_code_is_not_counted_without_the_compiler_of_the_device(
    source: Path, tmp_path: Path
) -> None:
    device = dataclasses.replace(find_device("cortex-m4"), name="odd", compiler="no-such-gcc")
    made = build(source, tmp_path / "out", target="c", device=device)
    assert made.report is not None
    story = next(note for note in made.report.notes if note.startswith("flash:"))
    assert "code is not counted: no C compiler: no-such-gcc is not in PATH" in story


def test_an_older_runtime_gets_an_older_opset(tmp_path: Path) -> None:
    source = network(tmp_path / "net.onnx", "Gelu")
    made = build(source, tmp_path / "out", device="host{opset=17}", measure=False)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert model.opset_import[0].version == 17
    assert model.ir_version == 8
    assert made.report is not None
    assert made.report.worst_error < 1e-5
    assert "Gelu" not in {node.op_type for node in model.graph.node}
    other = build(source, tmp_path / "newer", measure=False)
    assert onnx.load(other.folder / "model.onnx").opset_import[0].version > 17


def test_weights_have_a_grid_whose_sums_cannot_overflow_there(source: Path, tmp_path: Path) -> None:
    found: dict[str, str] = {}
    for name in ("x86-64-v3", "raspberry-pi-5"):
        out = tmp_path / name
        build(source, out, device=name, recipe="quantize-dynamic{minimum=1,prefer=size}")
        tensors = onnx.load(out / "model.onnx").graph.initializer
        arrays = [onnx.numpy_helper.to_array(t) for t in tensors]
        (found[name],) = {str(a.dtype) for a in arrays if a.dtype.itemsize == 1 and a.size > 96}
    assert found == {"x86-64-v3": "uint8", "raspberry-pi-5": "int8"}


def test_the_file_of_the_documentation_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "devices.md").read_text()
    (block,) = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    path = tmp_path / "kiosk.toml"
    path.write_text(block)
    assert find_device(path).flash == 16_000_000
    assert all(f"`{name}`" in page for name in DEVICES)
