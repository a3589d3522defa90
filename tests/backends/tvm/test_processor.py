"""What options and devices mean together, and the two values where they contradict each other."""

import os
from pathlib import Path

import pytest

from whet.backends.base import find_target
from whet.backends.device import Device, find_device, host
from whet.backends.tvm.processor import Processor, agreed, find_linker
from whet.backends.tvm.target import Tvm
from whet.errors import UnsupportedTarget, UsageError


def found(device: str | Device, **options: str) -> Processor:
    return agreed({**Tvm.defaults, **options}, find_device(device))


def test_this_machine_says_nothing() -> None:
    assert found("host") == Processor("", "", "", os.cpu_count() or 1)
    assert found("host{threads=3}").threads == 3
    assert found("host", cpu="haswell", threads="2") == Processor("haswell", "", "", 2)


@pytest.mark.parametrize(
    ("device", "cpu", "features", "threads"),
    [
        ("aarch64-linux-gnu", "", "", 4),
        ("raspberry-pi-4", "cortex-a72", "", 4),
        ("raspberry-pi-5{threads=2}", "cortex-a76", "+dotprod", 2),
        ("x86_64-linux-gnu", "x86-64", "", 4),
        ("x86-64-v3", "x86-64-v3", "+avx2", 4),
        ("host{isa=x86_64 avx2 avx512f avx512_vnni}", "x86-64-v4", "+avx2,+avx512f,+avx512vnni", 4),
        ("host{isa=aarch64 asimd asimddp i8mm}", "", "+dotprod,+i8mm", 4),
    ],
)
def test_devices_say_what_options_leave_open(
    device: str, cpu: str, features: str, threads: int
) -> None:
    triple = "x86_64-linux-gnu" if "x86" in device else "aarch64-linux-gnu"
    assert found(device) == Processor(cpu, triple, features, threads)


def test_options_say_more_than_a_device_that_is_silent() -> None:
    plain = found("aarch64-linux-gnu", cpu="cortex-a76", threads="8")
    assert plain == Processor("cortex-a76", "aarch64-linux-gnu", "", 8)
    assert found("raspberry-pi-4", cpu="cortex-a72", features="+crc").features == "+crc"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("cpu", "cortex-a53", "cpu of the target is 'cortex-a53', the device 'raspberry-pi-4' has 'cortex-a72'"),
        ("threads", "2", "threads of the target is '2', the device 'raspberry-pi-4' has '4'"),
        ("triple", "x86_64-linux-gnu", "triple is 'x86_64-linux-gnu', the device 'raspberry-pi-4' is aarch64-linux-gnu"),  # noqa: E501
        ("features", "+dotprod", "features of the target have '+dotprod', the device 'raspberry-pi-4' has no asimddp"),
    ],
)  # fmt: skip
def test_contradictions_are_named(option: str, value: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_target(f"tvm{{{option}={value}}}").on(find_device("raspberry-pi-4"))
    assert str(caught.value) == words


def test_machines_without_a_system_or_of_other_kinds_are_refused() -> None:
    with pytest.raises(UnsupportedTarget, match="needs an operating system, 'cortex-m4'"):
        Tvm().on(find_device("cortex-m4"))
    with pytest.raises(
        UnsupportedTarget, match="for x86_64 and aarch64, the device 'host' is armv7l"
    ):
        Tvm().on(find_device("host{isa=armv7l neon}"))
    with pytest.raises(UsageError, match="triple is 'armv7l-linux-gnueabihf', expected one of"):
        find_target("tvm{triple=armv7l-linux-gnueabihf}")


def test_the_linker_comes_from_option_device_or_triple(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("aarch64-linux-gnu-gcc", "special-gcc", "gcc"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    plain = dict(Tvm.defaults)
    place = find_device("aarch64-linux-gnu")
    assert Path(find_linker(plain, place)).name == "aarch64-linux-gnu-gcc"
    assert Path(find_linker({**plain, "cc": "special-gcc"}, place)).name == "special-gcc"
    assert Path(find_linker(plain, host())).name == "gcc"
    (tmp_path / "aarch64-linux-gnu-gcc").unlink()
    with pytest.raises(
        UnsupportedTarget, match="aarch64-linux-gnu-gcc, which is not here"
    ) as caught:
        find_linker(plain, find_device("raspberry-pi-4"))  # fmt: skip
    assert "Debian: gcc-aarch64-linux-gnu" in str(caught.value)
    assert "aarch64-linux-gnu-gcc" in Tvm().on(place).missing()
