"""What the user can afford."""

import dataclasses
import re

from whet.errors import UsageError

__all__ = [
    "Budget",
    "parse_bytes",
    "parse_drop",
    "parse_milliseconds",
    "parse_seconds",
    "parse_size",
]


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits on the result: accuracy drop, bytes on disk, milliseconds a run."""

    drop: float | str | None = None
    """Largest loss of the metric, absolute: 0.01 or ``"1%"``."""
    size: int | str | None = None
    """Bytes, ``"4MB"``, ``"300KiB"``, or a share of the source, ``"25%"``."""
    latency: float | str | None = None
    """Milliseconds, ``"3ms"`` or ``"250us"``."""
    ram: int | str | None = None
    """Bytes of working memory, ``"256KB"``; for targets that plan it (``c``)."""
    flash: int | str | None = None
    """Bytes of constants and code, ``"1MB"``, for ``c``; of files for ``onnxruntime``."""

    def __post_init__(self) -> None:
        """Read every limit once, so that a mistake shows before any work is done."""
        self.limits(1)
        _ = self.device

    def __bool__(self) -> bool:
        """Tell whether anything is limited that a mixture can be searched for."""
        return any(v is not None for v in (self.drop, self.size, self.latency))

    def limits(self, source_bytes: int) -> tuple[float | None, int | None, float | None]:
        """Return (drop, bytes, milliseconds) as numbers."""
        return (
            None if self.drop is None else parse_drop(self.drop),
            None if self.size is None else parse_size(self.size, source_bytes),
            None if self.latency is None else parse_milliseconds(self.latency),
        )

    @property
    def device(self) -> tuple[int | None, int | None]:
        """Return what the device has: bytes of RAM and of flash; None is not limited."""
        return (
            None if self.ram is None else parse_bytes(self.ram, "ram", "256KB or 64KiB"),
            None if self.flash is None else parse_bytes(self.flash, "flash", "1MB or 512KiB"),
        )


_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


def parse_drop(value: float | str) -> float:
    """Read ``"1%"`` or ``0.01``."""
    number, unit = _split(value, "drop", "1% or 0.01")
    if unit not in {"", "%"}:
        raise UsageError(f"drop is '{value}', expected a share such as 1% or 0.01")
    return number / 100 if unit == "%" else number


def parse_size(value: int | str, source_bytes: int) -> int:
    """Read ``"4MB"``, ``"300KiB"``, ``"25%"`` of the source, or bytes."""
    number, unit = _split(value, "size", "4MB, 300KiB or 25%")
    if unit == "%":
        return int(source_bytes * number / 100)
    if unit not in _UNITS:
        raise UsageError(
            f"size is '{value}', expected one of the units {', '.join(filter(None, _UNITS))} or %"
        )
    return int(number * _UNITS[unit])


def parse_bytes(value: int | str, what: str, example: str) -> int:
    """Read ``"4MB"``, ``"300KiB"`` or bytes; ``what`` and ``example`` are for the error."""
    number, unit = _split(value, what, example)
    if unit not in _UNITS or number <= 0:
        units = ", ".join(filter(None, _UNITS))
        raise UsageError(
            f"{what} is '{value}', expected more than zero in one of the units {units}"
        )
    return int(number * _UNITS[unit])


def parse_milliseconds(value: float | str) -> float:
    """Read ``"3ms"``, ``"250us"``, ``"0.1s"`` or milliseconds."""
    number, unit = _split(value, "latency", "3ms or 250us")
    scale = {"": 1.0, "ms": 1.0, "us": 1e-3, "s": 1e3}
    if unit not in scale:
        raise UsageError(f"latency is '{value}', expected one of the units us, ms, s")
    return number * scale[unit]


def parse_seconds(value: str, what: str) -> float:
    """Read ``"10min"``, ``"90s"`` or ``"1h"``; ``what`` is for the error."""
    number, unit = _split(value, what, "10min")
    scale = {"s": 1.0, "min": 60.0, "h": 3600.0}
    if unit not in scale or number <= 0:
        raise UsageError(
            f"{what} is '{value}', expected more than zero in one of the units s, min, h"
        )
    return number * scale[unit]


def _split(value: float | str, what: str, example: str) -> tuple[float, str]:
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z%]*)\s*", str(value))
    if found is None:
        raise UsageError(f"{what} is '{value}', expected something like {example}")
    return float(found.group(1)), found.group(2).lower()
