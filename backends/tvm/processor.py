"""Which processor the target's options and the device mean together; both say the same, or one of them nothing."""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence

from whet.backends.device import Device, host
from whet.backends.triples import plain_triple, triple_of
from whet.errors import UnsupportedTarget, UsageError

__all__ = ["EXTENSIONS", "Processor", "agreed", "find_linker"]

EXTENSIONS = {
    "avx2": "avx2", "avx512f": "avx512f", "avx512_vnni": "avx512vnni", "avx_vnni": "avxvnni",
    "amx_int8": "amx-int8", "amx_bf16": "amx-bf16", "asimddp": "dotprod", "i8mm": "i8mm", "sve": "sve",
}  # fmt: skip
"""Vector extensions as Linux spells them, and as LLVM does."""
_LEVELS = (("avx512f", "x86-64-v4"), ("avx2", "x86-64-v3"), ("", "x86-64"))

_ELSEWHERE = 4
"""Threads that the work is divided for on a machine that says nothing about its own."""


@dataclasses.dataclass(frozen=True)
class Processor:
    """What code is made for, in LLVM's words; all empty for the processor of this machine."""

    cpu: str
    triple: str
    features: str
    threads: int


def agreed(options: Mapping[str, str], device: Device) -> Processor:
    """Return the processor; raises UsageError where an option and the device contradict each other."""
    own = str(device.threads or "")
    threads = int(_one(options, "threads", own, device) or _processors(device))
    if device.here:
        return Processor(options["cpu"], options["triple"], options["features"], threads)
    triple = triple_of(device)
    if not triple:
        raise UnsupportedTarget(
            f"target 'tvm' writes for x86_64 and aarch64, the device '{device.name}' is {device.isa[0]}"
        )
    if options["triple"] and plain_triple(options["triple"]) != triple:
        raise UsageError(f"triple is '{options['triple']}', the device '{device.name}' is {triple}")
    cpu = _one(options, "cpu", _stated(device), device) or _level(device)
    # The plainest machine of a kind says only what all of them have.
    plainest = device.name == triple
    for name, spelled in EXTENSIONS.items():
        wanted = f"+{spelled}" in options["features"].split(",")
        if wanted and name not in device.isa and not plainest:
            raise UsageError(
                f"features of the target have '+{spelled}', the device '{device.name}' has no {name}"
            )
    features = options["features"]
    if not options["cpu"]:
        known = [f"+{EXTENSIONS[name]}" for name in device.isa if name in EXTENSIONS]
        features = ",".join(filter(None, (*known, features)))
    return Processor(cpu, triple, features, threads)


def _processors(device: Device) -> int:
    return (os.cpu_count() or 1) if device.here else _ELSEWHERE


def _one(options: Mapping[str, str], key: str, own: str, device: Device) -> str:
    """Return what the options or the device say; raises UsageError if they differ."""
    given = options[key]
    if given and own and given != own:
        raise UsageError(
            f"{key} of the target is '{given}', the device '{device.name}' has '{own}'"
        )
    return given or own


def _stated(device: Device) -> str:
    """Return the core that a device's compiler is told; empty if it is told none."""
    # On Arm -march names an architecture, on x86 a processor.
    prefix = "-mcpu=" if triple_of(device).startswith("aarch64") else "-march="
    found = (flag.removeprefix(prefix) for flag in device.flags if flag.startswith(prefix))
    return next(found, "")


def _level(device: Device) -> str:
    """Return LLVM's name for what the extensions amount to."""
    if triple_of(device).startswith("aarch64"):
        return ""
    return next(level for name, level in _LEVELS if not name or name in device.isa)


def find_linker(options: Mapping[str, str], device: Device) -> str:
    """Return the compiler that links for a device: the option, the device's own, the triple's, or this machine's.

    Raises:
        UnsupportedTarget: it is not installed.
    """
    names = [options["cc"]] if options["cc"] else _linkers(device)
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        triple = triple_of(device)
        package = f"gcc-{triple.replace('_', '-')}" if triple != triple_of(host()) else "gcc"
        are = "is" if len(names) == 1 else "are"
        raise UnsupportedTarget(
            f"target 'tvm' links its library with {' or '.join(names)}, which {are} not here: install it "
            f"(Debian: {package}), or name another one: tvm{{cc=…}}"
        )
    return found


def _linkers(device: Device) -> Sequence[str]:
    triple = triple_of(device)
    if device.here or triple == triple_of(host()):
        return ("g++", "gcc", "cc", "clang")
    return tuple(dict.fromkeys(filter(None, (device.compiler, f"{triple}-gcc"))))
