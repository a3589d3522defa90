"""Every error whet raises on purpose.

A message names the rule that was broken, the place, and the two values that disagree. Context (pass, step, model) is
added with :meth:`BaseException.add_note` by whoever knows it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whet.artifact import Artifact

__all__ = [
    "BrokenPass",
    "BudgetMissed",
    "CalibrationError",
    "CannotRun",
    "Impossible",
    "InvalidModel",
    "Mismatch",
    "NothingChanged",
    "UnsafeModel",
    "UnsupportedModel",
    "UnsupportedTarget",
    "UsageError",
    "WhetError",
]


class WhetError(Exception):
    """Is the base of every error that whet raises on purpose."""

    exit_code: int = 2


class UsageError(WhetError):
    """An option, a file name or an argument is wrong (exit code 2)."""


class CalibrationError(UsageError):
    """Calibration or evaluation data do not fit the model, or are not finite."""


class NothingChanged(UsageError):
    """A pass that was asked for changed nothing and the recipe does not say ``allow_noop``."""


class BudgetMissed(WhetError):
    """No measured result is inside the budget; the best artifact was written (exit code 3)."""

    exit_code = 3

    def __init__(self, message: str, artifact: "Artifact") -> None:
        """Carry the :class:`whet.Artifact` that came closest."""
        super().__init__(message)
        self.artifact = artifact


class Impossible(WhetError):
    """No choice of options keeps all limits (exit code 3)."""

    exit_code = 3

    def __init__(self, message: str, quantity: str, limit: float, best: float) -> None:
        """Carry the quantity, its limit, and the best value that the other limits leave room for."""
        super().__init__(message)
        self.quantity = quantity
        self.limit = limit
        self.best = best


class InvalidModel(WhetError):
    """The model breaks a rule of the IR, or the file is not a model (exit code 4)."""

    exit_code = 4


class UnsupportedModel(InvalidModel):
    """The model is valid, but something in it cannot be handled here."""


class UnsafeModel(InvalidModel):
    """Loading the model would run code or read outside its folder."""


class UnsupportedTarget(WhetError):
    """The target is unknown, not installed, or does not accept the model (exit code 4)."""

    exit_code = 4


class CannotRun(Exception):
    """A runtime refuses to load or to run a model; the message is its first line."""


class Mismatch(Exception):
    """Decline a rewrite: the pattern is there, but a condition does not hold."""


class BrokenPass(WhetError):
    """A pass broke its own contract: invalid output, a budget overrun, an untrue declaration."""

    exit_code = 1
