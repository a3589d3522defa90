"""All that a pass of your own needs, in one place.

A pass in ``mypackage/mypasses.py`` runs by name, without being installed or registered::

    whet compile model.onnx -o out --recipe 'mypackage.mypasses:DropScale,exact'

A package that offers passes names them under the group ``whet.passes`` of its entry points; then ``whet passes`` lists
them.
"""

from whet.errors import Mismatch
from whet.ir.values import constant, static_shape
from whet.passes.base import Change, Coverage, Damage, Fidelity, Pass
from whet.passes.pattern import Match, maybe, one_of, op, var, weight
from whet.passes.proposal import Builder, Proposal
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

__all__ = [
    "Builder",
    "Change",
    "Coverage",
    "Damage",
    "Fidelity",
    "Match",
    "Mismatch",
    "Pass",
    "Proposal",
    "Rewrite",
    "Workbench",
    "constant",
    "maybe",
    "one_of",
    "op",
    "static_shape",
    "var",
    "weight",
]
