"""The parts of TVM that are used, in one place: the package is an extra, and carries no types."""

import importlib
import os
from typing import Any

__all__ = [
    "Expr",
    "IRBuilder",
    "T",
    "relax",
    "s_tir",
    "structural_walk",
    "te",
    "tirx",
    "topi",
    "tvm",
]

Expr = Any
"""An expression of TIR or Relax."""

# Without it TVM imports torch, where there is one, and compiles an extension for it.
os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")
tvm: Any = importlib.import_module("tvm")
relax: Any = importlib.import_module("tvm.relax")
te: Any = importlib.import_module("tvm.te")
tirx: Any = importlib.import_module("tvm.tirx")
topi: Any = importlib.import_module("tvm.topi")
s_tir: Any = importlib.import_module("tvm.s_tir")
T: Any = importlib.import_module("tvm.tirx.script.builder")
IRBuilder: Any = importlib.import_module("tvm.script.ir_builder").IRBuilder
structural_walk: Any = importlib.import_module("tvm_ffi").structural_walk
