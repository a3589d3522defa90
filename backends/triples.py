"""Kinds of machines as compilers name them: ``aarch64-linux-gnu``."""

from pathlib import Path

from whet.backends.device import Device, find_device
from whet.errors import UsageError

__all__ = ["find_place", "plain_triple", "triple_of"]

_ARCHITECTURES = {"aarch64": "aarch64", "arm64": "aarch64", "x86_64": "x86_64", "AMD64": "x86_64"}
_SYSTEM = "linux-gnu"


def plain_triple(spelled: str) -> str:
    """Return a triple as Debian's compilers begin with it, a vendor left out; raises UsageError for other machines."""
    architecture, _, rest = spelled.strip().partition("-")
    known = sorted({f"{name}-{_SYSTEM}" for name in _ARCHITECTURES.values()})
    if architecture not in _ARCHITECTURES or not f"-{rest}".endswith(f"-{_SYSTEM}"):
        raise UsageError(f"triple is '{spelled}', expected one of {', '.join(known)}")
    return f"{_ARCHITECTURES[architecture]}-{_SYSTEM}"


def triple_of(device: Device) -> str:
    """Return the triple of a device; empty where it runs no Linux, or one that is not known here."""
    architecture = _ARCHITECTURES.get(device.isa[0], "")
    return f"{architecture}-{_SYSTEM}" if architecture else ""


def find_place(device: "str | Path | Device", triple: str = "") -> Device:
    """Return the device that results will run on; a triple alone is the plainest machine of its kind.

    Raises:
        UsageError: an unknown device or triple, or two that contradict each other.
    """
    found = find_device(device)
    if not triple:
        return found
    wanted = plain_triple(triple)
    if found.name == "host" and found.here:
        return find_device(wanted)
    if triple_of(found) != wanted:
        own = triple_of(found) or found.isa[0]
        raise UsageError(f"triple is '{triple}', the device '{found.name}' is {own}")
    return found
