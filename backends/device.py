"""The machine that a result will run on: the one whet runs on, or another one that is described."""

import dataclasses
import difflib
import functools
import platform
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.budget import parse_bytes
from whet.errors import UsageError

__all__ = ["DEVICES", "Device", "find_device", "host"]

_ISA = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "sve",
)  # fmt: skip
_OPSETS = (
    ((1, 7), 13), ((1, 8), 14), ((1, 9), 15), ((1, 11), 16), ((1, 12), 17), ((1, 14), 18), ((1, 15), 19),
    ((1, 17), 20), ((1, 18), 21), ((1, 21), 22), ((1, 23), 23),
)  # fmt: skip
"""The first version of ONNX Runtime that implements an opset whole."""


@dataclasses.dataclass(frozen=True)
class Device:
    """What decisions need to know of a machine; every field is used by a target or a pass."""

    name: str
    isa: tuple[str, ...]
    """The architecture, then the vector extensions that integer kernels depend on, as Linux spells them."""
    threads: int = 0
    """Threads that a model may use there, stored in the artifact; 0 leaves it to the runtime."""
    ram: int | None = None
    flash: int | None = None
    """Bytes that a model may take of the device; None does not limit."""
    opset: int | None = None
    """The newest opset that the runtime there takes; None does not limit."""
    onnxruntime: str = ""
    """The version of ONNX Runtime there; empty is the one that is installed here."""
    compiler: str = ""
    """The C compiler for the device, a cross compiler for example; empty is the one of this machine."""
    flags: tuple[str, ...] = ()
    """What the C compiler is told about the processor."""
    here: bool = False
    """Whether this is the machine that whet runs on: only then its milliseconds are the device's."""

    @property
    def bare(self) -> bool:
        """Tell whether it is a microcontroller, which no runtime runs on."""
        return self.isa[0].endswith("-m") or self.isa[0].startswith("riscv32")

    @property
    def saturates(self) -> bool:
        """Tell whether products of uint8 and int8 are added in pairs in 16 bits there, where they can overflow."""
        exact = {"avx512_vnni", "avx_vnni", "amx_int8"}
        return self.isa[0] in {"x86_64", "AMD64", "i686"} and not exact & set(self.isa)

    @property
    def newest_opset(self) -> int | None:
        """Return the newest opset that both ``opset`` and ``onnxruntime`` allow; raises UsageError."""
        limits = [self.opset, _implemented(self.onnxruntime) if self.onnxruntime else None]
        return min((limit for limit in limits if limit is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, without what is not said."""
        data = dataclasses.asdict(self)
        return {key: value for key, value in data.items() if value not in (None, "", 0, (), False)}


def _detected() -> tuple[str, ...]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return (platform.machine(),)
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    flags = set(next(lines, "").split())
    return (platform.machine(), *(name for name in _ISA if name in flags))


@functools.cache
def host() -> Device:
    """Return the machine that whet runs on."""
    return Device("host", _detected(), here=True)


def _cortex(name: str, architecture: str) -> Device:
    flags = (f"-mcpu={name}", "-mthumb")
    return Device(name, (architecture,), 1, compiler="arm-none-eabi-gcc", flags=flags)


def _pi(name: str, core: str, *extensions: str) -> Device:
    isa = ("aarch64", *extensions)
    return Device(name, isa, 4, compiler="aarch64-linux-gnu-gcc", flags=(f"-mcpu={core}",))


def _board(name: str, core: str, ram: int, flash: int) -> Device:
    return dataclasses.replace(_CORES[core], name=name, ram=ram * 1024, flash=flash * 1024)


_CORES: dict[str, Device] = {
    device.name: device
    for device in (
        _cortex("cortex-m0plus", "armv6-m"),
        _cortex("cortex-m3", "armv7-m"),
        _cortex("cortex-m4", "armv7e-m"),
        _cortex("cortex-m7", "armv7e-m"),
        _cortex("cortex-m33", "armv8-m"),
        _pi("raspberry-pi-4", "cortex-a72", "asimd"),
        _pi("raspberry-pi-5", "cortex-a76", "asimd", "asimddp"),
        Device("aarch64-linux-gnu", ("aarch64", "asimd"), compiler="aarch64-linux-gnu-gcc"),
        Device("x86_64-linux-gnu", ("x86_64",), compiler="x86_64-linux-gnu-gcc"),
        Device("x86-64-v3", ("x86_64", "avx2"), flags=("-march=x86-64-v3",)),
        Device("x86-64-v4", ("x86_64", "avx2", "avx512f"), flags=("-march=x86-64-v4",)),
    )
}  # fmt: skip
"""Processor cores and levels, and the plainest machines of a triple, none of which has limits."""
DEVICES: Mapping[str, Device] = _CORES | {
    board.name: board
    for board in (
        _board("rp2040", "cortex-m0plus", 264, 2048),
        _board("stm32f407", "cortex-m4", 192, 1024),
        _board("nrf52840", "cortex-m4", 256, 1024),
        _board("stm32h743", "cortex-m7", 1024, 2048),
    )
}
"""What is known by name: these, and boards with the memory they have."""


def find_device(spelled: "str | Path | Device") -> Device:
    """Return ``host``, a device by name, or what a TOML file says, each also with ``{key=value,…}`` behind it.

    Raises:
        UsageError: an unknown device, key or value.
    """
    if isinstance(spelled, Device):
        return spelled
    found = re.fullmatch(r"\s*([^{}]+?)\s*(?:\{([^{}]*)\})?\s*", str(spelled))
    if found is None:
        raise UsageError(f"device is '{spelled}', expected NAME, FILE.toml or NAME{{key=value}}")
    device = _named(found.group(1))
    changes: dict[str, object] = {}
    for part in filter(None, (p.strip() for p in (found.group(2) or "").split(","))):
        key, sign, value = part.partition("=")
        if not sign:
            raise UsageError(f"key '{part}' of device '{device.name}' has no value: {part}=…")
        changes[key.strip()] = value.strip()
    return _changed(device, changes, device.name)


def _named(name: str) -> Device:
    if name == "host":
        return host()
    if name in DEVICES:
        return DEVICES[name]
    if not name.endswith(".toml"):
        known = ["host", *DEVICES]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        raise UsageError(f"unknown device '{name}'; {hint} (or a FILE.toml)")
    try:
        data = tomllib.loads(Path(name).read_text())
    except OSError as error:
        raise UsageError(f"cannot read the device '{name}': {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the device '{name}' is not TOML: {error}") from error
    base = str(data.pop("base", ""))
    if not base and "isa" not in data:
        raise UsageError(f"'{name}' says neither isa nor base, the device that it resembles")
    start = _named(base) if base else Device("", ("",))
    # What a file describes is another machine, however much it resembles this one.
    start = dataclasses.replace(start, name=Path(name).stem, here=False)
    return _changed(start, data, name)


def _changed(device: Device, changes: Mapping[str, object], place: str) -> Device:
    known = [f.name for f in dataclasses.fields(Device) if f.name != "here"]
    for key in changes:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
            raise UsageError(f"unknown key '{key}' of the device '{place}'; {hint}")
    read = {key: _READERS[key](key, value, place) for key, value in changes.items()}
    # Milliseconds belong to the vector units and the runtime that they were measured on.
    here = device.here and not {"isa", "onnxruntime"} & read.keys()
    made = dataclasses.replace(device, **read, here=here)
    if made.newest_opset is not None and made.newest_opset < 7:
        raise UsageError(
            f"opset of the device '{place}' is {made.newest_opset}, expected 7 or more"
        )
    return made


def _text(key: str, value: object, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{key} of the device '{place}' is {value!r}, expected text")
    return value


def _words(key: str, value: object, place: str) -> tuple[str, ...]:
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(w, str) and w for w in words):
        raise UsageError(f"{key} of the device '{place}' is {value!r}, expected words")
    if not words and key == "isa":
        raise UsageError(f"isa of the device '{place}' is empty, expected an architecture first")
    return tuple(words)


def _count(key: str, value: object, place: str) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal():
        raise UsageError(f"{key} of the device '{place}' is {value!r}, expected a whole number")
    return int(text)


def _bytes(key: str, value: object, place: str) -> int:
    return parse_bytes(str(value), f"{key} of the device '{place}'", "256KB or 64KiB")


def _version(key: str, value: object, place: str) -> str:
    text = str(value)
    if not re.fullmatch(r"\d+\.\d+(\.\w+)*", text):
        raise UsageError(f"{key} of the device '{place}' is {value!r}, expected a version (1.17)")
    _implemented(text)
    return text


_READERS: Mapping[str, Any] = {
    "name": _text,
    "isa": _words,
    "threads": _count,
    "ram": _bytes,
    "flash": _bytes,
    "opset": _count,
    "onnxruntime": _version,
    "compiler": _text,
    "flags": _words,
}


def _implemented(version: str) -> int:
    """Return the newest opset that a version of ONNX Runtime implements whole, as far as is known here."""
    major, minor = (int(part) for part in version.split(".")[:2])
    found = [opset for first, opset in _OPSETS if first <= (major, minor)]
    if not found:
        oldest = ".".join(str(part) for part in _OPSETS[0][0])
        raise UsageError(f"onnxruntime is {version}, expected {oldest} or newer")
    return found[-1]
