"""The emitters of the target ``tvm``."""

from typing import TYPE_CHECKING

from whet.backends.emitters import Decline, Emitters

if TYPE_CHECKING:
    from whet.backends.tvm.lowering import Lowering

__all__ = ["Decline", "emits", "limits", "refusal", "registered"]

_EMITTERS: "Emitters[Lowering]" = Emitters("tvm")
emits, limits, refusal, registered = (
    _EMITTERS.emits,
    _EMITTERS.limits,
    _EMITTERS.refusal,
    _EMITTERS.registered,
)
